"""Spaces of sweeps, as data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpt.config import EvaluateConfig, PretrainConfig, resolve
from hpt.errors import ConfigError
from hptctl.sweep.plan import Plan, PlanOptions, make
from hptctl.sweep.space import Choice, Range, Target, check_space, parse

TUNING = EvaluateConfig(kind="finetune", weights="base", dataset="digits", preset="tiny")
PRETRAINING = PretrainConfig(strategy="hpt", dataset="digits", preset="tiny")


def space_of(target: Target = "finetune", *sets: str, **flags: str) -> dict[str, Choice | Range]:
    return dict(parse(target, "tiny", sets=sets, flags=flags)[0].dimensions)


def plan(*sets: str, **options: Any) -> Plan:
    space, _ = parse("finetune", "tiny", sets=sets, flags={})
    return make("finetune", TUNING, space, PlanOptions(**options))


def test_without_a_space_it_is_the_protocols_grid_in_the_presets_size() -> None:
    paper, fixed = parse("finetune", "paper", flags={"lr": None, "schedule": None})
    assert paper.cells() == [
        {"lr": lr, "schedule": schedule} for schedule in ("2500-steps", "90-epochs") for lr in (0.01, 0.001)
    ]  # first those of one schedule, whose steps the others can take over
    assert not fixed
    assert space_of()["schedule"].ends() == ("60-steps", "5-epochs")
    assert space_of("pretrain")["steps"].ends() == (25, 50, 100)


def test_options_take_the_place_of_the_protocols_values_and_fixed_fields_leave_the_grid() -> None:
    found = space_of("finetune", "finetune.momentum=0.8,0.9", lr="0.1")
    assert [*found] == ["lr", "schedule", "finetune.momentum"]
    assert found["lr"].ends() == (0.1,)
    space, fixed = parse("finetune", "tiny", sets=["finetune.lr=0.5", "labels=100"], flags={})
    assert [*space.dimensions] == ["schedule"]
    assert fixed == ["finetune.lr=0.5", "labels=100"]


def test_a_learning_rate_is_drawn_on_a_logarithmic_scale_and_others_where_they_say_so() -> None:
    assert space_of(lr="1e-4..1e-1")["lr"] == Range(field="finetune.lr", low=1e-4, high=0.1, log=True)
    assert space_of(lr="0..1:linear")["lr"] == Range(field="finetune.lr", low=0, high=1)
    whole = space_of("finetune", "finetune.batch_size=16..256:log")["finetune.batch_size"]
    assert whole == Range(field="finetune.batch_size", low=16, high=256, log=True, whole=True)
    assert [type(end) for end in whole.ends()] == [int, int]


def test_commas_belong_to_the_value_of_a_field_that_takes_several() -> None:
    space, fixed = parse("linear", "tiny", sets=["linear.lrs=0.3,3", "linear.batch_size=32,64"], flags={})
    assert fixed == ["linear.lrs=0.3,3"]
    assert [*space.dimensions] == ["linear.batch_size"]
    with pytest.raises(ConfigError, match="the sweep's space is empty"):
        parse("linear", "tiny", sets=["linear.lrs=0.3,3"], flags={})
    _, fixed = parse("pretrain", "tiny", sets=["augment.blur_sigma=0.1,1.0"], flags={"steps": "10,20"})
    assert fixed == ["augment.blur_sigma=0.1,1.0"]


def test_a_file_is_the_whole_space(tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    file.write_text(
        'lr = "0.001..0.1"\n[finetune]\nmomentum = [0.8, 0.9]\nbatch_size = {low = 16, high = 64, log = true}\n'
    )
    space, _ = parse("finetune", "tiny", file=file, flags={})
    assert {name: dimension.ends() for name, dimension in space.dimensions.items()} == {
        "lr": (0.001, 0.1),
        "finetune.momentum": (0.8, 0.9),
        "finetune.batch_size": (16, 64),
    }
    several = tmp_path / "lrs.toml"
    several.write_text("lr = [[0.3], [3.0, 30.0]]")
    space, _ = parse("linear", "tiny", file=several, flags={})
    choice = space.dimensions["lr"]
    assert isinstance(choice, Choice)
    assert choice.encoded() == ("[0.3]", "[3.0, 30.0]")
    base = TUNING.model_dump(mode="json")
    assert space.apply(base, {"lr": [3.0, 30.0]}, EvaluateConfig)["linear"]["lrs"] == [3.0, 30.0]
    assert space.apply(base, {"lr": 3.0}, EvaluateConfig)["linear"]["lrs"] == [3.0]
    with pytest.raises(ConfigError, match="does not exist"):
        parse("finetune", "tiny", file=tmp_path / "nothing.toml", flags={})


@pytest.mark.parametrize(
    ("target", "given", "says"),
    [
        ("finetune", "finetune.lrr=1,2", r"unknown field 'finetune.lrr' \(did you mean 'finetune.lr'\?\)"),
        ("finetune", "finetune.lr=0.1..0.01", "the range 0.1..0.01 is empty"),
        ("finetune", "finetune.lr=0.1..0.1", "is empty"),
        ("finetune", "finetune.lr=0..0.1", "must start above 0"),
        ("finetune", "finetune.lr=1,fast", "'fast' is not a number"),
        ("finetune", "finetune.lr=a..b", "is not a range of numbers"),
        ("finetune", "finetune.lr=0.1..1:lin", "unknown scale ':lin'"),
        ("finetune", "finetune.batch_size=16.5..64", "must have whole ends"),
        ("finetune", "finetune.batch_size=16,16.5", "is not a whole number"),
        ("finetune", "finetune.schedule=,", "no value"),
        ("finetune", "seed=1,2", "--repeats draws seeds"),
        ("pretrain", "dataset=a,b", "figures on other images do not compare"),
        ("pretrain", "keep_best=yes,no", "neither true nor false"),
    ],
)
def test_what_is_no_space_is_said_in_a_line(target: Target, given: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        _, fixed = parse(target, "tiny", sets=[given], flags={})
        resolve(EvaluateConfig, sets=fixed, flags={"kind": "finetune", "weights": "w", "dataset": "d"})


def test_every_value_and_both_ends_are_checked_before_anything_starts_and_all_problems_named_at_once() -> None:
    space, _ = parse(
        "finetune", "tiny", sets=["finetune.momentum=0.5..1.5"], flags={"lr": "0.1,0", "schedule": "0-steps"}
    )
    with pytest.raises(ConfigError) as caught:
        check_space(space, TUNING.model_dump(mode="json"), EvaluateConfig)
    for part in ("finetune.momentum = 1.5", "finetune.lr = 0.0", "schedule '0-steps'"):
        assert part in str(caught.value)
    space, _ = parse("pretrain", "tiny", sets=["moco.queue_size=64,4096", "batch_size=64,256"], flags={})
    with pytest.raises(ConfigError, match=r"moco.queue_size 64 is smaller than the batch of 256"):  # one cell of four
        check_space(space, PRETRAINING.model_dump(mode="json"), PretrainConfig)


def test_an_augmentation_policy_brings_its_row_and_what_was_set_by_hand_stays() -> None:
    space, _ = parse("pretrain", "tiny", sets=["augment.policy=baseline,crop-only"], flags={})
    base = PretrainConfig(strategy="hpt", dataset="digits", augment={"hue": 0.1})  # type: ignore[arg-type]
    made = make("pretrain", base, space)
    crop = made.config({"augment.policy": "crop-only"})
    assert isinstance(crop, PretrainConfig)
    assert (crop.augment.jitter_p, crop.augment.blur_p, crop.augment.hue) == (0.0, 0.0, 0.1)
    whole = made.config({"augment.policy": "baseline"})
    assert isinstance(whole, PretrainConfig)
    assert (whole.augment.jitter_p, whole.augment.hue) == (0.8, 0.1)
