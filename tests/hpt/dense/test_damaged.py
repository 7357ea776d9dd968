"""Annotation files in which something is not as it should be: read, or refused in one line."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from annotated_folders import BOX_LAYOUTS, MASK_LAYOUTS

from hpt.config import DataConfig
from hpt.dense.dataset import load
from hpt.dense.find import tasks_of
from hpt.errors import UserError

pytestmark = pytest.mark.usefixtures("own_cache")
LAYOUTS = [*BOX_LAYOUTS.values(), *MASK_LAYOUTS.values()]
ODD: list[Any] = [None, 1, -1, 0, 1e308, float("nan"), "x", "", [], {}, [1], True, "1", [[1]], 10**30, {"a": 1}, -5.5]
BYTES = [b"<", b"&", b"0 0", b"nan", b"1e400", b",", b"\n", b":", b"[", b"\0", b"9" * 30]


def changed(value: Any, draw: random.Random) -> Any:
    """The same with one thing in it replaced or removed."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(list(value))
        if draw.random() < 0.15:
            del value[key]
        else:
            value[key] = changed(value[key], draw)
        return value
    if isinstance(value, list) and value and draw.random() < 0.85:
        at = draw.randrange(len(value))
        value[at] = changed(value[at], draw)
        return value
    return draw.choice(ODD)


def scrambled(data: bytes, draw: random.Random) -> bytes:
    text = bytearray(data)
    for _ in range(draw.choice([1, 1, 3])):
        at = draw.randrange(len(text) + 1)
        if draw.random() < 0.5:
            del text[at : at + draw.randrange(1, 10)]
        else:
            text[at:at] = draw.choice(BYTES)
    return bytes(text)


@pytest.mark.parametrize("seed", range(45))
def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    layout: Callable[[Path], None] = LAYOUTS[seed % len(LAYOUTS)]
    layout(tmp_path / "set")
    files = [path for path in sorted((tmp_path / "set").rglob("*")) if path.suffix not in (".jpg", ".png", "")]
    file = draw.choice(files)
    if file.suffix == ".json" and draw.random() < 0.8:
        file.write_text(json.dumps(changed(json.loads(file.read_text()), draw)))
    else:
        file.write_bytes(scrambled(file.read_bytes(), draw))
    tasks_of(str(tmp_path / "set"))
    for task in ("detection", "segmentation"):
        try:
            data = load(str(tmp_path / "set"), task, DataConfig(), side=15)  # type: ignore[arg-type]
        except UserError as error:
            assert "\n" not in str(error)
        else:
            for row in range(len(data.dataset.images)):
                (data.boxes if task == "detection" else data.mask)(row)
