"""WebDataset shards: what other programs write is read, and what is torn, mixed or unclear is named."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image
from small_images import noise_png

from hpt.config import DataConfig
from hpt.data import tar_index
from hpt.data.dataset import Dataset, load
from hpt.data.listing import Listing
from hpt.data.names import find, list_images
from hpt.errors import DataError

CONFIG = DataConfig()
pytestmark = pytest.mark.usefixtures("own_cache")


def shard(path: Path, members: Mapping[str, bytes | str]) -> Path:
    """A tar of some members, as GNU's tar writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as file:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def labelled(path: Path, numbers: range, ending: str = "cls", label: str = "{}") -> Path:
    """A shard of images with a label each: 0, 1 or 2."""
    members: dict[str, bytes | str] = {}
    for number in numbers:
        members |= {f"{number:04d}.png": noise_png(number), f"{number:04d}.{ending}": label.format(number % 3)}
    return shard(path, members)


def read(dataset: Path | str) -> Dataset:
    return load(str(dataset), CONFIG, side=64)


def listing(dataset: Path | str, config: DataConfig = CONFIG) -> Listing:
    return list_images(find(str(dataset)), None, config)


def test_shards_of_the_webdataset_library_are_read_with_their_splits(tmp_path: Path) -> None:
    for split, numbers in (("train", range(12)), ("val", range(12, 18)), ("test", range(18, 24))):
        with webdataset.ShardWriter(f"{tmp_path}/{split}-%06d.tar", maxcount=6, verbose=0) as writer:
            for number in numbers:
                writer.write({"__key__": f"{number:04d}", "png": noise_png(number), "cls": number % 3})
    found = read(tmp_path)
    assert {split: len(rows) for split, rows in found.splits.items()} == {"train": 12, "val": 6, "test": 6}
    assert found.classes == ("0", "1", "2")
    assert found.labels.tolist() == [number % 3 for number in range(24)]
    assert found.name == tmp_path.name
    for number, name in enumerate(found.images.names):
        assert name == f"{number:04d}.png"
        expected = np.asarray(Image.open(io.BytesIO(noise_png(number)))).transpose(2, 0, 1)
        assert np.array_equal(found.images.batch([number]).image(0).numpy(), expected)


@pytest.mark.parametrize(
    ("ending", "label", "classes"),
    [
        ("cls", "{}", ("0", "1", "2")),
        ("json", '{{"label": "kind {}", "width": 9}}', ("kind 0", "kind 1", "kind 2")),
        ("txt", "kind {}", ("kind 0", "kind 1", "kind 2")),
    ],
)
def test_a_label_is_a_number_a_key_of_json_or_a_text(
    ending: str, label: str, classes: tuple[str, ...], tmp_path: Path
) -> None:
    found = listing(labelled(tmp_path / "a.tar", range(9), ending, label))
    assert found.classes == classes
    assert found.labels.tolist() == [0, 1, 2] * 3


def test_lists_in_json_are_several_labels(tmp_path: Path) -> None:
    members: dict[str, bytes | str] = {"a.png": noise_png(0), "a.json": '{"labels": ["x", "y"]}'}
    found = listing(shard(tmp_path / "a.tar", members | {"b.png": noise_png(1), "b.json": '{"labels": []}'}))
    assert (found.classes, found.labels.tolist()) == (("x", "y"), [[1, 1], [0, 0]])


def test_captions_are_no_classes_unless_they_are_asked_for(tmp_path: Path) -> None:
    members = {
        f"{n}.{end}": noise_png(n) if end == "png" else f"caption {n}" for n in range(4) for end in ("png", "txt")
    }
    path = shard(tmp_path / "a.tar", members)
    assert listing(path).classes == ()
    assert "captions" in listing(path).notes[-1].text
    assert len(listing(path, DataConfig(label_column="txt")).classes) == 4


def test_a_key_of_json_is_asked_for_by_name(tmp_path: Path) -> None:
    path = labelled(tmp_path / "a.tar", range(6), "json", '{{"species": {}}}')
    assert listing(path).classes == ()
    assert listing(path, DataConfig(label_column="species")).classes == ("0", "1", "2")


def test_a_tar_of_class_folders_is_read_as_the_folder(tmp_path: Path) -> None:
    names = [f"{split}/{kind}/{n}.png" for split in ("train", "test") for kind in ("cat", "dog") for n in range(2)]
    path = shard(tmp_path / "set.tar", {name: noise_png(i) for i, name in enumerate(names)})
    found = listing(path)
    assert found.classes == ("cat", "dog")
    assert found.names == tuple(sorted(names))
    assert found.splits == ("test",) * 4 + ("train",) * 4


def test_the_split_is_that_of_the_folder_where_files_do_not_say_it(tmp_path: Path) -> None:
    labelled(tmp_path / "set" / "train" / "0000.tar", range(6))
    labelled(tmp_path / "set" / "validation" / "0000.tar", range(6, 9))
    assert listing(tmp_path / "set").splits == ("train",) * 6 + ("val",) * 3


def test_a_pattern_names_shards(tmp_path: Path) -> None:
    for number in range(4):
        labelled(tmp_path / f"train-{number:03d}.tar", range(number * 3, number * 3 + 3))
    assert len(listing(f"{tmp_path}/train-{{000..002}}.tar").names) == 9
    assert len(listing(f"{tmp_path}/train-*.tar").names) == 12
    assert len(listing(f"{tmp_path}/train-{{001,003}}.tar").names) == 6
    with pytest.raises(DataError, match=r"train-004\.tar cannot be read: No such file"):
        listing(f"{tmp_path}/train-{{000..004}}.tar")


def test_keys_that_shards_share_come_with_the_shards_name(tmp_path: Path) -> None:
    for name in "ab":
        labelled(tmp_path / f"{name}.tar", range(3))
    assert listing(tmp_path).names == tuple(f"{name}/{n:04d}.png" for name in "ab" for n in range(3))


def test_of_a_sample_the_usual_image_is_taken_and_the_rest_is_counted(tmp_path: Path) -> None:
    members: dict[str, bytes | str] = {}
    for n in range(3):
        members |= {f"{n}.png": noise_png(n), f"{n}.seg.png": noise_png(n), f"{n}.cls": "0", f"{n}.mp4": "film"}
    found = listing(shard(tmp_path / "a.tar", members))
    assert found.names == ("0.png", "1.png", "2.png")
    assert "3 .seg.png" in found.notes[0].text
    assert "3 .mp4" in found.notes[0].text


def test_long_and_foreign_names_are_found(tmp_path: Path) -> None:
    names = ["d" * 60 + "/" + "x" * 90 + ".png", "Grüße/ä.png"]
    for style in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(tmp_path / "a.tar", "w", format=style) as file:
            for number, name in enumerate(names):
                info = tarfile.TarInfo(name)
                info.size = len(noise_png(number))
                file.addfile(info, io.BytesIO(noise_png(number)))
        found = listing(tmp_path / "a.tar")
        assert found.names == tuple(sorted(names))
        with found.source.open() as source:
            assert source(names[1]) == noise_png(1)


def test_a_shard_is_read_again_only_where_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        labelled(tmp_path / f"{number}.tar", range(number * 3, number * 3 + 3))
    listing(tmp_path)
    looked: list[str] = []
    whole = tar_index.read_index
    monkeypatch.setattr(tar_index, "read_index", lambda f, s, k: (looked.append(s.name), whole(f, s, k))[1])
    assert len(listing(tmp_path).names) == 9
    assert looked == []
    labelled(tmp_path / "1.tar", range(10, 15))
    assert len(listing(tmp_path).names) == 11
    assert looked == ["1.tar"]


def torn(path: Path) -> None:
    labelled(path / "a.tar", range(9))
    data = (path / "a.tar").read_bytes()
    (path / "a.tar").write_bytes(data[: len(data) // 2])


def torn_between(path: Path) -> None:
    labelled(path / "a.tar", range(9))
    data = (path / "a.tar").read_bytes().rstrip(b"\0")
    (path / "a.tar").write_bytes(data + bytes(-len(data) % 512))


def compressed(path: Path) -> None:
    labelled(path / "a.tar", range(3))
    (path / "a.tar").write_bytes(gzip.compress((path / "a.tar").read_bytes()))


def other(path: Path) -> None:
    (path / "a.tar").write_bytes(b"no tar at all" * 100)


def damaged(path: Path) -> None:
    labelled(path / "a.tar", range(9))
    data = bytearray((path / "a.tar").read_bytes())
    at = data.index(b"0004.png")
    data[at : at + 4] = b"xxxx"
    (path / "a.tar").write_bytes(data)


def without_images(path: Path) -> None:
    shard(path / "a.tar", {"a.mp4": "film", "b.cls": "0"})


def mixed_formats(path: Path) -> None:
    labelled(path / "a.tar", range(3))
    (path / "b.parquet").write_bytes(b"PAR1")


def some_labelled(path: Path) -> None:
    labelled(path / "a.tar", range(3))
    shard(path / "b.tar", {"0009.png": noise_png(9)})


def some_in_splits(path: Path) -> None:
    labelled(path / "train-0.tar", range(3))
    labelled(path / "other-0.tar", range(3, 6))


def no_train(path: Path) -> None:
    labelled(path / "val-0.tar", range(3))
    labelled(path / "test-0.tar", range(3, 6))


def bad_label(path: Path) -> None:
    shard(path / "a.tar", {"a.png": noise_png(0), "a.json": "{"})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (torn, r"a\.tar is torn: .*copy or download it again"),
        (torn_between, r"a\.tar is torn: it ends at byte [\d,]+ without a tar's end mark"),
        (compressed, r"a\.tar is compressed.*gunzip"),
        (other, r"a\.tar is no tar"),
        (damaged, r"a\.tar is damaged: byte [\d,]+ begins no member"),
        (without_images, r"holds no images: found 1 \.mp4, 1 \.cls"),
        (mixed_formats, r"holds shards \(a\.tar\) and tables \(b\.parquet\); name one kind"),
        (some_labelled, r"3 of the 4 train images have labels, and 0009\.png has none; label all"),
        (some_in_splits, r"train-0\.tar is in train and other-0\.tar in no split"),
        (no_train, r"holds test, val but no train"),
        (bad_label, r"a\.tar: a\.json is no JSON"),
    ],
)
def test_what_is_torn_mixed_or_unclear_is_one_line(make: object, said: str, tmp_path: Path) -> None:
    make(tmp_path)  # type: ignore[operator]
    with pytest.raises(DataError, match=said) as error:
        listing(tmp_path)
    assert "\n" not in str(error.value)


def test_a_folder_of_images_beside_a_tar_stays_a_folder_of_images(tmp_path: Path) -> None:
    labelled(tmp_path / "old.tar", range(3))
    (tmp_path / "a.png").write_bytes(noise_png(0))
    assert listing(tmp_path).names == ("a.png",)


def test_an_unreadable_image_of_a_shard_is_named_and_left_out(tmp_path: Path) -> None:
    members = {f"{n}.png": noise_png(n) for n in range(5)} | {"bad.png": b"no image"}
    found = load(str(shard(tmp_path / "a.tar", members)), DataConfig(max_unreadable=0.5), side=64)
    assert [name for name, _ in found.quarantined] == ["bad.png"]
    assert len(found.images) == 5
