"""A study whose cells are jobs, of this machine's processes; `cluster/test_slurm.py` has a real Slurm."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from login_node import SETUP, given
from program import command, wait_for
from small_study import states

from hptctl import runs
from hptctl.cluster.jobs import remembered

JOBS = ("--on", "local", "--cluster", "array_parallelism=2", "--cluster", SETUP)


@pytest.mark.slow
def test_a_study_is_done_by_jobs_for_a_command_that_has_no_torch(study: Path, login: Path) -> None:
    some = ("--only", "target*")
    said = given("study", "run", "mine.toml", *some, *JOBS)
    assert "to look at the images and weights first" in said.stderr
    assert "1 of 1 cells are done" in said.stdout
    found = json.loads((login / "runs/mine/look/found.json").read_text())
    assert set(found["precision"].values()) == {"fp32"}
    run = runs.get("target-my-digits-s0-4")
    assert (run.status().state, run.spec().parent) == ("finished", "mine")
    assert states()["target-my-digits-s0@4"] == "done"  # as who looks here finds it
    assert remembered(login / "runs/mine") == []


@pytest.mark.slow
def test_a_study_by_jobs_has_the_bits_and_the_runs_of_one_without(
    study: Path, login: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "9 of 9 cells are done" in given("study", "run", "mine.toml", *JOBS).stdout
    status = given("study", "status", "mine.toml").stdout
    assert "9 cells: 9 done" in status
    assert set(states().values()) == {"done"}
    elsewhere = {run.name: run for run in runs.all_runs()}
    assert "9 of 9 cells are done" in given("study", "run", "mine.toml", *JOBS).stdout  # and nothing is done again
    assert {run.name for run in runs.all_runs()} == set(elsewhere)
    folder = tmp_path_factory.mktemp("plain")
    shutil.copy(study, folder)
    elsewhere = {name: runs.Run(run.path.resolve()) for name, run in elsewhere.items()}
    monkeypatch.chdir(folder)
    monkeypatch.delenv("PYTHONPATH")
    given("study", "run", "mine.toml")
    here = {run.name: run for run in runs.all_runs()}
    assert here.keys() == elsewhere.keys()
    for name, run in here.items():
        alone, by_job = (
            {key: value for key, value in each.status().results.items() if key != "images_per_second"}
            for each in (run, elsewhere[name])
        )
        assert alone == by_job
        assert run.status().facts == elsewhere[name].status().facts
        if run.backbone.exists():
            assert run.backbone.read_bytes() == elsewhere[name].backbone.read_bytes()


@pytest.mark.slow
def test_a_command_that_was_killed_finds_its_jobs_and_sends_no_cell_twice(study: Path, login: Path) -> None:
    study.write_text(
        study.read_text().replace("target = [4]", "target = [60]").replace("[set]", "[set]\ncheckpoint_every = 3")
    )
    words = ("study", "run", "mine.toml", "--only", "knn-target*", *JOBS)
    process = subprocess.Popen(command(*words))
    folder = login / "runs/target-my-digits-s0-60"
    wait_for(folder / "metrics.jsonl", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (job,) = remembered(login / "runs/mine")
    assert psutil.pid_exists(int(job.id or 0))
    said = given("study", "status", "mine.toml", "--only", "knn-target*").stdout
    assert "2 cells: 1 running, 1 left; jobs: 1 run" in said
    inner = [each for each in psutil.Process(int(job.id or 0)).children(recursive=True) if "hptctl" in each.cmdline()]
    os.kill(inner[0].pid, signal.SIGKILL)
    said_again = given(*words)
    assert "2 of 2 cells are done" in said_again.stdout
    assert "was lost" in said_again.stderr
    assert "to look at" not in said_again.stderr  # what was found before the jobs were sent holds
    assert [run.name for run in runs.all_runs() if run.spec().kind == "pretrain"] == ["target-my-digits-s0-60"]
    log = next((login / "runs/mine/jobs").glob("*_log.out"))
    assert log.exists()


@pytest.mark.slow
def test_a_command_that_does_not_wait_sends_what_is_ready(study: Path, login: Path) -> None:
    words = ("study", "run", "mine.toml", "--only", "knn-target*", *JOBS)
    said = given(*words, "--detach").stdout
    assert "0 of 2 cells done, 1 in the queue\nthe same command sends what has become ready" in said
    assert "2 of 2 cells are done" in given(*words).stdout
