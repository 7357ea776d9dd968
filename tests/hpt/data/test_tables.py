"""Tables of images: parquet as people and `datasets` write it, and what `datasets` saves."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from small_images import noise_png

from hpt.config import DataConfig
from hpt.data.dataset import load
from hpt.data.listing import Listing
from hpt.data.names import find, list_images
from hpt.errors import DataError

CONFIG = DataConfig()
pytestmark = pytest.mark.usefixtures("own_cache")


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FEATURES = {
    "image": {"_type": "Image"},
    "label": {"names": ["cat", "dog", "owl"], "_type": "ClassLabel"},
}


def table(numbers: range, *, labels: list[Any] | None = None, features: dict[str, Any] | None = None) -> pa.Table:
    """As `datasets` writes it: the image as a struct, and the names of the classes in the schema."""
    images = [{"bytes": noise_png(n), "path": f"{n}.png"} for n in numbers]
    columns = {"image": pa.array(images, IMAGE), "label": pa.array(labels or [n % 3 for n in numbers], pa.int64())}
    found = pa.table(columns)
    described = {"info": {"features": FEATURES if features is None else features}}
    return found.replace_schema_metadata({"huggingface": json.dumps(described)})


def listing(dataset: Path | str, config: DataConfig = CONFIG) -> Listing:
    return list_images(find(str(dataset)), None, config)


def test_a_dataset_of_the_hub_is_read_with_its_splits_and_classes(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for part in range(2):
        numbers = range(10 * part, 10 * part + 10)
        pq.write_table(table(numbers), tmp_path / "data" / f"train-0000{part}-of-00002.parquet", row_group_size=4)
    pq.write_table(table(range(20, 26), labels=[-1] * 6), tmp_path / "data" / "test-00000-of-00001.parquet")
    (tmp_path / "README.md").write_text("a card")
    found = listing(tmp_path)
    assert found.classes == ("cat", "dog", "owl")
    assert found.names[0] == "data/test-00000-of-00001/00000000.png"
    assert found.splits == ("test",) * 6 + ("train",) * 20
    assert found.labels.tolist() == [-1] * 6 + [n % 3 for n in range(20)]
    data = load(str(tmp_path), CONFIG, side=64)
    for number, row in ((0, 6), (13, 19), (19, 25)):
        expected = np.asarray(Image.open(io.BytesIO(noise_png(number)))).transpose(2, 0, 1)
        assert np.array_equal(data.images.batch([row]).image(0).numpy(), expected)


def test_plain_bytes_and_texts_are_images_and_classes(tmp_path: Path) -> None:
    columns = {"photo": [noise_png(n) for n in range(6)], "class": ["b", "a", "b"] * 2, "width": [9] * 6}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    found = listing(tmp_path / "a.parquet")
    assert (found.classes, found.labels.tolist()) == (("a", "b"), [1, 0, 1] * 2)
    assert "columns not used: 'width'" in found.notes[0].text


def test_lists_are_several_labels(tmp_path: Path) -> None:
    columns = {"image": [noise_png(n) for n in range(3)], "labels": [["x"], [], ["x", "y"]]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    found = listing(tmp_path / "a.parquet")
    assert (found.classes, found.labels.tolist()) == (("x", "y"), [[1, 0], [0, 0], [1, 1]])


def test_what_datasets_saves_is_read_where_it_lies(tmp_path: Path) -> None:
    for split, numbers in (("train", range(9)), ("test", range(9, 15))):
        folder = tmp_path / "saved" / split
        folder.mkdir(parents=True)
        (folder / "state.json").write_text("{}")
        rows = table(numbers)
        with (
            pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file,
            pa.ipc.new_stream(file, rows.schema) as out,
        ):
            out.write_table(rows, max_chunksize=4)
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    found = listing(tmp_path / "saved")
    assert found.classes == ("cat", "dog", "owl")
    assert found.splits == ("test",) * 6 + ("train",) * 9
    with found.source.open() as read:
        assert [read(name) for name in found.names] == [noise_png(n) for n in (*range(9, 15), *range(9))]


def no_image(path: Path) -> DataConfig:
    pq.write_table(pa.table({"text": ["a"], "label": [0]}), path)
    return CONFIG


def misspelt(path: Path) -> DataConfig:
    pq.write_table(pa.table({"photo": [noise_png(0)], "label": [0]}), path)
    return DataConfig(image_column="photos")


def two_images(path: Path) -> DataConfig:
    pq.write_table(pa.table({"left": [noise_png(0)], "right": [noise_png(1)]}), path)
    return CONFIG


def no_bytes(path: Path) -> DataConfig:
    pq.write_table(pa.table({"photo": [noise_png(0)], "label": [0]}), path)
    return DataConfig(image_column="label")


def two_labels(path: Path) -> DataConfig:
    pq.write_table(pa.table({"image": [noise_png(0)], "fine_label": [0], "category": [1]}), path)
    return CONFIG


def wrong_label(path: Path) -> DataConfig:
    pq.write_table(pa.table({"image": [noise_png(0)], "label": [0.5]}), path)
    return CONFIG


def truncated(path: Path) -> DataConfig:
    pq.write_table(table(range(5)), path)
    path.write_bytes(path.read_bytes()[:-20])
    return CONFIG


def beyond(path: Path) -> DataConfig:
    pq.write_table(table(range(3), labels=[0, 1, 7]), path)
    return CONFIG


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (no_image, r"no column of images: its columns are text \(string\), label \(int64\).*data\.image_column"),
        (misspelt, r"no column 'photos' \(did you mean 'photo'\?\)"),
        (two_images, r"2 columns that may be the images: 'left', 'right'; .*data\.image_column=left"),
        (no_bytes, r"the column 'label' holds no images but int64"),
        (two_labels, r"2 columns that may be the labels: 'fine_label', 'category'"),
        (wrong_label, r"the column 'label' holds no labels but double"),
        (truncated, r"a\.parquet is no whole table: "),
        (beyond, r"a label is 7, and the classes are 3"),
    ],
)
def test_what_is_unclear_or_damaged_is_one_line(make: Any, said: str, tmp_path: Path) -> None:
    config = make(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=said) as error:
        listing(tmp_path / "a.parquet", config)
    assert "\n" not in str(error.value)


def test_a_column_is_chosen_by_name(tmp_path: Path) -> None:
    columns = {"left": [noise_png(0)], "right": [noise_png(1)], "fine_label": ["a"], "category": ["b"]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    found = listing(tmp_path / "a.parquet", DataConfig(image_column="right", label_column="category"))
    assert found.classes == ("b",)
    with found.source.open() as read:
        assert read(found.names[0]) == noise_png(1)


def test_an_image_without_bytes_is_named_and_left_out(tmp_path: Path) -> None:
    images = [{"bytes": noise_png(n) if n else None, "path": f"gone/{n}.png"} for n in range(4)]
    pq.write_table(pa.table({"image": pa.array(images, IMAGE)}), tmp_path / "a.parquet")
    data = load(str(tmp_path / "a.parquet"), DataConfig(max_unreadable=0.5), side=64)
    assert data.quarantined == (("a/00000000.png", "the table has the path gone/0.png and no bytes"),)
