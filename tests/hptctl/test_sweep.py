"""Sweeps with a real Optuna storage and real finetunings."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import command

CELLS = [(lr, schedule) for lr in (0.01, 0.001) for schedule in ("2-steps", "3-steps")]
SWEEP = ("sweep", "finetune", "base", "--schedule", "2-steps,3-steps", "--labels", "30", "--name", "s")
SMALL = ("--set", "finetune.batch_size=16", "--set", "finetune.eval_every=1")


@pytest.fixture
def base(hptctl, digits_folder: Path) -> None:
    hptctl(
        "pretrain",
        "-s",
        "target",
        "-d",
        str(digits_folder),
        *("--preset", "tiny", "--batch-size", "32"),
        *("--steps", "1", "--name", "base"),
    )


def trials(hptctl) -> list[dict[str, object]]:
    return json.loads(hptctl("sweep", "export", "s", "--format", "json").stdout)  # type: ignore[no-any-return]


def test_a_sweep_does_every_cell_once_and_tests_its_winner_alone(base: None, hptctl, workplace: Path) -> None:
    hptctl(*SWEEP, *SMALL)
    rows = trials(hptctl)
    assert sorted((t["params"]["lr"], t["params"]["schedule"]) for t in rows) == sorted(CELLS)
    assert {t["state"] for t in rows} == {"complete"}

    results = {
        t["run"]: json.loads((workplace / "runs" / t["run"] / "status.json").read_text())["results"] for t in rows
    }
    tested = [name for name, figures in results.items() if any(key.startswith("test/") for key in figures)]
    best = max(rows, key=lambda t: (t["value"], -t["number"]))
    assert tested == [best["run"]]
    sweep = json.loads((workplace / "runs/s/status.json").read_text())
    assert sweep["facts"]["winner"] == best["run"]
    assert sweep["results"]["test/top1"] == results[best["run"]]["test/top1"]
    assert sweep["results"]["val/top1"] == best["value"]

    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{workplace / 'mlflow.db'}")
    parent = json.loads((workplace / "runs/s/tracking.json").read_text())["run_id"]
    for row in rows:
        child = client.get_run(row["mlflow_run_id"])
        assert child.data.tags["mlflow.parentRunId"] == parent
        assert child.info.status == "FINISHED"
        assert ("test/top1" in child.data.metrics) == (row["run"] == best["run"])
    assert client.get_run(parent).data.metrics["test/top1"] == sweep["results"]["test/top1"]

    table = list(csv.DictReader(io.StringIO(hptctl("sweep", "export", "s", "--format", "csv").stdout)))
    assert [float(row["value"]) for row in table] == [t["value"] for t in rows]
    assert "val chose" in hptctl("sweep", "show", "s").stdout

    again = hptctl("sweep", "finetune", "--resume", "s")  # nothing is left to do
    assert "cell" not in again.stderr
    assert trials(hptctl) == rows


def test_a_killed_sweep_goes_on_with_the_cells_that_are_left(base: None, hptctl, workplace: Path) -> None:
    process = subprocess.Popen(
        command(*SWEEP, *SMALL), cwd=workplace, stderr=subprocess.DEVNULL, start_new_session=True
    )
    end = time.monotonic() + 120
    second = workplace / "runs/s-trial1/metrics.jsonl"
    while not second.exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    hptctl("sweep", "finetune", "--resume", "s")
    rows = trials(hptctl)
    done = sorted((t["params"]["lr"], t["params"]["schedule"]) for t in rows if t["state"] == "complete")
    assert done == sorted(CELLS)
    assert rows[0]["state"] == "complete"
    assert rows[0]["run"] == "s-trial0"  # the finished cell was not done again


def test_a_cell_that_finetuning_would_refuse_starts_nothing(base: None, hptctl, workplace: Path) -> None:
    for bad in (("--schedule", "0-steps"), ("--lr", "0"), ("--lr", "fast"), ("--schedule", ",")):
        done = hptctl("sweep", "finetune", "base", "--name", "bad", *bad, code=2)
        assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert not (workplace / "runs/bad").exists()
