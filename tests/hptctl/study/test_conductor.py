"""Studies: a grid as data, its cells done once, whatever happens on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from program import command, wait_for
from small_study import EVALUATIONS, PRETRAININGS, states

from hptctl import runs
from hptctl.runs.weights import find_weights


def test_a_study_does_each_cell_once_and_one_pretraining_feeds_several(
    hptctl, study: Path, workplace: Path, digits_folder: Path
) -> None:
    assert set(states().values()) == {"left"}
    said = hptctl("study", "run", "mine.toml")
    assert "9 of 9 cells are done" in said.stdout
    assert "the base 'own' is the study's own, pretrained on shapes@100" in said.stderr
    assert set(states()) == PRETRAININGS | EVALUATIONS
    assert set(states().values()) == {"done"}
    made = {run.name: run.spec() for run in runs.all_runs()}
    assert sorted(spec.kind for spec in made.values()) == ["knn"] * 5 + ["pretrain"] * 4 + ["study"]
    assert {spec.parent for spec in made.values() if spec.kind != "study"} == {"mine"}
    assert made["hpt-my-digits-s0"].config["save_at"] == [2]
    assert made["knn-hpt-my-digits-s0-2"].tags.steps == 2
    hptctl("study", "run", "mine.toml")
    assert {run.name for run in runs.all_runs()} == set(made)
    hptctl("evaluate", "knn", "own", "-d", str(digits_folder), "--name", "something-else")
    assert "1 dataset, 10 runs" in hptctl("report", "--study", "mine").stdout  # the nine cells and the study itself
    assert "something-else" not in (workplace / "report.html").read_text()
    one = find_weights("hpt-my-digits-s0@2")[1]
    assert one == runs.get("hpt-my-digits-s0")
    assert not runs.is_trial(runs.get("knn-hpt-my-digits-s0-2"))


@pytest.mark.slow
def test_a_failed_cell_stops_none_but_those_that_need_it_and_is_tried_again_when_asked(
    hptctl, study: Path, workplace: Path
) -> None:
    hptctl("study", "run", "mine.toml", "--only", "own")
    process = subprocess.Popen(command("study", "run", "mine.toml", "--only", "target*"), cwd=workplace)
    folder = workplace / "runs" / "target-my-digits-s0-4"
    while not (folder / "run.json").exists():
        assert process.poll() is None
        time.sleep(0.01)
    (folder / "backbone.safetensors").mkdir()  # where its backbone shall go
    assert process.wait() == 1
    found = states()
    assert found["target-my-digits-s0@4"] == "failed"
    assert found["knn-target-my-digits-s0@4"] == "waits"
    some = ("--only", "base*", "--only", "knn-target*")
    again = hptctl("study", "run", "mine.toml", *some, code=1).stderr  # does the other, and leaves that one alone
    assert "mend that, then `hptctl study retry mine.toml --only 'base*' --only 'knn-target*'`" in again
    assert states()["base-my-digits-s0"] == "done"
    assert states()["target-my-digits-s0@4"] == "failed"
    (folder / "backbone.safetensors").rmdir()
    hptctl("study", "retry", "mine.toml")
    assert states()["knn-target-my-digits-s0@4"] == "done"
    assert states()["hpt-my-digits-s0"] == "left"


@pytest.mark.slow
def test_a_study_that_was_killed_goes_on_where_it_was(hptctl, study: Path, workplace: Path) -> None:
    study.write_text(
        study.read_text().replace("hpt = [2, 4]", "hpt = [2, 12]").replace("[set]", "[set]\ncheckpoint_every = 3")
    )
    process = subprocess.Popen(
        command("study", "run", "mine.toml", "--only", "knn-hpt*@12"), cwd=workplace, start_new_session=True
    )
    checkpoints = workplace / "runs" / "hpt-my-digits-s0" / "checkpoints"
    end = time.monotonic() + 120
    while not list(checkpoints.glob("*.sha256")):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = states()
    assert (before["own"], before["hpt-my-digits-s0"]) == ("done", "stopped")
    assert "going on from step" in hptctl("study", "run", "mine.toml", "--only", "knn-hpt*@12").stderr
    assert states()["knn-hpt-my-digits-s0@12"] == "done"
    assert [run.name for run in runs.all_runs() if run.spec().kind == "pretrain"].count("hpt-my-digits-s0") == 1


@pytest.mark.slow
def test_several_jobs_do_what_one_does(hptctl, study: Path, workplace: Path) -> None:
    said = hptctl("study", "run", "mine.toml", "--jobs", "2", "--only", "*base*", "--only", "target*")
    assert "4 of 4 cells are done" in said.stdout
    assert {id for id, state in states().items() if state == "done"} == {
        *("own", "base-my-digits-s0", "knn-base-my-digits-s0", "target-my-digits-s0@4")
    }
    assert all(run.status().state == "finished" for run in runs.all_runs())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_runs_beside_each_other_save_what_they_have_when_their_study_is_ended(
    number: signal.Signals, start, study: Path, workplace: Path
) -> None:
    study.write_text(study.read_text().replace("target = [4]", "target = [2000]"))
    process = start("study", "run", "mine.toml", "--jobs", "2", "--only", "target*")
    run = runs.Run(workplace / "runs" / "target-my-digits-s0-2000")
    wait_for(run.metrics_file, process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) == 1
    process.send_signal(number)
    _, notes = process.communicate(timeout=120)
    assert not psutil.wait_procs(children, timeout=60)[1]
    assert run.status().state == "interrupted"
    assert states()["target-my-digits-s0@2000"] == "stopped"
    assert list((run.path / "checkpoints").glob("*.sha256"))
    if number == signal.SIGTERM:
        assert process.returncode == 128 + number
        assert notes.decode().strip().endswith("go on with `hptctl study run mine.toml --jobs 2 --only 'target*'`")


BEST_LENGTH = """
datasets = ["{dataset}"]
weights = ["own"]
preset = "tiny"
evaluations = ["linear", {{ kind = "finetune", labels = "30" }}]
lengths = "best-by-linear"
strategies = ["base", "hpt"]
floor = false

[steps]
hpt = [1, 3]

[set]
batch_size = 32
device = "cpu"
"linear.steps" = 10
"linear.views" = 1
"finetune.schedule" = "1-steps"
"""


@pytest.mark.slow
def test_a_strategy_is_finetuned_at_the_length_that_val_of_its_linear_probes_chose(
    hptctl, workplace: Path, digits_folder: Path, own: str
) -> None:
    (workplace / "mine.toml").write_text(BEST_LENGTH.format(dataset=digits_folder))
    before = hptctl("study", "plan", "mine.toml").stdout
    assert "\n1 cell of a strategy's best length, which val of its linear probes chooses first\n" in before
    assert "7 cells: 7 left" in before
    said = hptctl("study", "run", "mine.toml", "--only", "finetune-30-hpt*")
    assert "4 of 4 cells are done" in said.stdout  # one pretraining of both lengths, a probe of each, the finetuning
    val = {steps: runs.get(f"linear-hpt-my-digits-s0-{steps}").status().results["val/top1"] for steps in (1, 3)}
    tags = runs.get("finetune-30-hpt-my-digits-s0").spec().tags
    assert tags.steps == max(val, key=lambda steps: val[steps])
    assert states()["finetune-30-hpt-my-digits-s0"] == "done"
    assert "best length" not in hptctl("study", "status", "mine.toml").stdout
    made = {run.name for run in runs.all_runs()}
    hptctl("study", "run", "mine.toml", "--only", "finetune-30-hpt*")
    assert {run.name for run in runs.all_runs()} == made
