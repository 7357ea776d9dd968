"""What leaves together with what was asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from run_folders import made

from hpt.errors import RunError
from hptctl import runs
from hptctl.runs.launch import Origin
from hptctl.study import conductor
from hptctl.study import definition as grid
from hptctl.study.export_runs import belonging


def test_a_study_takes_its_cells_along_a_sweep_its_trials_and_each_what_it_rests_on(workplace: Path) -> None:
    first = made("first", "pretrain")
    base = made("base", "pretrain", source="first", source_folder=str(first.path.resolve()))
    made("study", "study", config={"name": "study", "weights": ["nothing that is here"]})
    of_base = {"source": "base", "source_folder": str(base.path.resolve())}
    made("sweep", "sweep", parent="study", **of_base)
    made("trial", "finetune", parent="sweep", **of_base)
    made("alone", parent=None)
    names = {
        asked: {run.name for run in belonging([runs.get(asked)])}
        for asked in ("alone", "base", "trial", "sweep", "study")
    }
    assert names == {
        "alone": {"alone"},
        "base": {"base", "first"},
        "trial": {"trial", "base", "first"},
        "sweep": {"sweep", "trial", "base", "first"},
        "study": {"study", "sweep", "trial", "base", "first"},
    }


def test_what_goes_alone_takes_nothing_along(workplace: Path, hptctl) -> None:
    base = made("base", "pretrain")
    made("study", "study", config={"name": "study"})
    made("figure", parent="study", source="base", source_folder=str(base.path.resolve()))
    words = ("runs", "export", "study", "figure", "--alone", "--out", "two.tar", "--json")
    assert json.loads(hptctl(*words).stdout)["runs"] == ["figure", "study"]


def test_runs_of_two_folders_that_have_one_name_do_not_travel_together(workplace: Path) -> None:
    made("one", "pretrain")
    Path("runs").rename("elsewhere")
    made("one", source="one", source_folder=str(Path("elsewhere/one").resolve()))
    with pytest.raises(RunError, match="have one name, and one of them started from another folder's run"):
        belonging([runs.get("one")])


def test_a_cell_that_somebody_made_by_hand_travels_where_the_images_tell(
    workplace: Path, study: Path, own: str
) -> None:
    of = grid.load("mine.toml", {"datasets": [str(study.parent / "moved")]})
    unknown = conductor.parent(grid.load("mine.toml"), Origin("hptctl study run mine.toml", "hptctl"))
    assert {run.name for run in belonging([unknown])} == {"mine", "own"}
    shutil.rmtree(unknown.path)
    absent = runs.create("study", None, "mine", experiment="e", command="c", config=of.model_dump(mode="json"))
    assert {run.name for run in belonging([absent])} == {"mine"}
