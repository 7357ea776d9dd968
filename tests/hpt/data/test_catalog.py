"""Datasets by name: the catalogue, the embedded ones, Flowers, and the user's own rows."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from sklearn.datasets import load_digits

from hpt.config import DataConfig
from hpt.data.catalog import CATALOG
from hpt.data.dataset import load
from hpt.data.embedded import OUTLINES, draw_shape
from hpt.data.names import find, rows
from hpt.data.row import METRICS
from hpt.errors import DataError

CONFIG = DataConfig()


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPTCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HPTCTL_DATA", str(tmp_path / "data"))


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    """Nine images in torchvision's layout of Flowers102: three classes, three splits."""
    root = tmp_path / "data" / "flowers-102"
    (root / "jpg").mkdir(parents=True)
    for number in range(1, 10):
        Image.new("RGB", (30, 20), (25 * number, 0, 0)).save(root / "jpg" / f"image_{number:05d}.jpg")
    savemat(root / "imagelabels.mat", {"labels": np.array([[1, 2, 102] * 3], dtype=np.uint8)})
    savemat(root / "setid.mat", {"trnid": [[1, 5]], "valid": [[9, 2, 3]], "tstid": [[4, 6, 7, 8]]})
    return root


PUBLISHED = """
    resisc               single 45  .3680 .3810 .3436  .2035 .1854 .1849
    ucmerced             single 21  .4842 .4901 .4505  .2180 .2021 .1958
    xview                multi  36  .3680 .3810 .3436  .2035 .1854 .1849
    bdd                  single 6   .2789 .2929 .2902  .2474 .2653 .2761
    viper                multi  23  .3485 .3422 .3395  .2449 .2408 .2390
    chexpert             multi  5   .5028 .5028 .5028  .2919 .2919 .2919
    chest-xray-kids      single 2   .4815 .4815 .4815  .2377 .2377 .2377
    coco-2014            multi  80  .4702 .4470 .4076  .2785 .2740 .2889
    pascal-voc           multi  20  .4511 .4292 .3967  .2764 .2729 .2849
    flowers              single 102 .4355 .3777 .2880  .2970 .2459 .2705
    domainnet-clipart    single 345 .7362 .7167 .6834  .3642 .3654 .3887
    domainnet-infograph  single 345 .6888 .6970 .6648  .3331 .3094 .3281
    domainnet-painting   single 345 .5743 .5466 .5083  .3088 .3007 .3168
    domainnet-quickdraw  single 345 .9525 .9525 .9525  .2128 .2128 .2128
    domainnet-real       single 345 .6059 .5890 .5558  .3344 .3279 .3493
    domainnet-sketch     single 345 .8327 .8270 .8179  .2727 .2753 .2810
"""


def test_every_row_is_complete() -> None:
    for name, row in CATALOG.items():
        assert row.name == name
        assert row.title and row.domain and row.licence and row.page and row.note and row.task in METRICS
        assert not row.archives or row.page.startswith("http")
        assert set("+".join(row.counts).split("+")) <= {"train", "val", "test", ""}
        for archive in row.archives:
            assert archive.gives and (archive.url is None or archive.url.startswith("http"))


def test_rows_say_what_was_published() -> None:
    lines = [line.split() for line in PUBLISHED.strip().splitlines()]
    assert {name for name, row in CATALOG.items() if row.archives} == {name for name, *_ in lines}
    for name, task, classes, *numbers in lines:
        row = CATALOG[name]
        assert (row.task, row.classes) == (f"{task}-label", int(classes))
        assert (row.mean, row.std) == (tuple(map(float, numbers[:3])), tuple(map(float, numbers[3:])))


def test_digits_are_scikit_learns_scans_enlarged() -> None:
    dataset = load("digits", CONFIG, side=64)
    assert len(dataset.images) == 1797
    assert dataset.classes == tuple("0123456789")
    assert np.array_equal(dataset.labels, load_digits().target)
    assert [len(dataset.splits[split]) for split in ("train", "val", "test")] == [1259, 179, 359]
    pixels = dataset.images.batch([0, 1000]).pixels.float()
    assert pixels.shape == (2, 3, 32, 32)
    means = load_digits().images[[0, 1000]].mean(axis=(1, 2)) * 255 / 16
    assert pixels.mean(dim=(1, 2, 3)).numpy() == pytest.approx(means, abs=4)


def test_shapes_are_as_many_as_asked_for_and_balanced() -> None:
    dataset = load("shapes@80", CONFIG, side=64)
    assert dataset.name == "shapes@80"
    assert dataset.classes == tuple(OUTLINES)
    assert np.bincount(dataset.labels).tolist() == [10] * 8
    assert dataset.images.batch([0]).pixels.shape == (1, 3, 64, 64)
    assert {split: len(rows) for split, rows in dataset.splits.items()} == {"train": 56, "val": 8, "test": 16}


def test_a_shape_is_the_same_whatever_the_count() -> None:
    few, more = (load(f"shapes@{count}", CONFIG, side=64).images.batch(range(16)).pixels for count in (16, 40))
    assert (few == more).all()


def test_shapes_differ_from_one_another_and_are_drawn_quickly() -> None:
    start = time.process_time()
    drawn = [draw_shape(number) for number in range(0, 200, 8)]
    assert (time.process_time() - start) / len(drawn) < 5 / 3000
    assert len({image.tobytes() for image in drawn}) == len(drawn)


def test_a_shape_covers_part_of_its_image_with_smooth_edges() -> None:
    from hpt.data.embedded import _cover

    for outlines in OUTLINES.values():
        cover = _cover(np.random.default_rng(0), outlines)
        assert 0.02 < cover.mean() < 0.6
        assert ((cover > 0) & (cover < 1)).any()


@pytest.mark.parametrize("name", ["shapes@", "shapes@0", "shapes@x", "shapes@-1", "digits@10"])
def test_a_count_that_cannot_be_had_is_refused(name: str) -> None:
    with pytest.raises(DataError) as caught:
        find(name)
    assert caught.value.fix


def test_flowers_have_the_official_split_classes_and_normalisation(flowers: Path) -> None:
    dataset = load("flowers", CONFIG, side=64)
    assert dataset.images.names[0] == "jpg/image_00001.jpg"
    assert {split: rows.tolist() for split, rows in dataset.splits.items()} == {
        "train": [0, 4],
        "val": [1, 2, 8],
        "test": [3, 5, 6, 7],
    }
    assert len(dataset.classes) == 102
    assert [dataset.classes[label] for label in dataset.labels] == ["001", "002", "102"] * 3
    assert dataset.images.mean == (0.4355, 0.3777, 0.2880)
    assert dataset.images.std == (0.2970, 0.2459, 0.2705)


def test_a_missing_flower_is_quarantined(flowers: Path) -> None:
    (flowers / "jpg" / "image_00003.jpg").unlink()
    dataset = load("flowers", DataConfig(max_unreadable=0.2), side=64)
    assert dataset.quarantined == (("jpg/image_00003.jpg", "No such file or directory"),)
    assert len(dataset.images) == 8


def test_damaged_label_files_are_named(flowers: Path) -> None:
    (flowers / "setid.mat").write_bytes(b"garbage" * 50)
    with pytest.raises(DataError, match=r"setid.mat is damaged"):
        load("flowers", CONFIG, side=64)
    savemat(flowers / "setid.mat", {"trnid": [[1]], "valid": [[2]], "tstid": [[10]]})
    with pytest.raises(DataError, match=r"names image 10 of 9"):
        load("flowers", CONFIG, side=64)


def test_without_a_network_one_line_says_where_to_put_which_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DataError) as caught:
        load("flowers", CONFIG, side=64)
    message = str(caught.value)
    assert "flowers is not here and its download failed" in message
    assert f"put imagelabels.mat into {tmp_path / 'data' / 'flowers-102'}" in message
    assert "\n" not in message


def own_row(tmp_path: Path, text: str) -> None:
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data" / "catalog.toml").write_text(text)


def test_a_row_of_the_users_own_joins_the_catalogue(tmp_path: Path) -> None:
    for number in range(40):
        path = tmp_path / "data" / "x rays" / "ab"[number % 2] / f"patient{number // 4:02d}_{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (12, 12), 6 * number).save(path)
    own_row(
        tmp_path,
        """
        [my-xrays]
        path = "x rays"
        title = "Our clinic's"
        group = 'patient\\d+'
        shares = {val = 0.2, test = 0.3}
        metric = "balanced_accuracy"
        mean = [0.5, 0.5, 0.5]
        std = [0.25, 0.25, 0.25]
        """,
    )
    assert list(rows())[-1] == "my-xrays"
    dataset = load("my-xrays", CONFIG, side=32)
    assert (dataset.name, dataset.metric, dataset.images.std) == ("my-xrays", "balanced_accuracy", (0.25, 0.25, 0.25))
    sizes = {split: len(indices) for split, indices in dataset.splits.items()}
    assert sizes == {"train": 20, "val": 8, "test": 12}
    patients = [{dataset.images.names[i][2:11] for i in indices} for indices in dataset.splits.values()]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 10
    with pytest.raises(DataError, match="did you mean 'my-xrays'"):
        load("my-xray", CONFIG, side=32)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[a]\npath = ", "cannot be read as TOML"),
        ("[digits]\npath = 'a'", "'digits' is taken"),
        ("['A b']\npath = 'a'", "'A b' is not a name"),
        ("[a]\ntitle = 'a'", "[a]: path is missing"),
        ("[a]\npath = 'a'\nlicense = 'b'", "unknown field 'license' (did you mean 'licence'?)"),
        ("[a]\npath = 'a'\nmean = [0.5, 0.5, 0.5]", "mean and std go together"),
        ("[a]\npath = 'a'\nmean = [128, 1, 1]\nstd = [1, 1, 1]", "mean.0 = 128"),
        ("[a]\npath = 'a'\ngroup = '('", "is not a regular expression"),
        ("[a]\npath = 'a'\nshares = {val = 0.6, test = 0.6}", "leave a tenth to train"),
        ("[a]\npath = 'nowhere'", "a is not here: nowhere is missing"),
        ("[a]\npath = 'b'\ngroup = 'patient'", "has no group 'patient'"),
    ],
)
def test_a_row_that_is_not_right_is_one_line(tmp_path: Path, text: str, expected: str) -> None:
    own_row(tmp_path, text)
    (tmp_path / "data" / "b").mkdir()
    for number in range(4):
        Image.new("L", (8, 8), 9 * number).save(tmp_path / "data" / "b" / f"{number}.png")
    with pytest.raises(DataError) as caught:
        load("a", CONFIG, side=32)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_everything_that_is_wrong_with_the_users_rows_is_said_at_once(tmp_path: Path) -> None:
    own_row(
        tmp_path,
        """
        loose = 3
        [a]
        license = "b"
        mean = [2, 0.5, 0.5]
        shares = {tst = 0.1}
        [digits]
        path = "a"
        """,
    )
    with pytest.raises(DataError) as caught:
        rows()
    assert str(caught.value).replace(str(tmp_path), "") == (
        "/data/catalog.toml: 'loose' is not a table: begin the row with [loose]; "
        "[a]: unknown shares.tst 'tst' (did you mean 'test'?): choose one of train, val, test; "
        "mean.0 = 2: input should be less than or equal to 1; path is missing; "
        "unknown field 'license' (did you mean 'licence'?); "
        "'digits' is taken: give the row another name"
    )


def test_the_users_row_says_what_a_row_of_the_catalogue_says(tmp_path: Path) -> None:
    own_row(
        tmp_path,
        """
        [my-xrays]
        path = "x rays"
        task = "multi-label"
        classes = 3
        counts = {"train+val" = 30, test = 10}
        note = "by patient"
        """,
    )
    own, published = rows()["my-xrays"], CATALOG["chexpert"]
    assert type(own) is type(published)
    assert (own.task, own.classes, own.counts, own.note) == (
        "multi-label",
        3,
        {"train+val": 30, "test": 10},
        "by patient",
    )
    assert (own.title, own.domain, own.licence) == (
        f"the images of {tmp_path / 'data' / 'x rays'}",
        "own",
        "none stated",
    )
