"""Whether one model is better than another, or the difference is chance.

Chance has two parts. Both models scored the same test images, so images are resampled for both at once, and what makes
an image hard cancels out. And each model was trained from some seeds, of which others would have come to other figures:
what a few seeds show of that, with Student's t for their being few.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hpt.errors import ConfigError, DataError, HptError
from hpt.metrics import Float, Labels, Scores, Weighted, Weights, weighted

Verdict = Literal["win", "loss", "tie", "not sure"]
"""Of the first model against the second. `tie`: chance may have made the difference; `not sure`: the interval of this
difference alone leaves out 0, but it does not hold among all verdicts of its family."""
NOT_SURE_BECAUSE = "its interval alone leaves out 0, but it does not hold among all verdicts together"
"""Why a verdict is `not sure`, in words behind a difference."""

BLOCK = 1 << 18
"""Weights drawn at a time: 1 MB, which stays in a processor's cache."""
FEW_IMAGES = 20
"""Fewer test images than these give no verdict: the normal law that the intervals rest on does not hold yet."""
SEEDS = 3
"""The number of seeds from which the intervals hold what they say; the published protocol has as many reruns."""
NO_SPREAD = 1e-4
"""A standard deviation between seeds below 0.01 points is taken for that: its logarithm would be without bound."""
POWER = 0.8
"""The chance to see a difference of the size that counts as one that the data could have seen."""


@dataclass(frozen=True)
class Model:
    """One side of a comparison."""

    seeds: Sequence[Scores]
    """Scores [R, n, C] of R reruns (logits, as in `hpt.metrics`), one for each training."""
    trained: bool = True
    """Whether the backbone was trained, so that another seed would give another one. Where it was not (`base`, weights
    as they are), the reruns of a probe on top are all the chance there is, and a single rerun has none."""


@dataclass(frozen=True)
class Chance:
    """How far a difference between two figures may be from the truth."""

    images: float
    """Variance that comes from the test images."""
    seeds: float
    """Variance that comes from the trainings, as far as their seeds show it."""
    degrees: float
    """Degrees of freedom of `seeds` (Welch and Satterthwaite, doi 10.2307/3002019); infinite where there are none."""
    controlled: bool
    """Whether both sides have several seeds, or need none. Without them the trainings are taken as given: nothing is
    known of what other seeds would have come to."""

    def margin(self, level: float) -> float:
        """Half of the width of the confidence interval.

        The margins of the two parts are added up as standard deviations are (Zou and Donner 2008, doi
        10.1002/sim.3095). A single Student's t for the sum of the variances, with the degrees of freedom that Welch and
        Satterthwaite give it, is narrower and wrong in the tails: a few seeds often agree by luck, and then it takes
        the images for all the chance there is. Of equal models with three seeds it calls three times as many different.
        """
        return float(_margins(np.asarray(level), self.images, self.seeds, self.degrees))

    def p_value(self, difference: float) -> float:
        """Two-sided: the largest share of chance at which the interval around the difference still holds 0."""
        return p_values([self], [difference])[0]

    def detectable(self, level: float) -> float:
        """The difference that would have excluded 0 from the interval of that level with a chance of `POWER`."""
        return self.margin(level) + float(_quantile(POWER, math.inf)) * math.sqrt(self.images + self.seeds)


@dataclass(frozen=True)
class Interval:
    """A metric of two models and the confidence interval of their difference."""

    a: float
    """The first model's metric, averaged over its seeds or reruns."""
    b: float
    """The second model's, likewise."""
    difference: float
    """a - b."""
    low: float
    """Lower end of the interval of the difference."""
    high: float
    """Upper end of the interval of the difference."""
    level: float
    """Confidence level: the share of such intervals that contain the true difference."""
    resamples: int
    """Number of resamples of the images, without those that leave the metric undefined (AUROC of a single class)."""
    chance: Chance

    @property
    def p_value(self) -> float:
        """Two-sided: 1 - level where 0 is at an end of the interval."""
        return self.chance.p_value(self.difference)


@dataclass(frozen=True)
class Resampled:
    """A metric of one model on the images and on resamples of them."""

    units: Float
    """[S] the metric on the images themselves, for each seed, or for each rerun of a single seed."""
    figures: Float
    """[B, S] the metric on each resample, likewise; NaN where the resample leaves it undefined."""
    images: int
    """The number of images."""
    seeds: int | None
    """The number of seeds that show what the training leaves to chance; None where it leaves nothing."""

    @property
    def observed(self) -> float:
        """The metric on the images themselves, averaged."""
        return float(np.mean(self.units))


@dataclass(frozen=True)
class SpeedUp:
    """How much longer another strategy must train to reach the same figure."""

    factor: float
    """Steps of the other strategy divided by the steps of this one."""
    bound: Literal["", "more than", "at most"]
    """`more than` where the measured curve never reaches the figure, `at most` where its first point already does."""
    steps: float
    """Steps that the other strategy needs, with the same bound."""


@dataclass(frozen=True)
class McNemar:
    """The images on which two models disagree, and how unlikely their split would be if neither were better."""

    only_a: float
    """Images that only the first model classifies correctly, a mean over the matched reruns."""
    only_b: float
    """Images that only the second model classifies correctly, likewise."""
    p_value: float
    """Two-sided exact p-value; 1 where the models never disagree."""


def resample(metric: str, models: Sequence[Model], labels: Labels, *, resamples: int, seed: int = 0) -> list[Resampled]:
    """The metric of each model on the same resamples of the images, by which `difference` compares any two of them.

    A resample draws the n images with replacement, the same for all models. k models cost k times as much as one,
    where comparing each pair anew would cost k - 1 times that. 2,000 resamples of 5,000 images in 7 classes take two
    models of 3 reruns each 0.1 s for top1, 0.3 s for balanced_accuracy, 2.3 s for AUROC and 2.6 s for mAP on one core.

    Args:
        metric: one of `hpt.metrics`.
        models: the scores of each, on the same images in the same order.
        labels: [n], or [n, C] of a multi-label set.
        seed: the outcome depends on it and on nothing else.

    Raises:
        ConfigError: the metric is not defined for labels of this kind.
        DataError: a single image.
        HptError: the number of scored images and of labels differ, a score is NaN, or the labels leave the metric
            undefined.
    """
    n = len(labels)
    if any(scores.shape[1] != n for model in models for scores in model.seeds):
        scored = " and ".join(str(model.seeds[0].shape[1]) for model in models)
        raise HptError(
            f"{scored} images were scored and {n} have labels", "compare models on the same split of the same dataset"
        )
    if n == 1:
        raise DataError("one test image says nothing of a difference", "test on more images")
    figures = [[[weighted(metric, rerun, labels) for rerun in scores] for scores in model.seeds] for model in models]
    # What varies in a model: its seeds, or the reruns of its only seed.
    drawn = [[[rerun] for rerun in each[0]] if len(each) == 1 else each for each in figures]
    once = np.ones((1, n), dtype=np.float32)
    units = [np.array([_mean(unit, once)[0] for unit in each]) for each in drawn]
    if any(np.isnan(each).any() for each in units):
        raise HptError(f"{metric} is undefined on these {n} images", "it needs images of two classes")

    random = np.random.default_rng(seed)
    found = [np.empty((resamples, len(each))) for each in drawn]
    rows = max(1, BLOCK // n)
    for start in range(0, resamples, rows):
        weights = _resampled(n, min(rows, resamples - start), random)
        for each, out in zip(drawn, found, strict=True):
            for number, unit in enumerate(each):
                out[start : start + rows, number] = _mean(unit, weights)
    return [Resampled(at, out, n, _seeds(model)) for model, at, out in zip(models, units, found, strict=True)]


def difference(a: Resampled, b: Resampled, *, level: float = 0.95) -> Interval:
    """The interval of the difference between two models that were resampled together.

    Chance in the images is the variance of the paired bootstrap (of the mean over a model's seeds, or reruns). Chance
    in the trainings is the variance of the mean of each model's seeds, s^2/S, with Student's t for their being few
    (`Chance.margin`). Several evaluations of one training share its luck and are no further evidence of it: a model's
    seeds are its trainings. Of a single training the reruns take the place of seeds, and it is taken as given.

    Coverage of the 95 % interval, and how often equal models are called different, by simulation:
    `benchmarks/verdict.py`. Of a single seed it covers as little as 21 % where seeds vary much, which is why
    `Chance.controlled` tells that apart.

    Swapping a and b negates the interval, and the interval of a model against itself is symmetric.

    Raises:
        HptError: the metric is undefined in half of the resamples or more.
    """
    differences = a.figures.mean(axis=1) - b.figures.mean(axis=1)
    differences = differences[~np.isnan(differences)]  # by the labels drawn alone
    if 2 * len(differences) <= len(a.figures):
        raise HptError("the metric is undefined in most resamples of these images", "test on more images")
    n = a.images
    parts = [mean_variance(each.units) for each in (a, b)]
    chance = chance_of(float(differences.var()) * n / (n - 1), parts, (a.seeds, b.seeds))
    apart, margin = a.observed - b.observed, chance.margin(level)
    return Interval(a.observed, b.observed, apart, apart - margin, apart + margin, level, len(differences), chance)


def mean_variance(units: Sequence[float] | Float) -> tuple[float, float]:
    """The variance of the mean of figures [S] and its degrees of freedom; 0 and 0 of a single one."""
    return (float(np.var(units, ddof=1)) / len(units), len(units) - 1.0) if len(units) > 1 else (0.0, 0.0)


def moderated(variances: Sequence[tuple[float, int]]) -> list[tuple[float, float]]:
    """Variances of a few seeds each, drawn towards what all of them have in common; with their degrees of freedom.

    Three seeds tell little of their own spread, and many sets of three tell much of it together. The variances are
    taken to vary about a common one as an inverse chi-square does, whose degrees of freedom the spread of their
    logarithms gives (Smyth 2004, doi 10.2202/1544-6115.1027): where they differ more than chance explains, little is
    borrowed. Half of that, and of what all others know, is used: with all of it, sets whose true variances differ
    1.6-fold would be called different in up to 8 % where 5 % are meant, and with half in 5 %.

    Args:
        variances: the variance between the seeds of each set, and its degrees of freedom, 1 or more; fewer than three
            sets are left as they are.
    """
    from scipy.special import digamma, polygamma  # 0.4 s

    if len(variances) < 3:
        return [(variance, float(degrees)) for variance, degrees in variances]
    found, d = (np.array(each, dtype=float) for each in zip(*variances, strict=True))
    logs = np.log(np.maximum(found, NO_SPREAD**2)) - digamma(d / 2) + np.log(d / 2)
    beyond = float(np.var(logs, ddof=1) - polygamma(1, d / 2).mean())
    common, known = float(np.average(found, weights=d)), math.inf
    if beyond > 0:
        known = 2 * _inverse_trigamma(beyond)
        common = math.exp(float(logs.mean()) + float(digamma(known / 2)) - math.log(known / 2))
    borrowed = np.minimum(known, d.sum() - d) / 2
    return [
        (float((lent * common + degrees * variance) / (lent + degrees)), float(lent + degrees))
        for variance, degrees, lent in zip(found, d, borrowed, strict=True)
    ]


def chance_of(images: float, parts: Sequence[tuple[float, float]], seeds: Sequence[int | None]) -> Chance:
    """What chance may have in the difference between the means of two models.

    Args:
        images: variance of the difference that comes from the test images.
        parts: the variance that comes from the seeds (or from the reruns of a single one), and its degrees of freedom,
            of both.
        seeds: the number of seeds of both; None where a model needs none.
    """
    varied = sum(part for part, _ in parts)
    squares = sum(part**2 / degrees for part, degrees in parts if degrees)
    degrees = varied**2 / squares if squares else math.inf
    return Chance(images, varied, degrees, controlled=all(each is None or each > 1 for each in seeds))


def verdict(interval: Interval, p_value: float | None = None) -> Verdict:
    """`win` or `loss` of the first model where the interval excludes 0, else `tie`.

    `p_value` is the interval's own after adjustment for a family of comparisons (`holm`), where it is one of several:
    what it takes a verdict from is `not sure`.
    """
    if (interval.p_value if p_value is None else p_value) >= 1 - interval.level:
        return undecided(interval.low, interval.high)
    return "win" if interval.difference > 0 else "loss"


def undecided(low: float, high: float) -> Literal["tie", "not sure"]:
    """The verdict on a difference that did not hold, by its own interval."""
    return "not sure" if low > 0 or high < 0 else "tie"


def p_values(chances: Sequence[Chance], differences: Sequence[float]) -> list[float]:
    """`Chance.p_value` of many at once: a report has some thousand."""
    apart = np.abs(np.asarray(differences, dtype=float))
    parts = [np.array([getattr(each, part) for each in chances]) for part in ("images", "seeds", "degrees")]
    low, high = np.zeros_like(apart), np.ones_like(apart)  # the margin falls as the share of chance rises
    for _ in range(40):
        middle = (low + high) / 2
        falls = _margins(1 - middle, *parts) < apart
        low, high = np.where(falls, low, middle), np.where(falls, middle, high)
    return [float(p) for p in np.where(apart == 0, 1.0, high)]


def holm(p_values: Sequence[float], shares: Sequence[float] | None = None) -> list[float]:
    """p-values adjusted for multiple tests (Holm 1979): whatever is true, the chance that any of those below 5 % is
    false is at most 5 %.

    Args:
        p_values: of the tests of a family.
        shares: what part of the 5 % each test has, in proportion; equal parts where left out. A test that matters more
            may have a larger part, as long as the p-values have no say in it.
    """
    parts = np.ones(len(p_values)) if shares is None else np.asarray(shares, dtype=float)
    adjusted, highest, left = [0.0] * len(p_values), 0.0, float(parts.sum())
    for at in np.argsort(np.asarray(p_values, dtype=float) / parts, kind="stable"):
        highest = max(highest, min(1.0, p_values[at] * left / parts[at]))
        adjusted[at] = highest
        left -= float(parts[at])
    return adjusted


def mcnemar(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> McNemar:
    """McNemar's exact test (doi 10.1007/BF02295996) of the hypothesis that two models are correct equally often.

    Only the images on which they disagree count: if neither model is better, each wins such an image with probability
    1/2, whatever the other two cells of the table hold. It takes the trainings as given, where the interval of
    `difference` covers their chance too.

    Args:
        a: whether the first model classifies each image correctly (`hpt.metrics.hits`), [n], or [R, n] of several
            reruns. Each is tested against the other model's rerun of the same number, and twice the mean of the
            p-values is one (Ruschendorf 1982, doi 10.2307/1426673), however the reruns depend on each other.
        b: the same for the second model, on the same images in the same order, of as many reruns.

    Raises:
        ConfigError: the numbers of reruns differ.
        HptError: the two models were evaluated on different numbers of images.
    """
    from scipy.stats import binomtest  # 0.5 s

    rights_a, rights_b = np.atleast_2d(a), np.atleast_2d(b)
    if rights_a.shape[1] != rights_b.shape[1]:
        raise HptError(
            f"one model was evaluated on {rights_a.shape[1]} images and the other on {rights_b.shape[1]}",
            "compare models on the same split of the same dataset",
        )
    if len(rights_a) != len(rights_b):
        raise ConfigError(
            f"McNemar's test matches rerun by rerun, and there are {len(rights_a)} and {len(rights_b)}",
            "compare as many of each",
        )
    only_a, only_b, p_values = [], [], []
    for right_a, right_b in zip(rights_a, rights_b, strict=True):
        only_a.append(int((right_a & ~right_b).sum()))
        only_b.append(int((right_b & ~right_a).sum()))
        disagree = only_a[-1] + only_b[-1]
        p_values.append(float(binomtest(only_a[-1], disagree, 0.5).pvalue) if disagree else 1.0)
    p_value = p_values[0] if len(p_values) == 1 else min(1.0, 2 * float(np.mean(p_values)))
    return McNemar(float(np.mean(only_a)), float(np.mean(only_b)), p_value)


def speed_up(steps: float, figure: float, curve: Sequence[tuple[float, float]]) -> SpeedUp:
    """How many times `steps` the strategy with the measured `curve` needs to reach `figure`.

    The curve is interpolated linearly over the logarithm of the steps and read where it first reaches the figure: of a
    curve that rises, falls and rises again the first rise counts.

    Args:
        steps: what the faster strategy took to reach the figure.
        curve: (steps, figure) of the other strategy for at least one length, in any order.
    """
    ordered = sorted(curve)
    before, below = ordered[0]
    if below >= figure:
        return SpeedUp(before / steps, "at most", before)
    for after, above in ordered[1:]:
        if above >= figure:
            share = (figure - below) / (above - below)
            needed = math.exp(math.log(before) + share * (math.log(after) - math.log(before)))
            return SpeedUp(needed / steps, "", needed)
        before, below = after, above
    return SpeedUp(before / steps, "more than", before)


def _mean(reruns: Sequence[Weighted], weights: Weights) -> Float:
    """[B] the metric under weights [B, n], averaged over the reruns of one seed."""
    return np.asarray(np.mean([figure(weights) for figure in reruns], axis=0))


def _resampled(n: int, resamples: int, random: np.random.Generator) -> Weights:
    """[resamples, n] how often each of n images occurs among n drawn with replacement."""
    drawn = random.integers(n, size=(resamples, n)) + np.arange(resamples)[:, None] * n
    return np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n).astype(np.float32)


def _seeds(model: Model) -> int | None:
    """The number of seeds, or of reruns where they are all the chance there is; None of a single such rerun."""
    if model.trained or len(model.seeds) > 1:
        return len(model.seeds)
    reruns = len(model.seeds[0])
    return reruns if reruns > 1 else None


def _margins(level: Float, images: Float | float, seeds: Float | float, degrees: Float | float) -> Float:
    """`Chance.margin` of one or many."""
    share = (1 + level) / 2
    return np.sqrt(_quantile(share, np.asarray(math.inf)) ** 2 * images + _quantile(share, degrees) ** 2 * seeds)


def _quantile(share: Float | float, degrees: Float | float) -> Float:
    """The quantile of Student's t, or of the normal distribution where the degrees of freedom are infinite."""
    from scipy.special import ndtri, stdtrit  # 0.4 s

    many = np.isinf(degrees)
    found: Float = np.where(many, ndtri(share), stdtrit(np.where(many, 1.0, degrees), share))
    return found


def _inverse_trigamma(value: float) -> float:
    """y with trigamma(y) = value, by Newton's method on its reciprocal, which converges from any side."""
    from scipy.special import polygamma

    y = 0.5 + 1 / value
    for _ in range(50):
        at = float(polygamma(1, y))
        step = at * (1 - at / value) / float(polygamma(2, y))
        y += step
        if -step < 1e-8 * y:
            break
    return y
