"""What the commands of all kinds of evaluation share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
import torch

from hpt import encoder
from hpt.config import EvaluationKind
from hpt.dense.evaluation import TASKS
from hpt.evaluate.kinds import KINDS
from hptctl.commands.evaluate import app

TINY = ("--preset", "tiny", "--device", "cpu")


def test_every_kind_has_a_class_and_a_command() -> None:
    commands = {each.callback.__name__ for each in app.registered_commands if each.callback is not None}
    assert KINDS.keys() | TASKS.keys() == set(get_args(EvaluationKind)) <= commands


def test_a_kinds_own_options_are_fields_of_its_section(hptctl, workplace: Path) -> None:
    torch.save(encoder.build("resnet18", seed=1).state_dict(), "w.pth")
    asked = ("evaluate", "finetune", "w.pth", *TINY, "-d", "digits", "--labels", "40", "--dry-run", "--json")
    given = json.loads(hptctl(*asked, "--lr", "0.02", "--schedule", "3-steps").stdout)["config"]
    assert (given["finetune.lr"], given["finetune.schedule"], given["labels"]) == (0.02, "3-steps", "40")
    left = json.loads(hptctl(*asked).stdout)["config"]
    changed = {"finetune.lr", "finetune.schedule"}
    assert {key for key in given if given[key] != left[key]} == changed
    assert "lr" in hptctl("evaluate", "linear", "w.pth", "--lr", "1", code=2).stderr


def test_an_evaluation_is_resumed_as_it_was_or_not_at_all(hptctl, workplace: Path) -> None:
    torch.save(encoder.build("resnet18", seed=1).state_dict(), "w.pth")
    hptctl("evaluate", "knn", "w.pth", *TINY, "-d", "digits", "--name", "own", "--set", "image_size=16")
    again = hptctl("evaluate", "knn", "--resume", "own", "--json")
    assert "run 'own' is finished already" in again.stderr
    assert json.loads(again.stdout)["name"] == "own"
    said = hptctl("evaluate", "linear", "--resume", "own", code=2).stderr
    assert "run 'own' is a knn run, not a linear run" in said
    for option in (("--lr", "1"), ("--seed", "1"), ("--set", "seed=1"), ("--all-checkpoints",)):
        said = hptctl("evaluate", "finetune", "--resume", "own", *option, code=2).stderr
        assert f"{option[0]} was given; drop {option[0]}" in said


@pytest.mark.slow
def test_a_probe_whose_best_learning_rate_is_the_grids_last_says_so_and_keeps_it(hptctl, workplace: Path) -> None:
    said = hptctl(
        *("evaluate", "linear", "untrained", "-d", "digits", *TINY, "--json"),
        *("--set", "linear.lrs=1e-7,1e-6,0.01", "--set", "linear.steps=40", "--set", "linear.views=1"),
    )
    assert "note: the best learning rate, 0.01, is the largest of the grid" in said.stderr
    assert json.loads(said.stdout)["facts"]["lr_at_edge"] == "high"
