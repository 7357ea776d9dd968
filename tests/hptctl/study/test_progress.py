"""What of a study is done, whoever has done it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from publisher_host import Quiet, offer_ucmerced, serving
from run_folders import made
from small_study import STUDY, states

from hpt.known_weights import KNOWN
from hptctl import runs
from hptctl.runs import launch
from hptctl.runs.weights import backbone_of
from hptctl.study import definition as grid
from hptctl.study.import_runs import point_here
from hptctl.study.progress import Progress


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


def test_cells_are_chosen_by_pattern_with_what_they_need(hptctl, study: Path) -> None:
    found = json.loads(hptctl("study", "status", "mine.toml", "--only", "knn-hpt*@2", "--json").stdout)
    assert {row["cell"] for row in found["cells"]} == {"own", "hpt-my-digits-s0", "knn-hpt-my-digits-s0@2"}
    assert "did you mean 'own'" in hptctl("study", "status", "mine.toml", "--only", "owm", code=2).stderr


PUBLISHED = """
datasets = ["ucmerced", "bdd"]
preset = "tiny"
strategies = ["target"]
evaluations = ["knn"]

[steps]
target = [2]

[set]
batch_size = 8
device = "cpu"
"""


def test_a_plan_says_what_a_run_downloads_and_downloads_nothing(
    hptctl, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HPTCTL_CACHE", str(workplace / "cache"))
    monkeypatch.setenv("HPTCTL_DATA", str(workplace / "data"))
    (workplace / "host").mkdir()
    (workplace / "mine.toml").write_text(PUBLISHED)
    one = ("mine.toml", "--dataset", "ucmerced")
    with serving(workplace / "host") as address:
        offer_ucmerced(address, workplace / "host", workplace / "work", monkeypatch)
        for name, known in KNOWN.items():
            monkeypatch.setitem(KNOWN, name, replace(known, url=f"{address}/{known.file_name}"))

        said = hptctl("study", "plan", "mine.toml").stdout
        assert "\nrun downloads first: ucmerced (0.3 GB)\nto get before a run, by hand: bdd\n6 cells: " in said
        assert "no data: bdd is not here: " in said and "hptctl datasets prepare bdd says how to get it" in said
        found = json.loads(hptctl("study", "status", *one, "--json").stdout)
        absent = {"name": "ucmerced", "missing": "UCMerced_LandUse/Images/*/*.tif", "by": "run", "megabytes": 332}
        assert found["fetch"] == {"datasets": [absent], "weights": []}
        assert {row["cell"]: (row["state"], row["images"], row["forward"]) for row in found["cells"]} == {
            "target-ucmerced-s0@2": ("left", 16, 16),
            "knn-target-ucmerced-s0@2": ("left", 0, 2_100),  # as published
            "knn-untrained-ucmerced-s0": ("left", 0, 2_100 + 1_680),  # and train and val for the statistics
        }
        (workplace / "from-base.toml").write_text(PUBLISHED.replace("target", "hpt"))
        based = hptctl("study", "plan", "from-base.toml", "-d", "ucmerced").stdout
        assert "run downloads first: ucmerced (0.3 GB), the weights moco-v2-800ep" in based
        assert Quiet.asked == []
        assert not (workplace / "data").exists()

        assert "3 of 3 cells are done" in hptctl("study", "run", *one).stdout
        assert Quiet.asked == ["/UCMerced_LandUse.zip"]
        found = json.loads(hptctl("study", "plan", *one, "--json").stdout)
        assert (found["counts"], found["fetch"]) == ({"done": 3}, {"datasets": [], "weights": []})
        assert len(Quiet.asked) == 1


def test_a_plan_reckons_by_the_speed_of_pretrainings_that_this_machine_has_done(
    hptctl, own: str, workplace: Path, digits_folder: Path
) -> None:
    (workplace / "mine.toml").write_text(PUBLISHED.replace('"ucmerced", "bdd"', f'"{digits_folder}"'))
    logged = [line["images_per_second"] for line in runs.get("own").metrics() if "images_per_second" in line]
    rows = json.loads(hptctl("study", "plan", "mine.toml", "--json").stdout)["cells"]
    (cell,) = [row for row in rows if row["kind"] == "pretrain"]
    assert logged
    assert cell["seconds"] == pytest.approx(cell["images"] / median(logged[1:]), abs=0.1)


def test_a_pretraining_without_its_weights_counts_until_a_cell_that_is_left_needs_them(
    hptctl, study: Path, own: str
) -> None:
    every = {cell.id: cell for cell in grid.cells(grid.load("mine.toml"), backbone_of)}
    run, id = runs.get("own"), "target-my-digits-s0@4"
    figure = made("figure", "knn", fingerprint=Progress([*every.values()])._fingerprint(every[f"knn-{id}"]))
    (row,) = (row for row in rows_of(hptctl) if row["cell"] == id)
    assert (row["state"], row["here"], row["needed"]) == ("done", True, False)
    run.backbone.unlink()
    (row,) = (row for row in rows_of(hptctl) if row["cell"] == id)
    assert (row["state"], row["run"], row["here"], row["images"]) == ("done", "own", False, 0)
    assert "done, weights elsewhere" in hptctl("study", "status", "mine.toml").stdout
    shutil.rmtree(figure.path)
    (row,) = (row for row in rows_of(hptctl) if row["cell"] == id)
    assert (row["state"], row["needed"], row["images"]) == ("left", True, 4 * 32)
    said = hptctl("study", "status", "mine.toml").stdout.replace("\n", " ")
    assert f"made again: {id}, since the weights of 'own' are not here, and cells that are left start from them" in said
    shutil.rmtree(run.path / "backbones")
    for words in (("evaluate", "knn", "own"), ("evaluate", "knn", "own@1"), ("weights", "inspect", "own")):
        refused = hptctl(*words, code=2).stderr.replace("\n", " ")
        assert "the weights of run 'own' are not here; export it there with its weights" in refused
    assert "the weights of run 'own' are not here: export it there" in hptctl("pretrain", "--resume", "own").stdout


def rows_of(hptctl) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(hptctl("study", "status", "mine.toml", "--json").stdout)["cells"]
    return rows


def test_a_run_that_stopped_is_the_cells_wherever_its_images_lie(hptctl, study: Path, own: str) -> None:
    every = grid.cells(grid.load("mine.toml"), backbone_of)
    cell = next(cell for cell in every if cell.id == "target-my-digits-s0@4")
    run = runs.get("own")
    pinned = launch.pinned(cell.config)
    facts = run.status().facts.model_copy(update={"backbone_sha256": None})
    run.write_status(state="interrupted", facts=facts)

    def found(**changes: object) -> str:
        spec = run.spec().model_copy(update={"config": pinned | {"dataset": "/nowhere/my digits"} | changes})
        (run.path / "run.json").write_text(spec.stored())
        return Progress(every)[cell.id].run

    assert found(probe_every=2) == ""
    assert found(save_at=[1]) == ""
    assert found() == "own"
    point_here(Progress(every), every)
    assert runs.get("own").spec().config == pinned
    run.write_status(facts=facts.model_copy(update={"fingerprint": "of other images"}))
    assert found() == ""
