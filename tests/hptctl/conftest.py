"""What several tests look at, made once: a report of every situation, and a pretraining."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from login_node import without_torch
from program import checked, made_once, run_inside
from small_study import STUDY

if TYPE_CHECKING:
    from hptctl.report.findings import Findings


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
    from hptctl.report import selection  # with pandas, which a machine that runs the tests marked gpu may lack
    from hptctl.report.selection import Selection

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(report_folder)
        return selection.read(Selection(experiment="test"))


@pytest.fixture(scope="session")
def pretraining(digits_folder: Path, new_store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A working folder with a pretraining, and what its command said."""
    words = ("pretrain", "-s", "target", "-d", str(digits_folder), "--preset", "tiny", "--batch-size", "32")
    words += ("--device", "cpu", "--steps", "4", "--name", "own", "--save-at", "1,2", "--probe-every", "2")

    def make(folder: Path) -> None:
        shutil.copy(new_store, folder)
        (folder / "said").write_text(checked(run_inside, *words).stdout)

    folder = made_once(tmp_path_factory, "pretraining", make)
    return folder, (folder / "said").read_text()


@pytest.fixture
def own(workplace: Path, pretraining: tuple[Path, str]) -> str:
    """A pretraining of 4 steps on the digits, `own`, in the working folder, with its backbones after 1 and 2 of them;
    what its command said."""
    folder, said = pretraining
    shutil.copytree(folder, workplace, dirs_exist_ok=True, ignore=shutil.ignore_patterns("checkpoints", "*.lock"))
    return said


@pytest.fixture
def study(workplace: Path, digits_folder: Path) -> Path:
    """`mine.toml` in the working folder, the study that tests run."""
    path = workplace / "mine.toml"
    path.write_text(STUDY.format(dataset=digits_folder))
    return path


@pytest.fixture
def login(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder on a machine where PyTorch cannot be imported."""
    monkeypatch.setenv("PYTHONPATH", without_torch(workplace / "login"))
    return workplace
