"""Plans of sweeps, as data."""

from __future__ import annotations

from typing import Any

import pytest

from hpt.config import EvaluateConfig, PretrainConfig
from hpt.errors import ConfigError, RunError
from hptctl.sweep.plan import Plan, PlanOptions, difference, make, refuse_other
from hptctl.sweep.space import parse

TUNING = EvaluateConfig(kind="finetune", weights="base", dataset="digits", preset="tiny")


PRETRAINING = PretrainConfig(strategy="hpt", dataset="digits", preset="tiny")


def plan(*sets: str, **options: Any) -> Plan:
    space, _ = parse("finetune", "tiny", sets=sets, flags={})
    return make("finetune", TUNING, space, PlanOptions(**options))


def test_a_grid_does_its_cells_and_what_has_a_range_is_searched() -> None:
    assert (plan().sampler, plan().trials) == ("grid", 4)
    searched = plan("finetune.lr=0.001..0.1")
    assert (searched.sampler, searched.trials) == ("tpe", 20)
    assert plan("finetune.lr=0.001..0.1", sampler="random", trials=3).trials == 3
    for options, says in (
        ({"sampler": "grid"}, "cannot take the range of lr"),
        ({"sampler": "gird"}, "did you mean 'grid'"),
        ({"pruner": "mean"}, "unknown --pruner"),
        ({"trials": 0}, "--trials 0"),
    ):
        with pytest.raises(ConfigError, match=says):
            plan("finetune.lr=0.001..0.1", **options)
    with pytest.raises(ConfigError, match="does all of its 4 cells"):
        plan(trials=3)
    with pytest.raises(ConfigError, match="--workers"):
        make("pretrain", PRETRAINING.model_copy(update={"processes": 2}), parse("pretrain", "tiny", flags={})[0])


def test_a_point_becomes_a_configuration_that_leaves_the_test_images_alone() -> None:
    config = plan().config({"lr": 0.001, "schedule": "5-epochs"}, repeat=2)
    assert isinstance(config, EvaluateConfig)
    assert (config.finetune.lr, config.finetune.schedule, config.seed, config.test) == (0.001, "5-epochs", 2, False)
    with_looks = make("pretrain", PRETRAINING, parse("pretrain", "tiny", flags={})[0], PlanOptions(pruner="median"))
    pretraining = with_looks.config({"steps": 50})
    assert isinstance(pretraining, PretrainConfig)
    assert (pretraining.steps, pretraining.probe_every) == (50, 5)


def test_plans_that_differ_are_told_apart_wherever_their_machines_keep_the_images() -> None:
    elsewhere = TUNING.model_copy(update={"dataset": "/other/digits", "device": "cpu"})
    space, _ = parse("finetune", "tiny", flags={})
    assert not difference(plan(workers=2), make("finetune", elsewhere, space, PlanOptions(storage="sqlite:///x.db")))
    other = plan("finetune.lr=0.1,0.2", pruner="median")
    assert difference(plan(), other) == [
        "pruner is none there, median here",
        "the space of lr is 0.01, 0.001 there, 0.1, 0.2 here",
    ]
    with pytest.raises(RunError, match="made by another configuration: pruner is none there, median here"):
        refuse_other(plan(), other, "s", "in that storage")
    assert Plan.model_validate(other.model_dump(mode="json")) == other
