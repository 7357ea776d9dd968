"""Variables of the libraries below: a run is what its configuration says, and what it does not follow is said."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from program import command

from hptctl import tracking
from hptctl.environment import NOT_FOLLOWED, join_slurm_step, not_followed

SWITCHES = {
    "MLFLOW_EXPERIMENT_ID": "7",
    "MLFLOW_RUN_ID": "0" * 32,
    "MLFLOW_REGISTRY_URI": "sqlite:///registry.db",
    "OPTUNA_STORAGE": "sqlite:///trials.db",
    "ACCELERATE_MIXED_PRECISION": "fp16",
    "ACCELERATE_TORCH_DEVICE": "meta",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_DYNAMO_BACKEND": "inductor",
}


def process(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), env=os.environ | environment, capture_output=True, text=True)


@pytest.mark.slow
def test_a_run_is_what_its_configuration_says_whatever_the_libraries_are_told(workplace: Path) -> None:
    names = {name: SWITCHES.get(name, "true") for name in NOT_FOLLOWED}
    names |= {"PYTHONWARNINGS": "error", "MLFLOW_EXPERIMENT_NAME": "theirs"}
    done = process("evaluate", "knn", "untrained", "-d", "shapes@150", "--preset", "tiny", "--name", "r", **names)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stderr.split())
    assert [said.count(f"note: {name} is not followed: ") for name in [*NOT_FOLLOWED, "PYTHONWARNINGS"]] == [1] * (
        len(NOT_FOLLOWED) + 1
    )
    assert "warning: " not in said
    facts = json.loads(Path("runs/r/status.json").read_text())["facts"]
    assert facts["precision"] == "fp32"
    (tracked,) = tracking.read_runs()
    assert (tracked.name, tracked.experiment, tracked.state) == ("r", "theirs", "FINISHED")
    assert not list(workplace.glob("*registry*")) + list(workplace.glob("*trials*"))


def test_what_is_off_is_not_spoken_of(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(NOT_FOLLOWED, ["", "0", "no", "False", "none", "OFF"] * 2, strict=True):
        monkeypatch.setenv(name, value)
    assert list(not_followed()) == []


@pytest.mark.slow
def test_settings_that_pytorch_does_not_know_are_a_line(workplace: Path) -> None:
    done = process("evaluate", "knn", "untrained", "-d", "shapes@150", "--preset", "tiny", TORCH_LOGS="nonsense")
    assert done.returncode == 2
    (error,) = [line for line in done.stderr.splitlines() if "error: " in line]
    assert error.startswith("error: TORCH_LOGS holds what PyTorch does not know; unset it")


DISTRIBUTED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
STEPS = {
    "two nodes": ("gpu[03-04]", "4(x2)", "5", "1", ("5", "8", "1", "4", "gpu03")),
    "nodes of different sizes": ("a1,b[2,7]-x", "2,1(x2)", "3", "2", ("3", "8", "1", "1", "a1")),
    "one node": ("localhost", "8", "0", "0", ("0", "8", "1", "8", "localhost")),
    "a name with an end": ("r1i[0-3]n0", "2(x4)", "0", "0", ("0", "8", "1", "2", "r1i0n0")),
}


@pytest.mark.parametrize(("nodes", "tasks", "rank", "node", "expected"), STEPS.values(), ids=STEPS.keys())
def test_a_task_of_srun_joins_the_others(
    nodes: str, tasks: str, rank: str, node: str, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*DISTRIBUTED, "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")  # so that it is taken away in the end
        monkeypatch.delenv(name)
    said = {"STEP_NUM_TASKS": "8", "STEP_TASKS_PER_NODE": tasks, "STEP_NODELIST": nodes, "PROCID": rank, "LOCALID": "1"}
    for name, value in (said | {"NODEID": node, "JOB_ID": "123456"}).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    join_slurm_step()
    assert tuple(os.environ[name] for name in DISTRIBUTED) == (*expected, "23456")
    assert int(os.environ["OMP_NUM_THREADS"]) >= 1


def test_what_another_launcher_said_and_a_batch_script_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in DISTRIBUTED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "8")  # of the job, whose script runs once
    monkeypatch.setenv("SLURM_PROCID", "0")
    join_slurm_step()
    assert "RANK" not in os.environ
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    monkeypatch.setenv("RANK", "3")
    join_slurm_step()
    assert "WORLD_SIZE" not in os.environ
