"""All sixteen datasets, a few images of each, through the code that reads the real ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from miniatures import build
from PIL import Image

from hpt.config import DataConfig
from hpt.data import annotation_cache as kept
from hpt.data.catalog import CATALOG
from hpt.data.dataset import Dataset, load
from hpt.data.listing import SPLITS
from hpt.data.publishers import classes, xview
from hpt.errors import DataError

SIXTEEN = [name for name, row in CATALOG.items() if row.archives]
EXPECTED = {  # images in train and val together, and in test; "": both cut
    "resisc": 20,
    "ucmerced": 20,
    "xview": 12,
    "bdd": (18, 6),
    "viper": (12, 2),
    "chexpert": (20, 4),
    "chest-xray-kids": (62, 8),
    "coco-2014": (20, 6),
    "pascal-voc": (8, 2),
    "flowers": (5, 4),
    **{name: (20, 6) for name in SIXTEEN if name.startswith("domainnet-")},
}
CONFIG = DataConfig()


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("miniatures"))


@pytest.fixture(autouse=True)
def _own_places(data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPTCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HPTCTL_DATA", str(data_root))


def classes_of(dataset: Dataset, name: str) -> set[str]:
    label = dataset.labels[dataset.images.names.index(name)]
    return {dataset.classes[i] for i in (np.flatnonzero(label > 0) if label.ndim else [label])}


def test_there_are_sixteen_and_all_are_expected() -> None:
    assert len(SIXTEEN) == 16
    assert set(EXPECTED) == set(SIXTEEN)


@pytest.mark.parametrize("name", SIXTEEN)
def test_a_publishers_layout_is_read_as_it_is_shipped(name: str) -> None:
    row = CATALOG[name]
    assert row.ready()
    dataset = load(name, CONFIG, side=32)
    sizes = {split: len(dataset.splits[split]) for split in SPLITS}
    if isinstance(EXPECTED[name], int):
        assert sum(sizes.values()) == EXPECTED[name]
    else:
        assert (sizes["train"] + sizes["val"], sizes["test"]) == EXPECTED[name]
    assert min(sizes.values()) > 0
    assert dataset.quarantined == ()
    assert dataset.task == row.task
    assert (dataset.images.mean, dataset.images.std) == (row.mean, row.std)
    assert dataset.images.batch([0]).pixels.shape[1] == 3


@pytest.mark.parametrize("name", ["xview", "viper", "chexpert", "chest-xray-kids"])
@pytest.mark.parametrize("seed", [0, 1])
def test_images_that_belong_together_are_in_one_split(name: str, seed: int) -> None:
    listing = CATALOG[name].listing()
    assert listing.groups is not None
    dataset = load(name, DataConfig(split_seed=seed), side=32)
    group = dict(zip(listing.names, listing.groups, strict=True))
    found = [{group[dataset.images.names[i]] for i in dataset.splits[split]} for split in SPLITS]
    assert all(found)
    assert not found[0] & found[1] and not found[0] & found[2] and not found[1] & found[2]
    assert max(np.unique(listing.groups, return_counts=True)[1]) > 1


def test_aerial_scenes_are_cut_60_20_20_class_by_class() -> None:
    for name in ("resisc", "ucmerced"):
        dataset = load(name, CONFIG, side=32)
        assert {split: dataset.per_class(split).tolist() for split in SPLITS} == {
            "train": [6, 6],
            "val": [2, 2],
            "test": [2, 2],
        }


def test_the_published_cut_of_the_aerial_scenes_is_met_to_the_image() -> None:
    from hpt.data import splits

    for name, per_class in (("resisc", 700), ("ucmerced", 100)):
        row = CATALOG[name]
        labels = np.repeat(np.arange(row.classes or 0), per_class)
        names = [f"{i:05d}" for i in range(len(labels))]
        cut = splits.complete(name, names, labels, ["train"] * len(names), 0, shares=row.shares)
        assert {split: len(rows) for split, rows in cut.items()} == row.counts


def test_labels_are_those_of_the_annotations() -> None:
    coco = load("coco-2014", CONFIG, side=32)
    assert coco.classes == ("person", "car", "toothbrush")  # by their numbers
    assert classes_of(coco, "train2014/COCO_train2014_000000000002.jpg") == {"person", "car"}
    assert classes_of(coco, "train2014/COCO_train2014_000000000004.jpg") == set()
    voc = load("pascal-voc", CONFIG, side=32)
    assert len(voc.classes) == 20
    assert classes_of(voc, "VOCdevkit/VOC2007/JPEGImages/000000.jpg") == {"dog"}
    assert classes_of(voc, "VOCdevkit/VOC2007/JPEGImages/000001.jpg") == {"person"}  # its dog is difficult
    bdd = load("bdd", CONFIG, side=32)
    assert bdd.classes == ("clear", "foggy", "overcast", "partly cloudy", "rainy", "snowy")
    assert classes_of(bdd, "bdd100k/images/100k/train/00000003-train.jpg") == {"partly cloudy"}
    assert not [name for name in bdd.images.names if "00000002" in name]  # undefined
    clipart = load("domainnet-clipart", CONFIG, side=32)
    assert clipart.classes == ("zebra", "ant")
    assert classes_of(clipart, "clipart/ant/clipart_002_000002.jpg") == {"ant"}
    viper = load("viper", CONFIG, side=32)
    assert len(viper.classes) == 23
    for number in range(12):  # grey, palette and colours say the same
        sequence = f"{number // 2 + 1:03d}"
        frame = f"train/img/{sequence}/{sequence}_{10 * (number % 2 + 1):05d}.jpg"
        assert classes_of(viper, frame) == {"sky", "road"} | ({"car"} if number % 2 else set())


def test_uncertain_and_blank_findings_count_as_absent() -> None:
    dataset = load("chexpert", CONFIG, side=32)
    assert dataset.classes == ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
    name = "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"
    # Of the 14 columns the marks go 1, 0, -1, blank from the first; Atelectasis is the ninth, Edema the sixth.
    assert classes_of(dataset, name) == {"Atelectasis"}
    assert set(np.unique(dataset.labels)) == {0.0, 1.0}


def test_the_patient_is_found_in_the_names_of_all_versions() -> None:
    names = {
        "train/PNEUMONIA/person1_bacteria_1.jpeg": "PNEUMONIA/person1",
        "train/PNEUMONIA/person1_virus_9.jpeg": "PNEUMONIA/person1",
        "train/PNEUMONIA/BACTERIA-1008087-0002.jpeg": "PNEUMONIA/BACTERIA-1008087",
        "test/NORMAL/NORMAL2-IM-1427-0001.jpeg": "NORMAL/NORMAL2-IM-1427",
        "test/NORMAL/IM-0115-0001.jpeg": "NORMAL/IM-0115",
        "test/NORMAL/other.jpeg": "NORMAL/other",
    }
    assert {name: classes._patient(name) for name in names} == names


def test_chips_are_the_pixels_of_their_scene_with_its_objects(data_root: Path) -> None:
    dataset = load("xview", CONFIG, side=xview.CHIP)
    assert [name for name in dataset.images.names if "/10/" in name] == [
        f"train_images/10/{row:02d}-{column:02d}" for row in (0, 1) for column in (0, 1)
    ]
    assert dataset.classes == ("Passenger/Cargo Plane", "Small Car", "Building")
    assert classes_of(dataset, "train_images/10/00-00") == {"Passenger/Cargo Plane"}
    assert classes_of(dataset, "train_images/10/01-01") == {"Building"}
    # A sliver of the building, 20 of its 300 pixels, is no building; nothing else is there.
    assert classes_of(dataset, "train_images/10/01-00") == set()
    with Image.open(data_root / "xview" / "train_images" / "11.tif") as scene:
        expected = np.asarray(scene.convert("RGB"))[300:600, :300]
    chip = dataset.images.batch([dataset.images.names.index("train_images/11/01-00")]).pixels[0]
    assert np.array_equal(chip.permute(1, 2, 0).numpy(), expected)


def test_a_kept_listing_is_read_again_when_its_annotations_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from miniatures import coco

    monkeypatch.setenv("HPTCTL_DATA", str(tmp_path))
    coco(tmp_path / "coco-2014")
    row = CATALOG["coco-2014"]
    first = row.listing()
    (place,) = (tmp_path / "cache" / "listings").iterdir()
    again = row.listing()
    assert (again.names, again.splits, again.classes) == (first.names, first.splits, first.classes)
    assert np.array_equal(again.labels, first.labels)
    place.write_text('{"names": [')  # a damaged one is read again
    assert row.listing().names == first.names

    path = tmp_path / "coco-2014" / "annotations" / "instances_val2014.json"
    facts = json.loads(path.read_text())
    facts["images"] = facts["images"][:3]
    facts["annotations"] = [thing for thing in facts["annotations"] if thing["image_id"] <= 3]
    path.write_text(json.dumps(facts))
    assert len(row.listing().names) == len(first.names) - 3
    assert len(list((tmp_path / "cache" / "listings").iterdir())) == 1


def test_groups_and_single_labels_are_kept_too(tmp_path: Path) -> None:
    for name in ("viper", "bdd"):
        row = CATALOG[name]
        read = row.read(row.place)
        files = [path for pattern in row.keep for path in sorted(row.place.glob(pattern))]
        first, again = (kept.keep(name, files, row.source(row.place), lambda read=read: read) for _ in range(2))
        assert first is read and again is not read
        assert (again.names, again.splits, again.groups) == (read.names, read.splits, read.groups)
        assert np.array_equal(again.labels, read.labels) and again.labels.dtype == read.labels.dtype


DAMAGE = {
    "coco-2014": ("annotations/instances_train2014.json", '{"images": []}', "no 'categories'"),
    "bdd": ("bdd100k/labels/bdd100k_labels_images_val.json", '[{"name": "a.jpg"}]', "no 'attributes'"),
    "chexpert": ("CheXpert-v1.0-small/train.csv", "Path,Edema\na/b.jpg,7\n", "is damaged"),
    "pascal-voc": ("VOCdevkit/VOC2012/ImageSets/Main/cat_val.txt", "2008_000001 2\n", "is not an image and 1, 0 or -1"),
    "domainnet-real": ("real_test.txt", "real/ant/a.jpg\n", "is not a path below real/ and a number"),
    "viper": ("train/cls/001/001_00010.png", "no image", "001_00010.png is damaged"),
    "xview": (
        "xView_train.geojson",
        '{"features": [{"properties": {"bounds_imcoords": "1,x"}}]}',
        "geojson is damaged",
    ),
    "flowers": ("setid.mat", "garbage" * 50, "setid.mat is damaged"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_annotation_file_is_named_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from miniatures import FOLDERS

    monkeypatch.setenv("HPTCTL_DATA", str(tmp_path))
    row = CATALOG[name]
    FOLDERS[row.folder or name](row.place)
    file, content, expected = DAMAGE[name]
    (row.place / file).write_text(content)
    with pytest.raises(DataError) as caught:
        row.listing()
    assert expected in str(caught.value) and file.rpartition("/")[2] in str(caught.value)
    assert "\n" not in str(caught.value) and caught.value.fix
