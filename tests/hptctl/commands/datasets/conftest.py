"""A place for datasets."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from program import Hptctl, checked, run_inside


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, a cache and a data root of the test's own; entered."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HPTCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HPTCTL_DATA", str(tmp_path / "data"))
    return tmp_path


@pytest.fixture
def hptctl(monkeypatch: pytest.MonkeyPatch) -> Hptctl:
    """Run `hptctl` where the test is, in a terminal of 80 columns, without a tracking store."""
    monkeypatch.setenv("COLUMNS", "80")
    return partial(checked, run_inside)
