"""`hptctl datasets cache`, on real folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from program import Hptctl

from hpt import files
from hpt.config import DataConfig
from hpt.data import cache as images_cache
from hpt.data.cache_store import entries
from hpt.data.dataset import load
from hpt.data.embedded import OUTLINE_NAMES, draw_shape
from hpt.errors import UserError
from hptctl.commands.datasets import cache


@pytest.fixture
def folder(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three classes of drawn shapes, 8 of each, two sizes; entered, with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    for number in range(64):
        name = OUTLINE_NAMES[number % len(OUTLINE_NAMES)]
        if name in ("circle", "cross", "star"):
            path = tmp_path / "my forms" / name / f"{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw_shape(number)[: 40 + number % 2 * 20]).save(path)
    return tmp_path / "my forms"


def test_the_cache_is_listed_within_80_columns_and_pruned(
    folder: Path, capsys: pytest.CaptureFixture[str], hptctl: Hptctl
) -> None:
    dataset = load(str(folder), DataConfig(), side=72)
    head, *rows, total = hptctl("datasets", "cache").stdout.splitlines()
    assert max(map(len, (head, *rows))) <= 80
    assert rows[0].split()[:2] == ["24", "72"]
    assert "whole, in use" in rows[0]
    assert "".join(row[head.index("dataset") :].rstrip() for row in rows).replace(" ", "") == str(folder).replace(
        " ", ""
    )
    assert total.startswith("1 entry, ")
    kept = hptctl("datasets", "cache", "prune", "--all")
    assert kept.stdout == "removed 0 entries, 0 B\n"
    assert kept.stderr == f"{folder} stays: it is in use\n"
    del dataset
    capsys.readouterr()

    cache.list_cache(as_json=True)
    facts = json.loads(capsys.readouterr().out)
    (stored,) = facts["entries"]
    assert (stored["images"], stored["in_use"], stored["datasets"]) == (24, False, [str(folder)])
    assert facts["bytes"] == stored["bytes"]
    cache.prune(unused_for="1h", as_json=True)
    assert json.loads(capsys.readouterr().out)["removed"] == []
    cache.prune(max_size="0.01 MB", dry_run=True)
    assert "would remove 1 entry" in capsys.readouterr().out
    assert len(entries()) == 1
    cache.prune(max_size="1KiB")
    assert "removed 1 entry" in capsys.readouterr().out
    assert entries() == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"unused_for": "30"}, "--unused-for '30' is not a time; write 12h, 30d or 8w"),
        ({"unused_for": "-3d"}, "is not a time"),
        ({"unused_for": "5GiB"}, "is not a time"),
        ({"max_size": "5"}, "--max-size '5' is not a size; write 500MiB or 5GiB"),
        ({"max_size": "30d"}, "is not a size"),
        ({"everything": True, "max_size": "5GiB"}, "--all leaves nothing"),
    ],
)
def test_bad_input_to_prune_removes_nothing(folder: Path, given: dict[str, Any], expected: str) -> None:
    load(str(folder), DataConfig(), side=72)
    with pytest.raises(UserError, match=expected):
        cache.prune(**given)
    assert len(entries()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_named_and_leaves_nothing(
    hptctl: Hptctl, digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPTCTL_CACHE", str(tmp_path / "full"))
    monkeypatch.setattr(images_cache, "flushed_meanwhile", lambda _: files.flushed_meanwhile(Path("/dev/full")))
    error = hptctl("datasets", "info", str(digits_folder), code=2).stderr
    assert f"No space left on device: {tmp_path / 'full' / 'images'}; free some space, or set HPTCTL_CACHE to" in error
    assert {file.suffix for file in (tmp_path / "full" / "images").iterdir()} == {".lock"}
