"""The study that tests run."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_study import STUDY


@pytest.fixture
def study(workplace: Path, digits_folder: Path) -> Path:
    path = workplace / "mine.toml"
    path.write_text(STUDY.format(dataset=digits_folder))
    return path
