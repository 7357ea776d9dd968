"""`hptctl datasets check`, and what all of `hptctl datasets` refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer
from miniatures import chexpert, image, resisc
from PIL import Image
from program import Hptctl

from hpt.errors import UserError
from hptctl.commands.datasets import check, list_info

pytestmark = pytest.mark.usefixtures("place")


@pytest.fixture
def leaking(place: Path) -> Path:
    """Train, val and test of two classes, with one test image in train and one in val."""
    for number in range(24):
        split = ("train", "train", "val", "test")[number % 4]
        image(place / "mine" / split / "ab"[number // 4 % 2] / f"{number:02d}.png", number, (40, 30))
    shutil.copy(place / "mine/test/a/03.png", place / "mine/train/a/copy.png")
    with Image.open(place / "mine/test/b/07.png") as original:
        original.save(place / "mine/val/b/again.jpg", quality=80)
    return place / "mine"


def facts(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_counts_that_are_not_the_published_ones_are_said(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chexpert(place / "data" / "chexpert")
    check.check("chexpert", as_json=True)
    found = facts(capsys)
    assert found["leaks"] == []
    assert found["not_as_published"] == {
        "train+val": {"found": 20, "published": 223_414},
        "test": {"found": 4, "published": 234},
    }


def test_classes_that_are_not_all_there_are_said(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resisc(place / "data" / "resisc")
    check.check("resisc")
    assert "2 classes instead of 45" in capsys.readouterr().out


def test_a_leak_is_exit_code_1_until_it_is_in_quarantine(
    leaking: Path, capsys: pytest.CaptureFixture[str], hptctl: Hptctl
) -> None:
    done = hptctl("datasets", "check", "mine", code=1)
    assert "train/a/copy.png = test/a/03.png" in done.stdout
    assert "val/b/again.jpg = test/b/07.png" in done.stdout
    assert "2 images leak between train, val and test" in done.stdout
    capsys.readouterr()
    check.check("mine", quarantine=True)
    assert "2 images that runs now leave out" in capsys.readouterr().out
    assert Path("mine.quarantine.csv").read_text().splitlines()[0] == "name,reason"
    check.check("mine")
    out = capsys.readouterr().out
    assert "its quarantine list leaves 2 images out" in out
    assert "nothing leaks" in out
    list_info.info("mine", as_json=True)
    read = facts(capsys)
    assert read["images"] == {"train": 12, "val": 6, "test": 6}
    assert [name for name, _ in read["quarantined"]] == ["train/a/copy.png", "val/b/again.jpg"]


def test_the_sheet_shows_the_two_images_of_a_pair(leaking: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    from hptctl.charts import contact_sheet

    with pytest.raises(typer.Exit):
        check.check("mine", out=Path("pairs.png"), as_json=True)
    found = facts(capsys)
    assert [leak["exact"] for leak in found["leaks"]] == [True, False]
    assert found["sheet"] == "pairs.png"
    place = contact_sheet.layout("mine: 2 leaks, 0 repeats in a split", 2, 2, check.TILE)
    with Image.open("pairs.png") as picture:
        assert picture.size == place.size
        pixels = np.asarray(picture)
    tiles = []
    for column in range(2):
        left, top = place.at(0, column)
        tiles.append(pixels[top : top + check.TILE, left : left + check.TILE])
    assert np.array_equal(*tiles)
    with Image.open("mine/test/a/03.png") as original:
        scale = check.TILE // 40
        expected = np.kron(np.asarray(original), np.ones((scale, scale, 1), dtype=np.uint8))
    height, width, _ = expected.shape
    top, left = (check.TILE - height) // 2, (check.TILE - width) // 2
    assert np.array_equal(tiles[1][top : top + height, left : left + width], expected)


BAD: dict[str, tuple[tuple[str, ...], str]] = {
    "a name that is none": (("prepare", "flower"), "unknown dataset 'flower' (did you mean 'flowers'?)"),
    "a folder to prepare": (("prepare", "mine"), "mine is not a name of the catalogue; a folder"),
    "a correlation that is none": (("check", "mine", "--near", "2"), "--near 2 is not between 0.9 and 1"),
    "a sheet where no folder is": (("check", "mine", "-o", "no/x.png"), "cannot be written to no/x.png"),
    "a dataset that is not here": (("check", "xview"), "xview is not here: xView_train.geojson is missing"),
    "statistics of one that is not here": (("stats", "bdd"), "hptctl datasets prepare bdd says how to get it"),
}


@pytest.mark.parametrize(("given", "expected"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line(
    leaking: Path, given: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from hptctl.cli import app

    with pytest.raises(UserError) as caught:
        app(["datasets", *given], standalone_mode=False)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
