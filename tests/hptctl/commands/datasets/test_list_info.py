"""`hptctl datasets list` and `info`: what is known, and nothing is fetched for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from program import Hptctl

from hpt.data.catalog import CATALOG
from hptctl.commands.datasets import list_info

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
