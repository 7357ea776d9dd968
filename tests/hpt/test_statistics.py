from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations
from math import comb

import numpy as np
import pytest
from scipy.stats import binom

from hpt.errors import ConfigError, HptError
from hpt.metrics import hits, multi_label, single_label
from hpt.statistics import (
    Interval,
    Model,
    SpeedUp,
    difference,
    mcnemar,
    resample,
    speed_up,
    verdict,
)


def interval(
    metric: str, a: Model, b: Model, labels: np.ndarray, *, resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """The paired bootstrap of two models."""
    return difference(*resample(metric, (a, b), labels, resamples=resamples, seed=seed), seed=seed, level=level)


def scores_of(right: np.ndarray) -> np.ndarray:
    """Scores [..., n, 2] that have these images right, of class 1 all of them."""
    return np.stack([~right, right], axis=-1).astype(np.float32)


def models(seed: int, reruns: int, images: int, *, offset: float, anew: float) -> list[np.ndarray]:
    """What two models have right, [R, n] each: 75 % and 65 % of all images there could be.

    Half of what makes an image hard is the same for both; a rerun is better or worse as a whole by `offset`, and
    decides the share `anew` of the images for itself.
    """
    random = np.random.default_rng([seed, 7])
    shared, out = random.random(images), []
    for share in (0.75, 0.65):
        hardness = np.where(random.random(images) < 0.5, shared, random.random(images))
        decided = np.where(random.random((reruns, images)) < anew, random.random((reruns, images)), hardness)
        out.append(decided < share + random.normal(0, offset, (reruns, 1)))
    return out


@pytest.mark.parametrize(("reruns", "offset", "anew"), [(1, 0.0, 0.0), (3, 0.01, 0.1)])
def test_the_interval_holds_the_true_difference_as_often_as_it_says(reruns: int, offset: float, anew: float) -> None:
    labels, simulations = np.ones(150, dtype=int), 200
    covered = wins = losses = 0
    for seed in range(simulations):
        a, b = models(seed, reruns, 150, offset=offset, anew=anew)
        found = interval("top1", scores_of(a), scores_of(b), labels, resamples=400, seed=seed)
        covered += found.low <= 0.10 <= found.high
        wins, losses = wins + (verdict(found) == "win"), losses + (verdict(found) == "loss")
    assert binom.ppf(0.001, simulations, 0.95) <= covered <= binom.ppf(0.999, simulations, 0.95)
    assert wins > simulations / 3  # narrow enough to find what is there
    assert losses == 0


def test_a_tie_is_called_a_win_no_more_often_than_the_level_allows() -> None:
    labels, wrong = np.ones(150, dtype=int), 0
    for seed in range(200):
        a = models(seed, 1, 150, offset=0, anew=0)[0]
        b = models(seed + 1000, 1, 150, offset=0, anew=0)[0]
        wrong += verdict(interval("top1", scores_of(a), scores_of(b), labels, resamples=400)) != "tie"
    assert binom.ppf(0.001, 200, 0.05) <= wrong <= binom.ppf(0.999, 200, 0.05)


RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    """Each test draws the same numbers, whichever ran before it in its process."""
    RANDOM.bit_generator.state = np.random.default_rng(0).bit_generator.state


LABELS = RANDOM.integers(0, 4, 60)
MULTI = RANDOM.integers(0, 2, (60, 4))


def noisy(reruns: int, strength: float, seed: int) -> np.ndarray:
    """Scores [R, 60, 4] of a model that knows something of LABELS and MULTI."""
    random = np.random.default_rng(seed)
    return (random.normal(size=(reruns, 60, 4)) + strength * (np.eye(4)[LABELS] + MULTI)).astype(np.float32)


METRICS = [(m, LABELS) for m in ("top1", "balanced_accuracy", "auroc")] + [(m, MULTI) for m in ("auroc", "map")]


@pytest.mark.parametrize(("metric", "labels"), METRICS)
def test_swapping_the_models_negates_and_a_model_ties_with_itself(metric: str, labels: np.ndarray) -> None:
    a, b = noisy(3, 1.5, 1), noisy(2, 0.5, 2)  # reruns of other numbers
    forth = interval(metric, a, b, labels, resamples=300)
    back = interval(metric, b, a, labels, resamples=300)
    assert (back.a, back.b) == (forth.b, forth.a)
    assert (back.difference, back.low, back.high) == (-forth.difference, -forth.high, -forth.low)
    assert forth.low < forth.difference < forth.high
    assert (verdict(forth), verdict(back)) == ("win", "loss")

    itself = interval(metric, a, a, labels, resamples=300)
    assert itself.difference == 0
    assert itself.low == -itself.high < 0  # three reruns differ
    assert verdict(itself) == "tie"
    one = interval(metric, a[:1], a[:1], labels, resamples=300)
    assert (one.low, one.difference, one.high) == (0, 0, 0)
    assert verdict(one) == "tie"


@pytest.mark.parametrize(("metric", "labels"), METRICS)
def test_the_interval_is_that_of_figures_of_rows_drawn_one_resample_at_a_time(metric: str, labels: np.ndarray) -> None:
    a, b = noisy(1, 1.0, 1)[0], noisy(1, 0.5, 2)[0]
    figures = single_label if labels.ndim == 1 else multi_label
    ours = interval(metric, a[None], b[None], labels, resamples=2000, seed=3)
    assert (ours.a, ours.b) == (figures(a, labels)[metric], figures(b, labels)[metric])
    random, drawn = np.random.default_rng(9), []
    for _ in range(600):
        rows = random.integers(0, 60, 60)
        drawn.append(figures(a[rows], labels[rows])[metric] - figures(b[rows], labels[rows])[metric])
    low, high = np.percentile(drawn, [2.5, 97.5])
    width = high - low
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=0.1 * width)
    half = interval(metric, a[None], b[None], labels, resamples=2000, seed=3, level=0.5)
    assert (half.low, half.high) == pytest.approx(np.percentile(drawn, [25, 75]), abs=0.1 * width)


def test_the_reruns_are_chance_too() -> None:
    """Reruns right about all images or none: the variance of the mean of three is a third of that of one."""
    labels = np.ones(50, dtype=int)
    a = scores_of(np.array([[True] * 50, [True] * 50, [False] * 50]))
    b = scores_of(np.zeros((3, 50), dtype=bool))
    found = interval("top1", a, b, labels, resamples=4000)
    assert found.difference == pytest.approx(2 / 3)
    assert (found.low, found.high) == (0, 1)  # two reruns drawn: both wrong with chance 1/9
    assert interval("top1", a, b, labels, resamples=4000, level=0.6).low == 0.5  # one of the two with 4/9


def test_reruns_of_one_seed_are_no_new_evidence_of_it() -> None:
    """Three seeds, of which one failed: nine equal reruns of them are three draws of chance, not nine."""
    labels = np.ones(50, dtype=int)
    good, bad = (scores_of(np.full((3, 50), right)) for right in (True, False))
    never = scores_of(np.zeros((1, 50), dtype=bool))
    seeds = interval("top1", [good, good, bad], never, labels, resamples=4000)
    assert seeds.difference == pytest.approx(2 / 3)
    assert (seeds.low, seeds.high) == (0, 1)  # two of three seeds drawn: both failed with chance 1/9
    assert interval("top1", np.concatenate([good, good, bad]), never, labels, resamples=4000).low > 0.2
    one = interval("top1", [good], never, labels, resamples=400)
    assert one == interval("top1", good, never, labels, resamples=400)


def test_models_resampled_together_differ_as_each_pair_does() -> None:
    models_ = [noisy(3, 1.5, 1), [noisy(2, 0.5, 2), noisy(2, 0.6, 3)], noisy(1, 0.2, 4)]
    together = resample("auroc", models_, LABELS, resamples=200, seed=7)
    for (i, a), (j, b) in combinations(enumerate(models_), 2):
        pair = interval("auroc", a, b, LABELS, resamples=200, seed=7)
        assert difference(together[i], together[j], seed=7) == pair


def log_curve(best: float) -> list[tuple[float, float]]:
    """A strategy that gains 10 points with each tenfold length, measured at the protocol's lengths."""
    return [(steps, best - 0.1 * math.log10(400_000 / steps)) for steps in (5000, 50_000, 100_000, 200_000, 400_000)]


@pytest.mark.parametrize(
    ("steps", "figure", "curve", "expected"),
    [
        (5000, 0.8, log_curve(0.8), SpeedUp(80, "", 400_000)),
        (5000, 0.8 - 0.1 * math.log10(4), log_curve(0.8), SpeedUp(20, "", 100_000)),
        (5000, 0.7, log_curve(0.8), SpeedUp(8, "", 40_000)),  # between two lengths
        (50_000, 0.7, [(500, 0.6), (50_000, 0.7), (5000, 0.65)], SpeedUp(1, "", 50_000)),  # a tie
        (5000, 0.81, log_curve(0.8), SpeedUp(80, "more than", 400_000)),  # never
        (500, 0.5, log_curve(0.8), SpeedUp(10, "at most", 5000)),
        (100, 0.6, [(100, 0.5), (1000, 0.7), (10_000, 0.55), (100_000, 0.9)], SpeedUp(10**0.5, "", 10**2.5)),
    ],
)
def test_a_speed_up_is_read_off_the_curve(
    steps: float, figure: float, curve: list[tuple[float, float]], expected: SpeedUp
) -> None:
    found = speed_up(steps, figure, curve)
    assert (found.factor, found.steps) == pytest.approx((expected.factor, expected.steps))
    assert found.bound == expected.bound


def test_an_interval_depends_on_the_seed_alone() -> None:
    a, b = noisy(3, 1.0, 1), noisy(3, 0.5, 2)
    first = interval("auroc", a, b, LABELS, resamples=200, seed=1)
    assert first == interval("auroc", a, b, LABELS, resamples=200, seed=1)
    assert first != interval("auroc", a, b, LABELS, resamples=200, seed=2)


def test_resamples_without_a_metric_are_left_out_and_counted() -> None:
    labels = np.array([1] + [0] * 9)  # the only positive is missing from 0.9^10 of the resamples
    a, b = RANDOM.normal(size=(1, 10, 2)), RANDOM.normal(size=(1, 10, 2))
    found = interval("auroc", a, b, labels, resamples=2000)
    assert found.resamples == pytest.approx(2000 * (1 - 0.9**10), rel=0.1)
    assert np.isfinite([found.low, found.high]).all()


def test_models_that_cannot_be_compared_are_refused() -> None:
    a = noisy(1, 1.0, 1)
    with pytest.raises(HptError, match="60 and 59 images were scored and 60 have labels"):
        interval("top1", a, a[:, 1:], LABELS)
    with pytest.raises(HptError, match="auroc is undefined on these 60 images"):
        interval("auroc", a, a, np.zeros(60, dtype=int))
    with pytest.raises(HptError, match="NaN"):
        interval("top1", a, a * np.nan, LABELS)
    with pytest.raises(ConfigError, match="did you mean 'top1'"):
        interval("top-1", a, a, LABELS)
    with pytest.raises(HptError, match="evaluated on 60 images and the other on 59"):
        mcnemar(np.ones(60, dtype=bool), np.ones(59, dtype=bool))


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0.1, 0.2, "win"), (-0.2, -0.1, "loss"), (-0.1, 0.1, "tie"), (0, 1, "tie")]
)
def test_the_verdict_is_whether_0_lies_in_the_interval(low: float, high: float, expected: str) -> None:
    measured = Interval(a=0.5, b=0.4, difference=0.1, low=0, high=0, level=0.95, resamples=1)
    assert verdict(replace(measured, low=low, high=high)) == expected


@pytest.mark.parametrize(
    ("only_a", "only_b", "p_value"),
    [
        (1, 9, 2 * (1 + 10) / 2**10),  # 2 P(X <= 1), X ~ binomial(10, 1/2)
        (6, 0, 2 / 2**6),
        (2, 5, 2 * (1 + 7 + 21) / 2**7),
        (5, 5, 1.0),
        (0, 0, 1.0),
        (121, 59, 2 * sum(comb(180, k) for k in range(60)) / 2**180),
    ],
)
def test_mcnemar_gives_the_values_computed_by_hand(only_a: int, only_b: int, p_value: float) -> None:
    a = np.array([True] * only_a + [False] * only_b + [True] * 30 + [False] * 12)
    b = np.array([False] * only_a + [True] * only_b + [True] * 30 + [False] * 12)
    found = mcnemar(a, b)
    assert (found.only_a, found.only_b) == (only_a, only_b)
    assert found.p_value == pytest.approx(p_value)
    swapped = mcnemar(b, a)
    assert (swapped.only_a, swapped.only_b, swapped.p_value) == (only_b, only_a, pytest.approx(found.p_value))


def test_reruns_vote_before_mcnemar_counts() -> None:
    a = np.array([[1, 1, 0, 1], [1, 0, 0, 0], [0, 1, 1, 0]], dtype=bool)  # most right: yes yes no no
    b = np.array([[0, 1, 0, 1], [1, 1, 0, 1]], dtype=bool)  # half is not most: no yes no yes
    found = mcnemar(a, b)
    assert (found.only_a, found.only_b) == (1, 1)
    right = hits(noisy(1, 1.0, 1)[0], LABELS)
    assert mcnemar(right, right) == mcnemar(right[None], np.stack([right] * 3))
