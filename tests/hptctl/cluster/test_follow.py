"""One run as a job, of this machine's processes, for a command that has no PyTorch."""

from __future__ import annotations

from pathlib import Path

import pytest
from login_node import SETUP, given

from hptctl import runs
from hptctl.cluster.jobs import remembered

JOBS = ("--on", "local", "--cluster", SETUP)


@pytest.mark.slow
def test_an_evaluation_is_a_job_for_a_command_that_has_no_torch(own: str, login: Path) -> None:
    said = given("evaluate", "knn", "own", "--device", "cpu", *JOBS)
    assert "was sent; it writes runs/knn-own/jobs" in said.stderr
    assert "class by class: hptctl evaluate show knn-own" in said.stdout
    run = runs.get("knn-own")
    assert (run.status().state, remembered(run.path)) == ("finished", [])
    assert "--on" not in run.spec().command
    assert "Job completed successfully" in next((run.path / "jobs").glob("*_log.out")).read_text()


@pytest.mark.slow
def test_a_single_run_is_a_job_that_is_waited_for_or_not(login: Path, digits_folder: Path) -> None:
    words = ("-d", str(digits_folder), "--preset", "tiny", "--batch-size", "32", "--device", "cpu")
    said = given("pretrain", "-s", "target", *words, "--steps", "3", "--name", "own", *JOBS)
    assert "runs on" in said.stderr
    assert "backbone: runs/own/backbone.safetensors" in said.stdout
    said = given("evaluate", "knn", "own", "--device", "cpu", *JOBS, "--detach")
    assert "wait for it with `hptctl evaluate knn --resume knn-own --on local --cluster 'setup=" in said.stderr.replace(
        "\n", " "
    )
    given("evaluate", "knn", "--resume", "knn-own", *JOBS)
    assert runs.get("knn-own").status().state == "finished"
    words = ("sweep", "finetune", "own", "--lr", "0.01,0.1", "--schedule", "2-steps", "--device", "cpu", *JOBS)
    assert "2" in given(*words, "--name", "rates").stdout
    assert runs.get("rates").status().state == "finished"
    refused = given("evaluate", "knn", "own", "--all-checkpoints", *JOBS, code=2).stderr
    assert "--all-checkpoints evaluates here" in refused
