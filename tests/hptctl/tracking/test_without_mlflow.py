"""A machine that only trains may lack MLflow: its runs stay in their folders, and are brought to the store later."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from program import Hptctl, command

from hptctl import runs, tracking

LINE = "MLflow is not installed here: runs stay in their folders, `hptctl runs sync` brings them later"


@pytest.fixture
def without_mlflow(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that cannot import MLflow."""
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "mlflow.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'mlflow'\", name='mlflow')"
    )
    return os.environ | {"PYTHONPATH": str(tmp_path / "shadow")}


@pytest.mark.slow
def test_a_run_without_mlflow_says_so_in_one_line_and_is_brought_to_the_store_later(
    workplace: Path, hptctl: Hptctl, without_mlflow: dict[str, str], digits_folder: Path
) -> None:
    words = ("pretrain", "-s", "target", "-d", str(digits_folder), "--preset", "tiny", "--steps", "2", "--name", "away")
    small = ("--batch-size", "16", "--image-size", "16", "--set", "log_every=1")
    done = subprocess.run(
        command(*words, *small), env=without_mlflow, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(LINE) == 1
    assert done.stderr.count("MLflow") + done.stderr.count("mlflow") == 1
    assert not tracking.read_runs()
    hptctl("runs", "sync")
    (record,) = tracking.read_runs()
    assert (record.name, record.state) == ("away", "FINISHED")
    assert record.metrics["loss"] == list(runs.get("away").metrics())[-1]["loss"]


def test_one_process_says_it_once_and_what_needs_the_store_is_refused_in_a_line(
    workplace: Path, without_mlflow: dict[str, str]
) -> None:
    program = """
from hpt.errors import RunError
from hptctl import console, runs, tracking
from hptctl.runs.record import Tags
console.show_library_notes()
for name in "ab":
    run = runs.create("pretrain", name, name, config={}, tags=Tags(), command="", experiment="e")
    with tracking.tracked(run, at_once=True) as tracker:
        tracker.log({"loss": 1.0}, 1)
try:
    tracking.sync(run)
except RunError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=without_mlflow, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"warning: {LINE}\n"
    assert done.stdout.startswith("MLflow is not installed here; ")
