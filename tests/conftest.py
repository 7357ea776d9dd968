"""Real small images, a real store, and nothing of the user's own machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from program import Hptctl, checked, command, made_once, run_inside

from hptctl import tracking

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Two tests run at a time: on two cores, teams of threads would spin while they wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A test that plays a broken connection would have PyTorch write C++ stacks into the tests' own output.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
# Without bytecode each process that a test starts would compile hundreds of files anew, of the libraries too where the
# installer has not compiled those: up to half of its time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["HPTCTL_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["HPTCTL_DATA"] = str(tmp_path_factory.mktemp("data"))
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        os.environ.pop(name, None)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own: the folder of its images."""
    monkeypatch.setenv("HPTCTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`0/ 1/ 2/` with 40 scans of handwritten digits each, PNG, 16 px."""
    from sklearn.datasets import load_digits

    def make(folder: Path) -> None:
        scans = load_digits()
        for digit in range(3):
            (folder / "my digits" / str(digit)).mkdir(parents=True)
            for number, scan in enumerate(scans.images[scans.target == digit][:40]):
                pixels = np.kron(scan * 255 / 16, np.ones((2, 2))).astype(np.uint8)
                Image.fromarray(pixels).save(folder / "my digits" / str(digit) / f"scan {number:02d}.png")

    return made_once(tmp_path_factory, "images", make) / "my digits"


@pytest.fixture(scope="session")
def new_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store as MLflow makes it on first use, which takes seconds: made once, copied for each test."""
    return made_once(tmp_path_factory, "store", lambda _: tracking.client()) / "mlflow.db"


@pytest.fixture
def workplace(tmp_path: Path, new_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a tracking store that holds nothing yet, entered."""
    shutil.copy(new_store, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def report_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a store that holds every situation of a report, and `report.html` on it."""
    from tracked_store import Store, fill

    from hptctl.report import page
    from hptctl.report.selection import Selection

    def make(folder: Path) -> None:
        fill(Store())
        page.write(folder / "report.html", Selection(experiment="test"))

    return made_once(tmp_path_factory, "report", make)


@pytest.fixture
def hptctl(workplace: Path) -> Hptctl:
    """Run `hptctl` in the working folder, inside this process; its output, and its exit code to be checked."""
    return partial(checked, run_inside)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real image sets beside a developer's checkout."""
    folder = Path(__file__).parents[1] / ".." / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real image sets are not beside this checkout")
    return folder.resolve()


@pytest.fixture
def start(workplace: Path):
    """Start `hptctl` and leave it running; killed at the end if it still runs."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command(*arguments), cwd=workplace, stderr=subprocess.PIPE, start_new_session=True)
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
