"""Label budgets: which training labels an evaluation may use."""

from __future__ import annotations

import numpy as np
import pytest

from hpt.config import EvaluateConfig
from hpt.errors import DataError
from hpt.evaluate.labels import choose

LABELS = np.repeat(np.arange(10), [400, 300, 100, 50, 50, 40, 30, 20, 9, 1])
SETS = (np.random.default_rng(0).random((1000, 12)) < np.geomspace(0.5, 0.01, 12)).astype(np.float32)
SETS[:, 10] = 0  # a class without a positive
SETS[:, 11] = 0
SETS[[17, 400, 999], 11] = 1
CLASSES = [f"class {i}" for i in range(12)]


def config(labels: str | None, seed: int = 0, kind: str = "finetune") -> EvaluateConfig:
    return EvaluateConfig.model_validate({"kind": kind, "weights": "", "dataset": "", "labels": labels, "seed": seed})


def test_the_draws_of_single_labels_stay_what_they_were() -> None:
    """Published figures rest on them."""
    assert choose(LABELS, 10, config("12")).tolist() == [11, 301, 568, 693, 730, 812, 865, 933, 968, 987, 993, 999]
    assert choose(LABELS[:990], 8, config("1-per-class")).tolist() == [25, 577, 798, 838, 885, 926, 963, 989]


@pytest.mark.parametrize(("spec", "count"), [("all", 1000), ("100", 100), ("10%", 100), ("12", 12)])
def test_a_budget_of_sets_of_labels_holds_every_class_that_has_an_image(spec: str, count: int) -> None:
    draws = [choose(SETS, 12, config(spec, seed), CLASSES) for seed in (0, 0, 1)]
    for drawn in draws:
        assert len(drawn) == count
        assert (np.diff(drawn) > 0).all()
        assert SETS[drawn].any(axis=0).tolist() == [True] * 10 + [False, True]
    assert np.array_equal(draws[0], draws[1])
    assert np.array_equal(draws[0], draws[2]) == (spec == "all")


def test_a_budget_of_sets_is_otherwise_drawn_from_all() -> None:
    times = np.zeros(1000)
    for seed in range(200):
        times[choose(SETS, 12, config("500", seed))] += 1
    others = np.delete(times, np.flatnonzero(SETS[:, 8:].any(axis=1)))  # those that rare classes do not call for
    assert others.mean() == pytest.approx(100, rel=0.03)
    assert others.std() == pytest.approx((200 / 4) ** 0.5, rel=0.25)  # of a binomial of 200 draws


def test_per_class_gives_each_class_so_many_images_and_few_more() -> None:
    kept = np.delete(SETS, 10, axis=1)
    drawn = choose(kept, 11, config("3-per-class"))
    assert kept[drawn].sum(axis=0).min() == 3
    assert set(np.flatnonzero(kept[:, 10])) <= set(drawn.tolist())
    assert len(drawn) <= 3 * 11


def test_sets_of_one_label_each_are_drawn_as_single_labels_are() -> None:
    one_each = np.eye(10, dtype=np.float32)[LABELS]
    for spec in ("12", "50%", "1-per-class"):
        assert np.array_equal(choose(one_each, 10, config(spec)), choose(LABELS, 10, config(spec)))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("2000", "--labels 2000: there are 1000 labelled training images; use --labels all"),
        ("2", "--labels 2 is 2 images, fewer than the"),
        ("4-per-class", "--labels 4-per-class: class 'class 10' has 0 training images; use a number of images, or all"),
    ],
)
def test_a_budget_of_sets_that_cannot_be_drawn_is_refused(spec: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        choose(SETS, 12, config(spec), CLASSES)
    assert message in str(caught.value)


def test_a_class_too_small_for_the_budget_is_named() -> None:
    with pytest.raises(DataError, match=r"class 'class 11' has 3 training images; use 3-per-class or fewer"):
        choose(np.delete(SETS, 10, axis=1), 11, config("4-per-class"), CLASSES[:10] + CLASSES[11:])
    with pytest.raises(DataError, match=r"class 'nine' has 1 training images; use 1-per-class or fewer"):
        choose(LABELS, 10, config("2-per-class"), [*CLASSES[:9], "nine"])


@pytest.mark.parametrize(("spec", "count"), [("all", 1000), ("100", 100), ("10%", 100), ("10", 10)])
def test_a_label_budget_is_drawn_by_seed_with_every_class_in_it(spec: str, count: int) -> None:
    drawn = choose(LABELS, 10, config(spec))
    assert len(drawn) == len(set(drawn.tolist())) == count
    assert set(LABELS[drawn]) == set(range(10))
    assert np.array_equal(drawn, choose(LABELS, 10, config(spec)))
    if spec == "100":
        assert not np.array_equal(drawn, choose(LABELS, 10, config(spec, seed=1)))


def test_a_budget_is_not_balanced_unless_it_is_per_class() -> None:
    drawn = np.bincount(LABELS[choose(LABELS, 10, config("500"))], minlength=10)
    assert drawn[0] > 150
    assert drawn[9] == 1
    per_class = choose(LABELS[:999], 9, config("9-per-class"))
    assert np.bincount(LABELS[per_class]).tolist() == [9] * 9


@pytest.mark.parametrize(
    ("labels", "message"),
    [("2000", "there are 1000 labelled training images"), ("5", "fewer than the 10 classes"), ("2-per-class", "has 1")],
)
def test_a_budget_that_cannot_be_drawn_is_refused(labels: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        choose(LABELS, 10, config(labels))


def test_finetuning_takes_the_protocols_1000_labels_or_all_where_there_are_fewer() -> None:
    assert len(choose(np.repeat(LABELS, 2), 10, config(None))) == 1000
    assert len(choose(LABELS[:600], 10, config(None))) == 600
    assert len(choose(np.repeat(LABELS, 2), 10, config(None, kind="linear"))) == 2000
