"""Masks in every layout, as folder and zip: the same classes of pixels, never interpolated, in the same splits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from annotated_folders import (
    HEIGHT,
    MASK_LAYOUTS,
    MASKED,
    WIDTH,
    index_mask,
    jpeg,
    mask_numbers,
    masks_coloured,
    masks_splits_first,
    text,
    write_json,
    zipped,
)
from PIL import Image

from hpt.config import DataConfig
from hpt.data import cache_store
from hpt.data.dataset import load as load_images
from hpt.dense.dataset import DenseDataset, load
from hpt.dense.targets import IGNORED
from hpt.errors import DataError

pytestmark = pytest.mark.usefixtures("own_cache")
CONFIG = DataConfig()


def masks_of(path: Path, side: int = 300, config: DataConfig = CONFIG) -> DenseDataset:
    return load(str(path), "segmentation", config, side=side)


def stems(data: DenseDataset) -> dict[str, list[str]]:
    names = data.dataset.images.names
    return {split: [Path(names[row]).stem for row in rows] for split, rows in data.dataset.splits.items()}


def expected(stem: str) -> np.ndarray:
    numbers = mask_numbers(stem)
    return np.where(numbers == 2, IGNORED, numbers)


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("layout", MASK_LAYOUTS.values(), ids=list(MASK_LAYOUTS))
def test_every_layout_gives_the_same_masks_in_the_same_splits(
    tmp_path: Path, layout: Callable[[Path], None], packed: bool
) -> None:
    layout(tmp_path / "set")
    data = masks_of(zipped(tmp_path / "set") if packed else tmp_path / "set")
    assert data.classes == ("sky", "road")
    assert stems(data) == MASKED
    for rows in data.dataset.splits.values():
        for row in rows.tolist():
            mask = data.mask(row)
            assert mask.dtype == np.uint8
            assert (mask == expected(Path(data.dataset.images.names[row]).stem)).all()
    first = expected(Path(data.dataset.images.names[0]).stem)
    assert data.pixels[0].tolist() == [*(int((first == kind).sum()) for kind in (0, 1, IGNORED)), 0]
    with pytest.raises(TypeError):
        data.boxes(0)


@pytest.mark.parametrize("layout", MASK_LAYOUTS.values(), ids=list(MASK_LAYOUTS))
def test_a_pretraining_on_it_has_the_same_images_in_the_same_splits(
    tmp_path: Path, layout: Callable[[Path], None]
) -> None:
    layout(tmp_path / "set")
    plain = load_images(str(tmp_path / "set"), CONFIG, side=15)
    data = masks_of(tmp_path / "set", side=15)
    assert plain.images.names == data.dataset.images.names
    assert plain.split_fingerprint == data.dataset.split_fingerprint


def test_a_reduction_takes_the_nearest_pixel_and_the_size_of_its_image(tmp_path: Path) -> None:
    masks_splits_first(tmp_path / "set")
    data = masks_of(tmp_path / "set", side=11)
    for row in range(6):
        mask = data.mask(row)
        assert mask.shape == tuple(data.dataset.images.sizes[row]) == (11, 11 * WIDTH // HEIGHT)
        assert set(np.unique(mask).tolist()) <= {0, 1, IGNORED}
    assert data.enlarged(0) == pytest.approx(WIDTH / 14)


def test_masks_and_images_are_decoded_once(tmp_path: Path) -> None:
    masks_splits_first(tmp_path / "set")
    first = masks_of(tmp_path / "set")
    entries = {stored.path: stored.used for stored in cache_store.entries()}
    assert len(entries) == 2
    again = masks_of(tmp_path / "set")
    assert {stored.path for stored in cache_store.entries()} == set(entries)
    assert again.dataset.fingerprint == first.dataset.fingerprint


def test_the_fingerprint_is_that_of_the_masks_too(tmp_path: Path) -> None:
    masks_splits_first(tmp_path / "set")
    before = masks_of(tmp_path / "set").dataset.fingerprint
    index_mask(tmp_path / "set" / "train" / "masks" / "a.png", "d")
    after = masks_of(tmp_path / "set").dataset.fingerprint
    text(tmp_path / "set" / "classes.txt", "sky\nstreet\nvoid\n")
    assert len({before, after, masks_of(tmp_path / "set").dataset.fingerprint}) == 3


def test_a_mask_of_another_size_is_refused_by_name_or_left_out(tmp_path: Path) -> None:
    masks_splits_first(tmp_path / "set")
    Image.fromarray(mask_numbers("a")[:, 1:]).save(tmp_path / "set" / "train" / "masks" / "a.png")
    message = r"1 of 6 masks of set do not fit.*a.png has 39 x 30 pixels, and the image 40 x 30\); make them again"
    with pytest.raises(DataError, match=message) as caught:
        masks_of(tmp_path / "set")
    assert "data.max_unreadable=0.17" in str(caught.value)
    data = masks_of(tmp_path / "set", config=DataConfig(max_unreadable=0.17))
    assert stems(data)["train"] == ["b", "c", "d"]
    assert data.dataset.quarantined[0][0] == "train/images/a.jpg"


def test_a_mask_drawn_on_the_file_as_stored_is_turned_with_its_image(tmp_path: Path) -> None:
    masks_splits_first(tmp_path / "set")
    for stem in MASKED["train"]:
        path = tmp_path / "set" / "train" / "images" / f"{stem}.jpg"
        grey = Image.fromarray(mask_numbers(stem) * 100)
        exif = grey.getexif()
        exif[274] = 6
        grey.save(path.with_suffix(".png"), exif=exif)
        path.unlink()
    data = masks_of(tmp_path / "set")
    row = data.dataset.images.names.index("train/images/a.png")
    pixels = data.dataset.images.batch([row]).image(0).numpy()[0]
    assert pixels.shape == (WIDTH, HEIGHT)
    assert (np.where(data.mask(row) == IGNORED, 2, data.mask(row)) * 100 == pixels).all()


def test_without_a_list_classes_are_called_by_number_and_a_note_says_so(tmp_path: Path) -> None:
    masks_splits_first(tmp_path / "set")
    (tmp_path / "set" / "classes.txt").unlink()
    data = masks_of(tmp_path / "set")
    assert data.classes == ("0", "1", "2")
    assert "no list names the classes" in "\n".join(data.dataset.notes)


def test_masks_of_black_and_white_are_background_and_foreground(tmp_path: Path) -> None:
    for number in range(10):
        jpeg(tmp_path / "set" / "images" / f"{number}.jpg")
        (tmp_path / "set" / "masks").mkdir(exist_ok=True)
        Image.fromarray((mask_numbers("abcdefghij"[number]) == 1).astype(np.uint8) * 255).save(
            tmp_path / "set" / "masks" / f"{number}_mask.png"
        )
    data = masks_of(tmp_path / "set")
    assert data.classes == ("background", "foreground")
    assert {split: len(rows) for split, rows in data.dataset.splits.items()} == {"train": 7, "val": 1, "test": 2}
    plain = load_images(str(tmp_path / "set"), CONFIG, side=15)
    assert plain.split_fingerprint == data.dataset.split_fingerprint


def test_numbers_that_the_list_lacks_are_ignored_counted_and_named(tmp_path: Path) -> None:
    masks_splits_first(tmp_path / "set")
    strange = mask_numbers("a")
    strange[0, :7] = 9
    Image.fromarray(strange).save(tmp_path / "set" / "train" / "masks" / "a.png")
    data = masks_of(tmp_path / "set")
    assert (data.mask(data.dataset.images.names.index("train/images/a.jpg"))[0, :7] == IGNORED).all()
    assert data.pixels[:, -1].tolist() == [0, 7, 0, 0, 0, 0]
    notes = "\n".join(data.dataset.notes)
    assert "numbers (9) that classes.txt does not list, and are ignored: 1 image, train/images/a.jpg" in notes


def test_a_list_that_is_not_that_of_the_masks_is_refused(tmp_path: Path) -> None:
    masks_coloured(tmp_path / "set")
    text(tmp_path / "set" / "class_dict.csv", "name,r,g,b\nsky,1,2,3\nroad,4,5,6\n")
    with pytest.raises(DataError, match=r"100.00% of the pixels have colours that class_dict.csv does not list"):
        masks_of(tmp_path / "set")


def test_colours_without_a_list_are_refused_with_what_to_do(tmp_path: Path) -> None:
    masks_coloured(tmp_path / "set")
    (tmp_path / "set" / "class_dict.csv").unlink()
    with pytest.raises(DataError, match=r"holds colours, such as \(128, 64, 128\), and no list says"):
        masks_of(tmp_path / "set")


def test_ids_with_gaps_become_numbers_without(tmp_path: Path) -> None:
    masks_splits_first(tmp_path / "set")
    (tmp_path / "set" / "classes.txt").unlink()
    facts = [{"id": 1, "name": "road"}, {"id": 7, "name": "never"}, {"id": 0, "name": "sky"}]
    write_json(tmp_path / "set" / "classes.json", {"classes": facts, "ignore_index": 2})
    data = masks_of(tmp_path / "set")
    assert data.classes == ("sky", "road", "never")
    assert (data.mask(0) == expected("f")).all()


def test_images_without_a_mask_are_in_no_split(tmp_path: Path) -> None:
    masks_splits_first(tmp_path / "set")
    jpeg(tmp_path / "set" / "train" / "images" / "z.jpg")
    data = masks_of(tmp_path / "set")
    assert stems(data) == MASKED
    assert "1 image without annotations left out of all splits: train/images/z.jpg" in "\n".join(data.dataset.notes)


def test_a_folder_without_masks_is_refused_with_the_layouts(tmp_path: Path) -> None:
    jpeg(tmp_path / "set" / "a.jpg", (WIDTH, HEIGHT))
    jpeg(tmp_path / "set" / "b.jpg", (WIDTH, HEIGHT))
    with pytest.raises(DataError, match="set has no masks beside its images that hptctl reads; it reads masks beside"):
        masks_of(tmp_path / "set")


@pytest.mark.shared
def test_real_streets_come_with_their_masks(shared_data: Path) -> None:
    data = masks_of(shared_data / "camvid_driving.zip", side=90)
    assert len(data.classes) == 11 and data.classes[0] == "sky"
    assert {split: len(rows) for split, rows in data.dataset.splits.items()} == {"train": 367, "val": 101, "test": 233}
    ignored = data.pixels[:, 11].sum() / data.pixels.sum()
    assert 0.03 < ignored < 0.04 and not data.pixels[:, 12].any()


def test_one_image_is_enough_to_load(tmp_path: Path) -> None:
    jpeg(tmp_path / "set" / "train" / "images" / "a.jpg")
    index_mask(tmp_path / "set" / "train" / "masks" / "a.png", "a")
    assert stems(masks_of(tmp_path / "set")) == {"train": ["a"], "val": [], "test": []}


def test_several_masks_of_one_image_are_no_classes_of_its_pixels(tmp_path: Path) -> None:
    for stem in "abc":
        jpeg(tmp_path / "set" / "images" / f"{stem}.jpg")
        for number in (1, 2):
            index_mask(tmp_path / "set" / "masks" / f"{stem}_mask_{number}.png", stem)
    with pytest.raises(DataError, match="set has no masks"):
        masks_of(tmp_path / "set")


def test_an_entry_of_the_cache_that_does_not_tell_the_sizes_of_files_is_used_all_the_same(
    tmp_path: Path, own_cache: Path
) -> None:
    masks_splits_first(tmp_path / "set")
    plain = load_images(str(tmp_path / "set"), CONFIG, side=15)
    (index,) = own_cache.glob("*/index.npz")
    with np.load(index) as saved:
        arrays = {name: saved[name] for name in saved.files if name not in ("originals", "occurring")}
    del plain
    np.savez(index, **arrays)
    data = masks_of(tmp_path / "set", side=15)
    assert stems(data) == MASKED
    assert data.enlarged(0) == 2.0
