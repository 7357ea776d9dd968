from __future__ import annotations

import math
from itertools import combinations
from math import comb

import numpy as np
import pytest
from scipy.stats import binom, norm, t

from hpt.errors import ConfigError, DataError, HptError
from hpt.metrics import multi_label, single_label
from hpt.statistics import (
    Chance,
    Interval,
    Model,
    SpeedUp,
    chance_of,
    difference,
    holm,
    mcnemar,
    moderated,
    resample,
    speed_up,
    verdict,
)

Scores = np.ndarray | list[np.ndarray]
"""Scores [R, n, C] of the reruns of one training, or of several."""


def interval(
    metric: str, a: Scores, b: Scores, labels: np.ndarray, *, resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """The interval of the difference between two models."""
    sides = [Model(each if isinstance(each, list) else [each]) for each in (a, b)]
    return difference(*resample(metric, sides, labels, resamples=resamples, seed=seed), level=level)


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
    assert binom.ppf(0.001, simulations, 0.95) <= covered  # more where reruns vary image by image
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
    a, b = noisy(4, 2.0, 1), noisy(3, 0.2, 2)  # reruns of other numbers
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


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_seeds_that_vary_as_wholes_are_covered(seeds: int) -> None:
    """400 images, equal models whose seeds are 3 points better or worse: seeds are most of the chance there is."""
    labels, simulations, covered = np.ones(400, dtype=int), 300, 0
    for seed in range(simulations):
        a, b = models(seed, seeds, 400, offset=0.03, anew=0.1)
        found = interval("top1", list(scores_of(a)[:, None]), list(scores_of(b)[:, None]), labels, resamples=200)
        assert found.chance.controlled
        covered += found.low <= 0.10 <= found.high
    assert covered >= binom.ppf(0.001, simulations, 0.95)


def test_the_margin_is_that_of_the_images_and_that_of_the_seeds_added_up_as_standard_deviations_are() -> None:
    chance = chance_of(0.0004, [(0.0009, 2), (0.0001, 2)], [3, 3])
    assert chance.seeds == pytest.approx(0.001)
    assert chance.degrees == pytest.approx(0.001**2 / ((0.0009**2 + 0.0001**2) / 2))
    of_images, of_seeds = norm.ppf(0.975) * 0.02, t.ppf(0.975, chance.degrees) * 0.001**0.5
    assert chance.margin(0.95) == pytest.approx(math.hypot(of_images, of_seeds))
    assert chance.p_value(chance.margin(0.95)) == pytest.approx(0.05)
    assert chance.p_value(-chance.margin(0.9999)) == pytest.approx(0.0001)
    assert chance.detectable(0.95) > chance.margin(0.95)
    without = chance_of(0.0004, [(0.0, 0), (0.0, 0)], [None, None])
    assert without.margin(0.95) == pytest.approx(of_images)
    assert (chance.p_value(0.0), chance_of(0.0, [(0.0, 0)], [None]).p_value(0.1)) == (1, pytest.approx(0, abs=1e-12))


def test_a_single_seed_is_no_control() -> None:
    def controlled(*seeds: int | None) -> bool:
        return chance_of(0.1, [(0.0, 0), (0.0, 0)], seeds).controlled

    assert controlled(3, 3)
    assert controlled(2, None)  # of a backbone that nothing trained, under kNN
    assert not controlled(1, 3)


@pytest.mark.parametrize(("seeds", "deviation"), [(2, 0.03), (3, 0.03), (3, 0.01), (5, 0.02)])
def test_equal_models_of_few_seeds_are_called_different_no_more_often_than_the_level_allows(
    seeds: int, deviation: float
) -> None:
    """In the tails, where the verdicts of many comparisons are made: at 1 % and 0.2 %."""
    random, images = np.random.default_rng(seeds), 0.007
    figures = random.normal(0, deviation, (20_000, seeds))
    apart = figures.mean(axis=1) + random.normal(0, images, 20_000)
    for level in (0.99, 0.998):
        called = sum(
            abs(d) > chance_of(images**2, [(s**2 / seeds, seeds - 1), (0.0, 0)], [seeds, None]).margin(level)
            for d, s in zip(apart[:4000], figures[:4000].std(axis=1, ddof=1), strict=True)
        )
        assert called <= binom.ppf(0.999, 4000, 1 - level)


def test_variances_of_few_seeds_are_drawn_towards_what_they_have_in_common() -> None:
    random = np.random.default_rng(8)
    equal = [(float(each), 2) for each in 0.0004 * random.chisquare(2, 40) / 2]
    found = moderated(equal)
    errors = [np.std(np.log([variance for variance, _ in each])) for each in (equal, found)]
    assert errors[1] < errors[0] / 5
    assert np.mean([variance for variance, _ in found]) == pytest.approx(0.0004, rel=0.3)
    assert min(degrees for _, degrees in found) > 10
    apart = [(float(each), 2) for each in 0.0004 * np.exp(random.normal(0, 3, 40)) * random.chisquare(2, 40) / 2]
    kept = moderated(apart)
    assert max(degrees for _, degrees in kept) < 3  # nothing in common, nothing to borrow
    assert moderated(equal[:2]) == [(variance, 2.0) for variance, _ in equal[:2]]
    assert moderated([(0.0, 2), (0.0, 2), (0.0004, 2)])[0][0] >= 0


def test_reruns_of_one_seed_are_no_new_evidence_of_it() -> None:
    """Three seeds, of which one failed: nine equal reruns of them are three draws of chance, not nine."""
    labels = np.ones(50, dtype=int)
    good, bad = (scores_of(np.full((3, 50), right)) for right in (True, False))
    never = scores_of(np.zeros((1, 50), dtype=bool))
    seeds = interval("top1", [good, good, bad], never, labels, resamples=400)
    assert seeds.difference == pytest.approx(2 / 3)
    assert seeds.chance.seeds == pytest.approx(1 / 9)  # the variance of 1, 1, 0 is a third
    assert seeds.low < 0
    as_one = interval("top1", np.concatenate([good, good, bad]), never, labels, resamples=400)
    assert as_one.low > 0.2
    assert not as_one.chance.controlled  # a single seed


def test_of_a_backbone_that_nothing_trained_the_reruns_are_all_the_chance_there_is() -> None:
    probes, knn = Model([noisy(3, 1.0, 1)], trained=False), Model([noisy(1, 1.0, 2)], trained=False)
    resampled = resample("top1", [probes, knn, Model([noisy(3, 1.0, 1)])], LABELS, resamples=50)
    assert [each.seeds for each in resampled] == [3, None, 1]


def test_models_resampled_together_differ_as_each_pair_does() -> None:
    models_: list[Scores] = [noisy(3, 1.5, 1), [noisy(2, 0.5, 2), noisy(2, 0.6, 3)], noisy(1, 0.2, 4)]
    sides = [Model(each if isinstance(each, list) else [each]) for each in models_]
    together = resample("auroc", sides, LABELS, resamples=200, seed=7)
    for (i, a), (j, b) in combinations(enumerate(models_), 2):
        pair = interval("auroc", a, b, LABELS, resamples=200, seed=7)
        assert difference(together[i], together[j]) == pair


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
    with pytest.raises(DataError, match="one test image says nothing of a difference; test on more images"):
        interval("top1", a[:, :1], a[:, :1], LABELS[:1])
    with pytest.raises(HptError, match="NaN"):
        interval("top1", a, a * np.nan, LABELS)
    with pytest.raises(ConfigError, match="did you mean 'top1'"):
        interval("top-1", a, a, LABELS)
    with pytest.raises(HptError, match="evaluated on 60 images and the other on 59"):
        mcnemar(np.ones(60, dtype=bool), np.ones(59, dtype=bool))


@pytest.mark.parametrize(
    ("apart", "expected"), [(0.21, "win"), (-0.21, "loss"), (0.19, "tie"), (-0.19, "tie"), (0, "tie")]
)
def test_the_verdict_is_whether_0_lies_in_the_interval(apart: float, expected: str) -> None:
    chance = Chance(0.01, 0.0, math.inf, controlled=True)  # a margin of 0.196
    found = Interval(0.5, 0.5 - apart, apart, apart - 0.196, apart + 0.196, 0.95, 1, chance)
    assert verdict(found) == expected
    assert verdict(found, p_value=0.06) == ("tie" if expected == "tie" else "not sure")  # as one of several


def test_p_values_are_adjusted_for_being_several() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_comparison_with_a_larger_share_is_adjusted_less() -> None:
    # The first has half of the 5 %: 0.02 * 4 / 2; then the second: 0.01 * 2 / 1 of what is left.
    assert holm([0.02, 0.01, 0.9], [2, 1, 1]) == pytest.approx([0.04, 0.04, 0.9])
    assert holm([0.02, 0.01, 0.9], [1, 1, 1]) == pytest.approx([0.04, 0.03, 0.9])


def test_equal_models_give_a_false_verdict_in_one_of_twenty_families_at_most() -> None:
    random, false = np.random.default_rng(5), 0
    for _ in range(2000):
        false += min(holm(random.random(12).tolist(), random.integers(1, 9, 12).tolist())) < 0.05
    assert false <= binom.ppf(0.999, 2000, 0.05)


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


def test_mcnemar_matches_rerun_by_rerun_and_takes_twice_the_mean_of_the_p_values() -> None:
    random = np.random.default_rng(3)
    a, b = random.random((2, 3, 200)) < np.array([0.9, 0.8])[:, None, None]
    each = [mcnemar(one, other) for one, other in zip(a, b, strict=True)]
    found = mcnemar(a, b)
    assert found.p_value == pytest.approx(min(1, 2 * np.mean([test.p_value for test in each])))
    assert found.only_a == pytest.approx(np.mean([test.only_a for test in each]))
    with pytest.raises(ConfigError, match="rerun by rerun, and there are 3 and 2"):
        mcnemar(a, b[:2])


def test_equal_models_are_rejected_by_mcnemar_no_more_often_than_the_level_allows() -> None:
    random, rejected = np.random.default_rng(4), 0
    for _ in range(300):
        a, b = random.random((2, 3, 300)) < 0.8
        rejected += mcnemar(a, b).p_value < 0.05
    assert rejected <= binom.ppf(0.999, 300, 0.05)
