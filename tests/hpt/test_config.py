"""Configurations: policies resolved to their numbers, and two runs of one fingerprint are one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_pretraining import config

from hpt.config import (
    POLICIES,
    AugmentConfig,
    EvaluateConfig,
    LinearConfig,
    Policy,
    PretrainConfig,
    fields,
    fingerprint,
    resolve,
)
from hpt.errors import ConfigError
from hptctl.commands.pretrain import pretrain

#                jitter, grayscale, blur, flip
PROBABILITIES = {
    "baseline": (0.8, 0.2, 0.5, 0.5),
    "no-grayscale": (0.8, 0.0, 0.5, 0.5),
    "no-color": (0.0, 0.2, 0.5, 0.5),
    "crop-blur": (0.0, 0.0, 0.5, 0.0),
    "crop-only": (0.0, 0.0, 0.0, 0.0),
    "rotate90": (0.8, 0.2, 0.5, 0.5),
    "vertical-flip": (0.8, 0.2, 0.5, 0.5),
}


def resolved(*sets: str, file: Path | None = None, **flags: Any) -> PretrainConfig:
    return resolve(PretrainConfig, file=file, sets=sets, flags={"strategy": "target", "dataset": "digits"} | flags)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_is_resolved_to_its_numbers_and_leaves_the_others_alone(policy: Policy) -> None:
    config = resolved(augment={"policy": policy})
    found = config.augment
    assert (found.jitter_p, found.grayscale_p, found.blur_p, found.flip_p) == PROBABILITIES[policy]
    probabilities = {"policy", "jitter_p", "grayscale_p", "blur_p", "flip_p", "vertical_flip_p", "rotate90"}
    assert found.model_dump(exclude=probabilities) == AugmentConfig().model_dump(exclude=probabilities)
    assert AugmentConfig(policy=policy) == found == resolved(f"augment.policy={policy}").augment
    assert PretrainConfig.model_validate(config.model_dump(mode="json")) == config  # as run.json holds it


def test_a_field_that_is_set_wins_over_the_policy_in_any_layer(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text('[augment]\npolicy = "crop-blur"\nflip_p = 0.25\n')
    file = resolved(file=tmp_path / "my.toml").augment
    assert (file.policy, file.flip_p, file.jitter_p) == ("crop-blur", 0.25, 0.0)
    both = resolved("augment.grayscale_p=0.1", file=tmp_path / "my.toml", augment={"policy": "crop-only"}).augment
    assert (both.policy, both.flip_p, both.grayscale_p, both.blur_p) == ("crop-only", 0.25, 0.1, 0.0)
    assert both.in_words() == "crop of 20-100 % of the area; grayscale (p=0.1); flip (p=0.25)"


def test_an_unknown_policy_gets_a_suggestion_and_a_resumed_run_takes_none() -> None:
    with pytest.raises(ConfigError, match=r"unknown augment.policy 'croponly' \(did you mean 'crop-only'\?\)"):
        resolved(augment={"policy": "croponly"})
    with pytest.raises(ConfigError, match="--policy was given; drop --policy"):
        pretrain(resume="my-base", policy="crop-only")


PLACES = {"data": "images", "split": "split", "weights": "sha", "precision": "fp32"}


def of(config: PretrainConfig | EvaluateConfig, **changes: str) -> str:
    return fingerprint(config, **(PLACES | changes))


def pretraining(**changes: object) -> PretrainConfig:
    return PretrainConfig.model_validate({"strategy": "hpt", "dataset": "d"} | changes)


def evaluation(kind: str = "linear", **changes: object) -> EvaluateConfig:
    return EvaluateConfig.model_validate({"kind": kind, "weights": "w", "dataset": "d"} | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": "elsewhere/d"},
        {"weights": "the same by another name"},
        {"processes": 2},
        {"device": "cpu"},
        {"checkpoint_every": 7},
        {"log_every": 7},
        {"save_at": (1, 2)},
        {"probe_every": 3, "probe_images": 9},
        {"precision": "fp32"},  # as `auto` came to
        {"preset": "small"},  # it is what the preset sets that counts
    ],
)
def test_names_places_and_bookkeeping_play_no_part(changes: dict[str, object]) -> None:
    assert of(pretraining(**changes)) == of(pretraining())


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 5},
        {"seed": 1},
        {"strategy": "hpt-bn"},
        {"share": 0.5},
        {"keep_best": True},
        {"moco": {"queue_size": 4096}},
        {"augment": {"policy": "crop-only"}},
        {"data": {"split_seed": 1}},
        {"allow_partial": True},
    ],
)
def test_what_a_result_rests_on_does(changes: dict[str, object]) -> None:
    assert of(pretraining(**changes)) != of(pretraining())


@pytest.mark.parametrize("place", PLACES)
def test_images_split_weights_and_the_precision_that_was_used_do_too(place: str) -> None:
    assert of(pretraining(), **{place: "other"}) != of(pretraining())


def test_a_backbone_that_the_looks_chose_rests_on_them() -> None:
    kept = of(pretraining(keep_best=True))
    assert of(pretraining(keep_best=True, probe_every=500)) == kept  # ten looks at 5,000 steps, as without it
    assert of(pretraining(keep_best=True, probe_every=250)) != kept
    assert of(pretraining(keep_best=True, probe_images=500)) != kept


def test_an_evaluation_rests_on_its_own_kind_alone() -> None:
    assert of(evaluation(knn={"k": 5})) == of(evaluation())
    assert of(evaluation(linear={"steps": 5})) != of(evaluation())
    assert of(evaluation("knn", knn={"k": 5})) != of(evaluation("knn"))
    assert of(evaluation("knn")) != of(evaluation())
    assert of(evaluation(labels="10")) != of(evaluation())
    assert of(evaluation(test=False)) == of(evaluation())


def test_every_field_that_is_left_out_exists() -> None:
    from hpt import config

    assert {*fields(PretrainConfig)} | {*fields(EvaluateConfig)} >= config._BOOKKEEPING


def test_steps_to_keep_are_sorted_and_lie_within_the_run() -> None:
    assert PretrainConfig.model_validate({"strategy": "hpt", "dataset": "d", "save_at": "500, 50,500"}).save_at == (
        50,
        500,
    )
    with pytest.raises(ValueError, match="save_at 9 lies beyond the run's 8 steps"):
        config(steps=8, save_at=(9,))


@pytest.mark.parametrize("preset", ["small", "tiny"])
def test_small_images_are_evaluated_on_mild_views_and_a_wider_grid_than_the_protocols(preset: str) -> None:
    flags = {"kind": "linear", "weights": "w", "dataset": "d"}
    protocol, small = (resolve(EvaluateConfig, flags=flags | {"preset": each}) for each in ("paper", preset))
    assert protocol.linear.lrs == (0.3, 3.0, 30.0)
    assert (protocol.linear.min_scale, protocol.linear.flip_p) == (0.08, 0.5)
    assert (
        (small.linear.min_scale, small.linear.flip_p) == (small.finetune.min_scale, small.finetune.flip_p) == (0.7, 0)
    )
    assert min(small.linear.lrs) < 0.003
    assert max(small.linear.lrs) > 3
    rest = {"data": "", "split": "", "weights": "", "precision": "fp32"}
    again = protocol.model_copy(update={"linear": LinearConfig(flip_p=0.5)})
    assert fingerprint(protocol, **rest) == fingerprint(again, **rest)  # a new field leaves the protocol's runs theirs
