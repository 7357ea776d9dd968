"""Boxes and masks of the catalogue's own datasets, a few images of each."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from miniatures import CAR, ROAD, SKY, build

from hpt.config import DataConfig
from hpt.data.dataset import load as load_images
from hpt.data.listing import SPLITS
from hpt.data.publishers import viper, voc
from hpt.dense import published
from hpt.dense.dataset import DenseDataset, load
from hpt.dense.find import tasks_of
from hpt.dense.instance_masks import runs
from hpt.dense.targets import IGNORED
from hpt.errors import DataError

CONFIG = DataConfig()


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("miniatures"))


@pytest.fixture(autouse=True)
def _own_places(data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPTCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HPTCTL_DATA", str(data_root))


def at(data: DenseDataset, name: str) -> int:
    return data.dataset.images.names.index(name)


def things(data: DenseDataset, name: str) -> list[tuple[str, list[float], bool]]:
    its = data.boxes(at(data, name))
    columns = zip(its.labels.tolist(), its.boxes.tolist(), its.difficult.tolist(), strict=True)
    return [(data.classes[label], box, hard) for label, box, hard in columns]


@pytest.mark.parametrize("name", published.BOXES)
def test_a_detection_has_the_images_and_splits_of_a_pretraining(name: str) -> None:
    data, plain = load(name, "detection", CONFIG, side=32), load_images(name, CONFIG, side=32)
    assert data.dataset.images.names == plain.images.names
    assert data.dataset.split_fingerprint == plain.split_fingerprint
    assert data.dataset.fingerprint != plain.fingerprint
    assert min(len(data.dataset.splits[split]) for split in SPLITS) > 0
    assert not data.faults


@pytest.mark.parametrize("name", published.BOXES)
def test_boxes_are_kept_until_an_annotation_changes(name: str, data_root: Path, tmp_path: Path) -> None:
    first = load(name, "detection", CONFIG, side=32)
    (place,) = (tmp_path / "cache" / "listings").glob("boxes-*.npz")
    written = place.stat().st_mtime_ns
    again = load(name, "detection", CONFIG, side=32)
    assert place.stat().st_mtime_ns == written
    assert again.dataset.fingerprint == first.dataset.fingerprint
    place.write_bytes(place.read_bytes()[:200])  # a damaged one is read again
    assert load(name, "detection", CONFIG, side=32).dataset.fingerprint == first.dataset.fingerprint
    file = next(path for pattern in published.FILES[name] for path in (data_root / name).glob(pattern))
    os.utime(file, ns=(1, 1))
    load(name, "detection", CONFIG, side=32)
    (changed,) = (tmp_path / "cache" / "listings").glob("boxes-*.npz")
    assert changed != place


def test_boxes_of_voc_are_those_of_its_xml() -> None:
    data = load("pascal-voc", "detection", CONFIG, side=32)
    assert data.classes == voc.CLASSES
    assert things(data, "VOCdevkit/VOC2007/JPEGImages/000001.jpg") == [
        ("dog", [2, 1, 12, 16], True),
        ("person", [2, 1, 12, 16], False),
    ]


def test_boxes_of_coco_are_x_y_width_height_and_crowds_are_difficult() -> None:
    data = load("coco-2014", "detection", CONFIG, side=32)
    assert data.classes == ("person", "car", "toothbrush")
    box = [1, 2, 4, 6]
    assert things(data, "train2014/COCO_train2014_000000000003.jpg") == [
        ("person", box, False),
        ("car", box, False),
        ("toothbrush", box, False),
        ("person", [0, 0, 2, 16], True),
    ]


def test_boxes_of_bdd_are_those_with_corners() -> None:
    data = load("bdd", "detection", CONFIG, side=32)
    assert data.classes == ("car", "person")
    assert things(data, "bdd100k/images/100k/train/00000001-train.jpg") == [
        ("car", [2.5, 3, 12.5, 11], False),
        ("person", [2.5, 3, 6, 11], False),
    ]


def test_boxes_on_chips_are_cut_and_slivers_are_difficult() -> None:
    data = load("xview", "detection", CONFIG, side=300)
    assert things(data, "train_images/10/00-00") == [("Passenger/Cargo Plane", [10, 10, 60, 50], False)]
    assert things(data, "train_images/10/01-01") == [("Building", [0, 10, 280, 290], False)]
    assert things(data, "train_images/10/01-00") == [("Building", [280, 10, 300, 290], True)]


def test_masks_of_voc_have_lists_of_their_own() -> None:
    data = load("pascal-voc", "segmentation", CONFIG, side=32)
    assert data.classes == ("background", *voc.CLASSES)
    found = {split: {data.dataset.images.names[i][-10:-4] for i in data.dataset.splits[split]} for split in SPLITS}
    assert found == {"train": {"000000", "000006"}, "val": {"000003", "000009"}, "test": {"000004"}}
    mask = data.mask(at(data, "VOCdevkit/VOC2007/JPEGImages/000000.jpg"))
    assert (mask[0, 0], mask[1, 2], mask[5, 5]) == (0, IGNORED, 1 + voc.CLASSES.index("dog"))


def test_masks_of_coco_are_drawn_from_outlines_the_smallest_on_top_and_crowds_are_ignored() -> None:
    data = load("coco-2014", "segmentation", CONFIG, side=32)
    assert data.classes == ("background", "person", "car", "toothbrush")
    expected = np.zeros((16, 20), dtype=np.uint8)
    expected[:, :2] = IGNORED
    expected[2:6, 1:4] = 3
    mask = data.mask(at(data, "train2014/COCO_train2014_000000000003.jpg"))
    assert (mask == expected).mean() > 0.97  # Pillow's polygons take in the pixels on their edges
    assert (mask[3:5, 2:3] == 3).all() and (mask[8:, :2] == IGNORED).all() and not mask[8:, 2:].any()


def test_packed_runs_are_unpacked() -> None:
    # What pycocotools packs of 6, 1, 40, 4, 5, 4, 5, 4, 21 for 9 x 10 pixels (its own test).
    inside = runs("61X13mN000`0", 9, 10)
    lengths = np.diff(np.flatnonzero(np.diff(inside.T.ravel().astype(int), prepend=-1, append=-1)))
    assert lengths.tolist() == [6, 1, 40, 4, 5, 4, 5, 4, 21]
    with pytest.raises(ValueError, match="do not fill"):
        runs([3, 4], 9, 10)


def test_masks_of_viper_are_read_as_index_palette_and_colours() -> None:
    data = load("viper", "segmentation", CONFIG, side=32)
    assert data.classes == tuple(name for name, _ in viper.CLASSES.values())
    number = {name: data.classes.index(viper.CLASSES[name][0]) for name in (SKY, ROAD, CAR)}
    for row, name in enumerate(data.dataset.images.names):
        mask = data.mask(row)
        assert (mask[:4] == number[SKY]).all() and (mask[4] == IGNORED).all(), name
        assert (mask[14:] == number[ROAD]).all(), name
        assert (mask[10:14, 3] == number[CAR if name.endswith("20.jpg") else ROAD]).all(), name


def test_it_is_known_which_rows_have_what() -> None:
    assert tasks_of("pascal-voc") == ("detection", "segmentation")
    assert tasks_of("bdd") == ("detection",)
    assert tasks_of("viper") == ("segmentation",)
    assert tasks_of("flowers") == ()
    with pytest.raises(DataError, match="flowers has no boxes; pascal-voc, coco-2014, bdd, xview have them"):
        load("flowers", "detection", CONFIG, side=8)
