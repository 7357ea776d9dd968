"""A working folder with every situation of a report, and what the report makes of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hptctl.report import selection
from hptctl.report.findings import Findings
from hptctl.report.selection import Selection


@pytest.fixture
def folder(report_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a filled store, entered."""
    monkeypatch.chdir(report_folder)
    return report_folder


@pytest.fixture
def copied(report_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the store, to be changed; the runs' folders are the original's."""
    for name in ("mlflow.db", "mlflow.db-wal", "mlflow.db-shm"):
        if (report_folder / name).exists():
            shutil.copy(report_folder / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def findings(report_folder: Path) -> Findings:
    """What the report makes of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(report_folder)
        return selection.read(Selection(experiment="test"))
