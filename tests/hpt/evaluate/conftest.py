"""A dataset of several labels per image."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpt.config import DataConfig
from hpt.data.dataset import Dataset, load


@pytest.fixture(scope="session")
def several(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The digits as a multi-label set: `round` (0), `even` (0 and 2), `open` (1 and 2), and `rare`, of three images."""
    root = tmp_path_factory.mktemp("several")
    rows = ["path,round,even,open,rare"]
    for path in sorted(digits_folder.rglob("*.png")):
        digit, number = int(path.parent.name), int(path.stem.split()[1])
        flags = (digit == 0, digit in (0, 2), digit > 0, digit == 1 and number < 3)
        rows.append(f"{path},{','.join(str(int(flag)) for flag in flags)}")
    table = root / "several.csv"
    table.write_text("\n".join(rows) + "\n")
    return load(str(table), DataConfig(), side=DataConfig().side(32))
