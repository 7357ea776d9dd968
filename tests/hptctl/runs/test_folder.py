"""A run's folder belongs to one process at a time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from program import wait_for

from hpt.errors import RunError
from hptctl import runs

TINY = ("--preset", "tiny", "--batch-size", "32", "--device", "cpu", "--set", "log_every=1")


def state(run: Path) -> dict[str, object]:
    return json.loads((run / "status.json").read_text())  # type: ignore[no-any-return]


def test_a_second_process_on_a_run_is_refused_and_changes_nothing(
    start, hptctl, workplace, digits_folder: Path
) -> None:
    arguments = ("pretrain", "-s", "target", "-d", str(digits_folder), *TINY, "--steps", "2000", "--name", "live")
    process = start(*arguments)
    wait_for(workplace / "runs/live/metrics.jsonl", process)
    assert "is being worked on by process" in hptctl("pretrain", "--resume", "live", code=2).stderr
    assert state(workplace / "runs/live")["state"] == "running"
    assert "exists already" in hptctl(*arguments, code=2).stderr


def test_a_file_where_the_folder_of_runs_belongs_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("mine")
    with pytest.raises(RunError, match=r"'runs' in .* is a file, where the folder of runs belongs; rename it"):
        runs.create("pretrain", None, "x")
    assert (tmp_path / "runs").read_text() == "mine"
