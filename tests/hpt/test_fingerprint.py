"""Two runs of one fingerprint are one."""

from __future__ import annotations

import pytest

from hpt.config import EvaluateConfig, PretrainConfig, fields, fingerprint

PLACES = {"data": "images", "split": "split", "weights": "sha"}


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
        {"probe_every": 3},
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
def test_images_split_and_weights_do_too(place: str) -> None:
    assert of(pretraining(), **{place: "other"}) != of(pretraining())


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
