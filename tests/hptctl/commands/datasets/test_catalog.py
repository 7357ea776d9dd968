"""`hptctl datasets list|info|prepare|check|stats|where`, as people call them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from miniatures import chexpert
from program import Hptctl

from hpt.data.catalog import CATALOG
from hptctl.commands.datasets import list_info, stats, where

pytestmark = pytest.mark.usefixtures("place")


def facts(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_the_list_has_a_row_for_each_dataset_and_fits_80_columns(place: Path, hptctl: Hptctl) -> None:
    rows = json.loads(hptctl("datasets", "list", "--json").stdout)
    assert [row["name"] for row in rows] == list(CATALOG)
    assert all({"name", "task", "classes", "ready"} <= set(row) for row in rows)
    assert {row["name"] for row in rows if row["ready"]} == {"digits", "shapes"}
    lines = hptctl("datasets", "list").stdout.splitlines()
    assert max(map(len, lines[: len(CATALOG) + 1])) <= 80
    assert next(line for line in lines if line.startswith("coco-2014")).endswith("20.4 GB")
    assert next(line for line in lines if line.startswith("chexpert")).endswith("by hand")


def test_a_dataset_that_a_person_must_fetch_is_said_step_by_step_then_checked(place: Path, hptctl: Hptctl) -> None:
    done = hptctl("datasets", "prepare", "chexpert", "--data-root", "elsewhere", code=2)
    assert done.stdout == ""
    folder = place / "elsewhere" / "chexpert"
    steps = done.stderr.splitlines()
    assert [line[:2] for line in steps[:-1]] == ["1.", "2.", "3.", "4."]
    assert "https://stanfordmlgroup.github.io" in steps[0] and "CheXpert-v1.0-small.zip" in steps[1]
    assert str(folder) in steps[2]
    assert steps[-1].startswith(f"error: chexpert is not here: CheXpert-v1.0*/train.csv is missing in {folder}")

    chexpert(place / "work")  # as its archive comes
    shutil.make_archive(str(folder / "CheXpert-v1.0-small"), "zip", place / "work")
    done = hptctl("--data-root", "elsewhere", "datasets", "prepare", "chexpert")
    assert done.stdout == f"chexpert is ready: 24 images of 5 classes, {folder}\n"
    assert "hptctl datasets check chexpert" in done.stderr


def test_what_is_known_of_a_dataset_that_is_not_here_is_shown_and_nothing_is_fetched(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    list_info.info("flowers")
    out = capsys.readouterr().out
    assert "published: train 1,020, val 1,020, test 6,149" in out
    assert "not here" in out and "hptctl datasets prepare flowers" in out
    list_info.info("flowers", as_json=True)
    row = facts(capsys)
    assert (row["ready"], row["published_mean"]) == (False, [0.4355, 0.3777, 0.2880])
    assert not (place / "data").exists()


def test_statistics_are_those_of_the_pixels(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chexpert(place / "data" / "chexpert")
    stats.stats("chexpert", image_size=32, as_json=True)
    found = facts(capsys)
    assert found["runs_use"]["mean"] == [0.5028] * 3  # the published ones
    assert [row["split"] for row in found["splits"]] == ["train", "val", "test", "train+val"]
    both = found["splits"][-1]
    assert both["images"] == 20
    assert both["mean"] != found["runs_use"]["mean"] and all(0 < value < 1 for value in both["mean"])
    assert (both["height"], both["width"]) == ([16, 16, 16], [20, 20, 20])
    assert 0 < both["classes_per_image"] < 5
    stats.stats("digits", image_size=32)
    assert "runs normalise with mean" in capsys.readouterr().out


def test_it_is_said_where_data_lies(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where.where(as_json=True)
    assert facts(capsys) == {
        "data_root": str(place / "data"),
        "own_rows": str(place / "data" / "catalog.toml"),
        "cache": str(place / "cache"),
    }
    where.where("domainnet-real")
    assert f"images: {place / 'data' / 'domainnet'} (not there)" in capsys.readouterr().out
