"""Sweeps as commands: real finetunings by real worker processes, killed and stopped on the way."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import psutil
import pytest
from program import checked, command, made_once, run_inside

from hptctl.sweep import folder as search

CELLS = [(lr, schedule) for schedule in ("4-steps", "6-steps") for lr in (0.01, 0.001)]
GRID = ("--schedule", "4-steps,6-steps")
SMALL = ("--labels", "30", "--set", "finetune.batch_size=16", "--set", "finetune.eval_every=2")
SMALL += ("--set", "checkpoint_every=2", "--device", "cpu")
ONE = {"OMP_NUM_THREADS": "1"}  # sums of floats must not depend on how many workers share the cores
Rows = list[dict[str, Any]]


class Place:
    """A working folder with a pretraining, `own`, in which sweeps of several names are made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        with pytest.MonkeyPatch.context() as patch, contextlib.chdir(self.folder):
            for name, value in ONE.items():
                patch.setenv(name, value)
            return checked(run_inside, *arguments, code=code)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A command that is not waited for, in a process group of its own."""
        return subprocess.Popen(
            command(*arguments), cwd=self.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True, env=os.environ | ONE,
        )  # fmt: skip

    def trials(self, sweep: str) -> Rows:
        """As `hptctl sweep export` has them, without starting a process."""
        with contextlib.chdir(self.folder):
            rows: Rows = json.loads(json.dumps([asdict(trial) for trial in search.trials(search.get(sweep))]))
        return rows

    def status(self, run: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "runs" / run / "status.json").read_text())
        return found

    def values(self, sweep: str) -> dict[tuple[float, str], float]:
        """Of each cell, which must have one complete trial."""
        done = [trial for trial in self.trials(sweep) if trial["state"] == "complete"]
        found = {(t["params"]["lr"], t["params"]["schedule"]): t["value"] for t in done}
        assert len(found) == len(done)
        return found


@pytest.fixture(scope="module")
def place(pretraining: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Place:
    """With the sweep `s`, by one worker: made once for all the processes of the tests, of which each has a copy."""
    aside = shutil.ignore_patterns("checkpoints", "*.lock")

    def make(folder: Path) -> None:
        shutil.copytree(pretraining[0], folder, dirs_exist_ok=True, ignore=aside)
        Place(folder)("sweep", "finetune", "own", *GRID, *SMALL, "--name", "s")

    folder = tmp_path_factory.mktemp("sweeps") / "here"
    shutil.copytree(made_once(tmp_path_factory, "swept", make), folder, ignore=aside)
    return Place(folder)


@pytest.fixture(scope="module")
def undisturbed(place: Place) -> dict[tuple[float, str], float]:
    """What became of the sweep `s`."""
    return place.values("s")


def wait_for(there: Callable[[], object], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not there():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [p for p in psutil.Process(process.pid).children() if "hptctl.sweep.worker" in p.cmdline()]


def test_a_sweep_does_every_cell_once_and_tests_its_winner_alone(
    place: Place, undisturbed: dict[tuple[float, str], float]
) -> None:
    rows = place.trials("s")
    assert [(t["params"]["lr"], t["params"]["schedule"]) for t in rows] == CELLS
    assert {t["state"] for t in rows} == {"complete"}

    shared = [place.status(t["run"])["facts"].get("shared_steps") for t in rows]
    assert shared == [None, None, "1", "1"]  # the step before the first learning rate drops is made once
    assert not (place.folder / "runs/s/common").exists()

    results = {t["run"]: place.status(t["run"])["results"] for t in rows}
    tested = [name for name, figures in results.items() if any(key.startswith("test/") for key in figures)]
    best = max(rows, key=lambda t: (t["value"], -t["number"]))
    assert tested == [best["run"]]
    sweep = place.status("s")
    assert sweep["facts"]["winner"] == best["run"]
    assert sweep["results"]["test/top1"] == results[best["run"]]["test/top1"]
    assert sweep["results"]["val/top1"] == best["value"]

    assert json.loads(place("sweep", "export", "s", "--format", "json").stdout) == rows
    table = list(csv.DictReader(io.StringIO(place("sweep", "export", "s", "--format", "csv").stdout)))
    assert [float(row["value"]) for row in table] == [t["value"] for t in rows]
    assert [row["schedule"] for row in table] == [schedule for _, schedule in CELLS]
    assert "val chose" in place("sweep", "show", "s").stdout
    assert f"run {best['run']}" in place("sweep", "best", "s").stdout
    assert json.loads(place("sweep", "best", "s", "--json").stdout)["fields"]["finetune.lr"] == best["params"]["lr"]
    listed = json.loads(place("sweep", "list", "--json").stdout)
    assert ("s", "finetune", "finished", 4) in [(x["name"], x["target"], x["state"], x["trials"]) for x in listed]

    again = place("sweep", "finetune", "--resume", "s")  # nothing is left to do
    assert "finished already" in again.stderr
    assert place.trials("s") == rows
    refused = place("sweep", "linear", "--resume", "s", code=2)
    assert "hptctl sweep finetune --resume s" in refused.stderr


def test_trials_and_their_tracked_runs_are_linked_both_ways_and_the_parent_has_the_plots(
    place: Place, undisturbed: dict[tuple[float, str], float]
) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{place.folder / 'mlflow.db'}")
    parent = json.loads((place.folder / "runs/s/tracking.json").read_text())["run_id"]
    winner = place.status("s")["facts"]["winner"]
    for row in place.trials("s"):
        child = client.get_run(row["mlflow_run_id"])
        assert child.data.tags["mlflow.parentRunId"] == parent
        assert child.data.tags["trial"] == str(row["number"])
        assert child.info.status == "FINISHED"
        assert ("test/top1" in child.data.metrics) == (row["run"] == winner)
    found = client.get_run(parent)
    assert found.data.metrics["test/top1"] == place.status("s")["results"]["test/top1"]
    assert found.data.params["space.dimensions.lr.values"] == "[0.01, 0.001]"
    assert found.data.tags["chosen"] == place.status("s")["facts"]["chosen"]
    plots = {artifact.path for artifact in client.list_artifacts(parent)}
    assert {f"sweep-{plot}.svg" for plot in ("history", "parallel", "heat-map", "timeline")} <= plots
    for plot in (place.folder / "runs/s/artifacts").glob("*.svg"):
        assert "svg" in ElementTree.parse(plot).getroot().tag


@pytest.mark.slow
def test_with_a_worker_killed_and_the_command_stopped_the_figures_are_an_undisturbed_sweeps(
    place: Place, undisturbed: dict[tuple[float, str], float]
) -> None:
    process = place.start("sweep", "finetune", "own", *GRID, *SMALL, "--name", "k", "--workers", "2")
    runs = place.folder / "runs"
    wait_for(lambda: [*runs.glob("k-trial1/checkpoints/*.sha256")], process)
    doomed = place.status("k-trial1")["pid"]
    (worker,) = [each for each in workers_of(process) if each.pid == doomed]
    worker.kill()
    wait_for(lambda: place.status("k-trial1").get("pid") not in (0, doomed), process)  # another has taken it up

    begun = workers_of(process)
    process.send_signal(signal.SIGTERM)
    _, notes = process.communicate(timeout=100)
    assert process.returncode == 128 + signal.SIGTERM
    assert "was killed by SIGKILL: trial 1 goes on in another" in notes
    assert notes.strip().splitlines()[-1].endswith("go on with `hptctl sweep finetune --resume k`")
    assert not any(each.is_running() for each in begun)
    assert place.status("k")["state"] == "interrupted"
    states = {trial["state"] for trial in place.trials("k")}
    assert "waiting" in states
    assert states <= {"waiting", "complete"}

    place("sweep", "finetune", "--resume", "k", "--workers", "1")
    rows = place.trials("k")
    assert [trial["run"] for trial in rows] == [f"k-trial{number}" for number in range(4)]
    assert place.values("k") == undisturbed
    assert place.status("k")["results"] == place.status("s")["results"]


@pytest.mark.slow
def test_a_sweep_is_not_begun_twice_and_goes_on_when_its_command_was_killed(
    place: Place, undisturbed: dict[tuple[float, str], float]
) -> None:
    process = place.start("sweep", "finetune", "own", *GRID, *SMALL, "--lr", "0.001", "--name", "d")
    wait_for(lambda: (place.folder / "runs/d-trial0/metrics.jsonl").exists(), process)
    second = place("sweep", "finetune", "--resume", "d", code=2)
    assert f"is being worked on by process {process.pid}" in second.stderr
    (worker,) = workers_of(process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    worker.wait(timeout=60)  # which ends by itself when its command has
    place("sweep", "finetune", "--resume", "d")
    assert place.values("d").items() <= undisturbed.items()
    assert [trial["run"] for trial in place.trials("d")] == ["d-trial0", "d-trial1"]


@pytest.mark.slow
def test_a_failed_trial_is_shown_with_its_reason_and_retried_alone(place: Place) -> None:
    in_the_way = place.folder / "runs/f-trial1"
    in_the_way.mkdir()
    (in_the_way / "run.json").write_text("{")
    arguments = ("--lr", "0.01,0.001", "--schedule", "2-steps", *SMALL, "--name", "f")
    place("sweep", "finetune", "own", *arguments)
    shown = place("sweep", "show", "f").stdout
    assert "failed: 1: runs/f-trial1/run.json is damaged" in shown
    assert place.status("f")["facts"]["winner"] == "f-trial0"
    before = (place.folder / "runs/f-trial0/status.json").read_bytes()

    shutil.rmtree(in_the_way)
    place("sweep", "retry", "f")
    rows = place.trials("f")
    assert [(t["number"], t["slot"], t["state"]) for t in rows] == [
        (0, 0, "complete"),
        (1, 1, "fail"),
        (2, 1, "complete"),
    ]
    assert rows[2]["params"] == {"lr": 0.001, "schedule": "2-steps"}
    assert (place.folder / "runs/f-trial0/status.json").read_bytes() == before
    assert "no trial of 'f' has failed" in place("sweep", "retry", "f").stderr


@pytest.mark.slow
def test_pruned_trials_free_their_workers_and_are_shown_as_such(place: Place) -> None:
    # Rates that learn nothing, after four that do; BatchNorm's statistics alone move what a linear probe does not see.
    (place.folder / "space.toml").write_text("lr = [30.0, 10.0, 20.0, 15.0, 1e-12, 2e-12]\n")
    arguments = ("--space", "space.toml", "--name", "p", "--pruner", "median", "--workers", "2", "-d", "digits")
    arguments += ("--set", "linear.steps=40", "--set", "linear.eval_every=4", "--device", "cpu")
    place("sweep", "linear", "own", *arguments)
    rows = place.trials("p")
    pruned = [trial for trial in rows if trial["state"] == "pruned"]
    assert {trial["params"]["lr"] for trial in pruned} & {1e-12, 2e-12}
    for trial in pruned:
        assert trial["value"] is None
        assert trial["reason"].startswith("pruned at ")
        status = place.status(trial["run"])
        assert (status["state"], status["reason"]) == ("pruned", trial["reason"])
    assert "pruned at" in place("sweep", "show", "p").stdout


@pytest.mark.slow
def test_with_several_seeds_their_mean_is_the_objective_and_each_of_the_winners_is_tested(place: Place) -> None:
    place("sweep", "finetune", "own", "--lr", "0.01", "--schedule", "2-steps", *SMALL, "--name", "r", "--repeats", "2")
    (trial,) = place.trials("r")
    assert trial["runs"] == ["r-trial0-seed0", "r-trial0-seed1"]
    results = [place.status(name)["results"] for name in trial["runs"]]
    assert trial["value"] == pytest.approx(sum(each["val/top1"] for each in results) / 2)
    sweep = place.status("r")["results"]
    assert sweep["test/top1"] == pytest.approx(sum(each["test/top1"] for each in results) / 2)
    assert sweep["test/top1_std"] == pytest.approx(abs(results[0]["test/top1"] - results[1]["test/top1"]) / 2**0.5)


@pytest.mark.slow
def test_the_same_command_elsewhere_joins_through_the_storage_and_another_is_refused(
    place: Place, undisturbed: dict[tuple[float, str], float], tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'trials.db'}"
    sweep = ("sweep", "finetune", "own", *GRID, *SMALL, "--name", "j", "--storage", url)
    (tmp_path / "runs").mkdir()
    shutil.copytree(place.folder / "runs/own", tmp_path / "runs/own")
    elsewhere = Place(tmp_path)
    here = place.start(*sweep)
    wait_for(lambda: (place.folder / "runs/j-trial0/metrics.jsonl").exists(), here)
    refused = elsewhere(*sweep, "--lr", "0.1", code=2)
    assert "the space of lr is 0.01, 0.001 there, 0.1 here" in refused.stderr
    assert not (tmp_path / "runs/j").exists()
    there = elsewhere.start(*sweep)
    beside = place.start(*sweep)  # a second command in the same folder adds its worker, too
    for process in (here, there, beside):
        out, notes = process.communicate(timeout=250)
        assert process.returncode == 0, notes
        assert "val chose" in out
    assert place.values("j") == undisturbed
    assert elsewhere.trials("j") == place.trials("j")
    assert elsewhere.status("j")["results"]["test/top1"] == place.status("s")["results"]["test/top1"]
    tested = [
        run
        for folder in (place.folder, tmp_path)
        for run in folder.glob("runs/j-trial*")
        if any(key.startswith("test/") for key in json.loads((run / "status.json").read_text())["results"])
    ]
    assert len(tested) == 1


@pytest.mark.slow
def test_pretraining_is_swept_by_nearest_neighbours_on_val(place: Place, digits_folder: Path) -> None:
    arguments = ("-s", "hpt", "-w", "own", "-d", str(digits_folder), "--preset", "tiny", "--set", "batch_size=32")
    done = place("sweep", "pretrain", *arguments, "--steps", "1,2", "--lr", "0.03", "--name", "pre", "--device", "cpu")
    assert "knn on val is the objective" in done.stderr
    rows = place.trials("pre")
    assert [trial["params"] for trial in rows] == [{"lr": 0.03, "steps": 1}, {"lr": 0.03, "steps": 2}]
    assert [trial["run"] for trial in rows] == ["pre-trial0-knn", "pre-trial1-knn"]
    tested = [trial["run"] for trial in rows if "test/top1" in place.status(trial["run"])["results"]]
    assert tested == [place.status("pre")["facts"]["winner"]]
    for trial in rows:
        assert trial["value"] == place.status(trial["run"])["results"]["val/top1"]


@pytest.mark.slow
def test_after_its_timeout_a_sweep_begins_no_trial_and_retry_does_what_was_left(place: Place) -> None:
    arguments = ("--lr", "0.01", "--schedule", "2-steps", *SMALL, "--name", "late")
    late = place("sweep", "finetune", "own", *arguments, "--timeout", "0.1s", code=2)
    assert "not begun before the timeout" in late.stderr
    assert not (place.folder / "runs/late-trial0").exists()
    place("sweep", "retry", "late")
    assert [trial["state"] for trial in place.trials("late")] == ["fail", "complete"]


def test_what_is_wrong_is_one_line_and_starts_nothing(
    place: Place, undisturbed: dict[tuple[float, str], float]
) -> None:
    for bad, says in (
        (("--schedule", "0-steps"), "schedule '0-steps'"),
        (("--lr", "0"), "finetune.lr = 0.0"),
        (("--lr", "0.1..0.01"), "is empty"),
        (("--set", "finetune.momentumm=0.1,0.9"), "did you mean 'finetune.momentum'"),
        (("--workers", "0"), "--workers 0"),
        (("--storage", "sqlite:////no/such/folder/t.db"), "there is no folder /no/such/folder"),
        (("--sampler", "grid", "--lr", "0.01..0.1"), "--sampler grid"),
    ):
        done = place("sweep", "finetune", "own", "--name", "bad", *bad, code=2)
        (line,) = done.stderr.strip().splitlines()
        assert line.startswith("error: ")
        assert says in line
        assert not (place.folder / "runs/bad").exists()
    same = place("sweep", "finetune", "own", *GRID, *SMALL, "--name", "s", code=2)
    assert "hptctl sweep finetune --resume s" in same.stderr
    other = place("sweep", "finetune", "own", "--lr", "0.5", *GRID, *SMALL, "--name", "s", code=2)
    assert "the space of lr is 0.01, 0.001 there, 0.5 here" in other.stderr


@pytest.mark.slow
def test_the_dashboard_opens_on_a_sweep(place: Place, undisturbed: dict[tuple[float, str], float]) -> None:
    pytest.importorskip("optuna_dashboard", reason="the extra 'dashboard' is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("optuna-dashboard")
    arguments = [str(program), str(place.folder / "runs/s/optuna.journal"), "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies") as answer:
                    studies = json.load(answer)
                break
            except OSError:
                assert server.poll() is None
                assert time.monotonic() < end
                time.sleep(0.1)
    finally:
        server.terminate()
        server.wait(timeout=20)
    assert [study["study_name"] for study in studies["study_summaries"]] == ["s"]
