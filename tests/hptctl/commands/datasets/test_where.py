"""`hptctl datasets where`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hptctl.commands.datasets import where


def test_it_is_said_where_data_lies(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where.where(as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "data_root": str(place / "data"),
        "own_rows": str(place / "data" / "catalog.toml"),
        "cache": str(place / "cache"),
    }
    where.where("domainnet-real")
    assert f"images: {place / 'data' / 'domainnet'} (missing)" in capsys.readouterr().out
