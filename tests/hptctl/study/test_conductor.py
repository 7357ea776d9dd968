"""Studies: a grid as data, its cells done once, whatever happens on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import command

from hpt.errors import ConfigError
from hptctl import runs
from hptctl.runs.weights import backbone_of, find_weights
from hptctl.study import definition as grid
from hptctl.study.definition import Cell
from hptctl.study.progress import Progress
from hptctl.sweep.plan import configs

STUDY = """
datasets = ["{dataset}"]
weights = ["own"]
preset = "tiny"
evaluations = ["knn"]
strategies = ["base", "target", "hpt"]

[steps]
hpt = [2, 4]
target = [4]

[set]
batch_size = 32
device = "cpu"

[[bases]]
name = "own"
dataset = "shapes@100"
strategy = "target"
steps = 3
"""
PRETRAININGS = {"own", "base-my-digits-s0", "target-my-digits-s0@4", "hpt-my-digits-s0"}
EVALUATIONS = {
    *("knn-base-my-digits-s0", "knn-target-my-digits-s0@4"),
    *("knn-hpt-my-digits-s0@2", "knn-hpt-my-digits-s0@4"),
}


@pytest.fixture
def study(workplace: Path, digits_folder: Path) -> Path:
    path = workplace / "mine.toml"
    path.write_text(STUDY.format(dataset=digits_folder))
    return path


def states() -> dict[str, str]:
    """As `hptctl study status` has it, without starting a process."""
    progress = Progress(grid.cells(grid.load("mine.toml"), backbone_of))
    return {id: progress[id].state for id in progress.cells}


def cells(text: str, **changes: object) -> list[Cell]:
    return grid.cells(grid.load(text, changes), lambda weights: "resnet50")


def test_a_study_does_each_cell_once_and_one_pretraining_feeds_several(hptctl, study: Path, workplace: Path) -> None:
    assert set(states().values()) == {"left"}
    said = hptctl("study", "run", "mine.toml")
    assert "8 of 8 cells are done" in said.stdout
    assert "the base 'own' is the study's own, pretrained on shapes@100" in said.stderr
    assert set(states()) == PRETRAININGS | EVALUATIONS
    assert set(states().values()) == {"done"}
    made = {run.name: run.spec() for run in runs.all_runs()}
    assert sorted(spec.kind for spec in made.values()) == ["knn"] * 4 + ["pretrain"] * 4 + ["study"]
    assert {spec.parent for spec in made.values() if spec.kind != "study"} == {"mine"}
    assert made["hpt-my-digits-s0"].config["save_at"] == [2]
    assert made["knn-hpt-my-digits-s0-2"].tags.steps == 2
    hptctl("study", "run", "mine.toml")
    assert {run.name for run in runs.all_runs()} == set(made)
    hptctl("evaluate", "knn", "own", "-d", "digits", "--name", "something-else")
    assert "1 dataset, 9 runs" in hptctl("report", "--study", "mine").stdout  # the eight cells and the study itself
    assert "something-else" not in (workplace / "report.html").read_text()
    one = find_weights("hpt-my-digits-s0@2")[1]
    assert one == runs.get("hpt-my-digits-s0")
    assert not runs.is_trial(runs.get("knn-hpt-my-digits-s0-2"))


@pytest.mark.slow
def test_a_run_counts_whoever_made_it_and_only_while_its_images_are_the_same(
    hptctl, study: Path, workplace: Path, digits_folder: Path
) -> None:
    images = workplace / "my digits"
    shutil.copytree(digits_folder, images)
    study.write_text(STUDY.format(dataset=images))
    data = ("-d", str(images), "--preset", "tiny", "--batch-size", "32", "--device", "cpu")
    hptctl("pretrain", "-s", "target", *data, "--steps", "4", "--name", "by-hand", "--save-at", "1")
    hptctl("evaluate", "knn", "by-hand", "--name", "its-figure")
    assert {id for id, state in states().items() if state == "done"} == {
        "target-my-digits-s0@4",
        "knn-target-my-digits-s0@4",
    }
    next(images.rglob("*.png")).unlink()
    assert "done" not in states().values()


@pytest.mark.slow
def test_a_sweep_made_by_hand_is_a_cell_when_its_space_is_the_studys(hptctl, workplace: Path) -> None:
    (workplace / "tuned.toml").write_text(
        """
        datasets = ["shapes@60"]
        weights = ["own"]
        preset = "tiny"
        strategies = ["base"]
        evaluations = [{ kind = "sweep", labels = "16" }]

        [set]
        "finetune.batch_size" = 8
        "finetune.eval_every" = 60
        device = "cpu"
        """
    )
    data = ("-d", "shapes@60", "--preset", "tiny", "--device", "cpu")
    hptctl("pretrain", "-s", "target", *data, "--batch-size", "32", "--steps", "1", "--name", "own")
    hptctl("pretrain", "-s", "base", "-w", "own", *data, "--name", "based")
    own = ("--labels", "16", "--set", "finetune.batch_size=8", "--set", "finetune.eval_every=60", "--device", "cpu")

    def found() -> set[str]:
        progress = Progress(grid.cells(grid.load("tuned.toml"), backbone_of))
        return {progress[id].run for id in progress.cells if progress[id].state == "done"}

    hptctl("sweep", "finetune", "based", *own, "--name", "other", "--schedule", "2-steps", "--lr", "0.01")
    assert found() == {"based"}
    hptctl("sweep", "finetune", "based", *own, "--name", "same")
    assert found() == {"based", "same"}


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
def test_what_another_machine_has_done_counts_as_long_as_nothing_else_needs_its_backbone(
    hptctl, study: Path, workplace: Path
) -> None:
    hptctl("study", "run", "mine.toml", "--only", "knn-target*")
    shutil.move(workplace / "runs", workplace / "another machine's runs")  # the tracking store is shared
    found = states()
    assert found["target-my-digits-s0@4"] == found["knn-target-my-digits-s0@4"] == "done"
    assert found["base-my-digits-s0"] == "left"
    text = study.read_text()
    study.write_text(text.replace('["knn"]', '["knn", "linear"]').replace("[set]", '[set]\n"linear.steps" = 4'))
    found = states()
    assert found["target-my-digits-s0@4"] == found["linear-target-my-digits-s0@4"] == "left"
    assert found["knn-target-my-digits-s0@4"] == "done"
    hptctl("study", "run", "mine.toml", "--only", "*target*")
    assert states()["linear-target-my-digits-s0@4"] == "done"


def test_a_study_that_was_killed_goes_on_where_it_was(hptctl, study: Path, workplace: Path) -> None:
    study.write_text(
        study.read_text().replace("hpt = [2, 4]", "hpt = [2, 60]").replace("[set]", "[set]\ncheckpoint_every = 1")
    )
    process = subprocess.Popen(
        command("study", "run", "mine.toml", "--only", "knn-hpt*@60"), cwd=workplace, start_new_session=True
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
    assert "going on from step" in hptctl("study", "run", "mine.toml", "--only", "knn-hpt*@60").stderr
    assert states()["knn-hpt-my-digits-s0@60"] == "done"
    assert [run.name for run in runs.all_runs() if run.spec().kind == "pretrain"].count("hpt-my-digits-s0") == 1


@pytest.mark.slow
def test_several_jobs_do_what_one_does(hptctl, study: Path, workplace: Path) -> None:
    said = hptctl("study", "run", "mine.toml", "--jobs", "2", "--only", "*base*", "--only", "target*")
    assert "4 of 4 cells are done" in said.stdout
    assert {id for id, state in states().items() if state == "done"} == {
        *("own", "base-my-digits-s0", "knn-base-my-digits-s0", "target-my-digits-s0@4")
    }
    assert all(run.status().state == "finished" for run in runs.all_runs())


def test_cells_are_chosen_by_pattern_with_what_they_need(hptctl, study: Path) -> None:
    found = json.loads(hptctl("study", "status", "mine.toml", "--only", "knn-hpt*@2", "--json").stdout)
    assert {row["cell"] for row in found["cells"]} == {"own", "hpt-my-digits-s0", "knn-hpt-my-digits-s0@2"}
    assert "did you mean 'own'" in hptctl("study", "status", "mine.toml", "--only", "owm", code=2).stderr


def test_the_published_grids_have_the_published_cells() -> None:
    linear = cells("paper-linear")
    assert len([c for c in linear if c.kind == "linear"]) == 16 * (1 + 4 + 1 + 4)
    steps = {c.config.steps for c in linear if c.id.startswith("hpt-flowers-")}  # type: ignore[union-attr]
    assert steps == {50, 500, 5000, 50000}
    assert all(not getattr(c.config, "save_at", ()) for c in linear)
    semi = cells("paper-semi")
    assert len([c for c in semi if c.sweep]) == 16 * 4 * 2
    assert len(launch_configs(semi)) == 4
    sequential = {c.id: c for c in cells("paper-sequential")}
    assert sequential["hpt-ucmerced-from-resisc-base-s0@5000"].backbone == grid.Backbone("resisc-base")
    assert "hpt-ucmerced-from-clipart-base-s0@5000" not in sequential
    policies = {c.config.augment.policy for c in cells("paper-augment") if c.kind == "pretrain"}  # type: ignore[union-attr]
    assert len(policies) == 5
    assert {c.config.share for c in cells("paper-data") if c.kind == "pretrain"} == {0.01, 0.1, 0.25, 0.5, 1.0}  # type: ignore[union-attr]
    assert {c.config.weights for c in cells("paper-base") if c.kind == "pretrain"} == {
        *("moco-v2-200ep", "moco-v2-800ep", "imagenet-supervised")
    }
    assert {c.config.dataset for c in cells("paper-transfer") if c.sweep} == {"pascal-voc"}


def launch_configs(found: list[Cell]) -> list[object]:

    config = next(c.config for c in found if c.sweep)
    return configs(config)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("strategies = ['htp']\ndatasets = ['d']", "did you mean 'hpt'"),
        ("datsets = ['d']", "unknown field 'datsets' (did you mean 'datasets'?)"),
        ("datasets = []", "has no dataset"),
        ("datasets = ['d']\n[set]\n'linear.stepz' = 3", "unknown field 'linear.stepz' (did you mean 'linear.steps'?)"),
        ("datasets = ['d']\n[set]\nstrategy = 'hpt'", "use strategies"),
        ("datasets = ['d']\npolicies = ['crop']", "did you mean 'crop-only'"),
        ("datasets = ['d']\nshares = [0]", "shares"),
        ("datasets = ['d']\nsteps = [0]", "steps"),
        ("datasets = ['d'\n", "is no TOML"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused_in_a_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        cells(str(path))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_unknown_study_gets_a_did_you_mean(workplace: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'paper-linear'"):
        grid.load("paper-liner")


def test_prefixes_are_shared_or_not_as_the_study_says(study: Path) -> None:
    shared = [c for c in cells(str(study)) if c.kind == "pretrain" and c.id.startswith("hpt")]
    assert [(c.config.steps, c.config.save_at, c.feeds) for c in shared] == [(4, (2,), 2)]  # type: ignore[union-attr]
    separate = [c for c in cells(str(study), prefixes="separate") if c.kind == "pretrain" and c.id.startswith("hpt")]
    assert [(c.config.steps, c.config.save_at) for c in separate] == [(2, ()), (4, ())]  # type: ignore[union-attr]
