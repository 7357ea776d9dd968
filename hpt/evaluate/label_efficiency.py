"""What labels buy: the figure on val against the number of training labels, of several backbones on the same draws.

A backbone embeds its images once; what varies is which of the training images have a label. Of each number of labels
several draws are made, the same for all backbones, and a small draw is the beginning of a larger one, so that what is
lucky or hard about labels and images cancels out between two curves. By them an adaptation is worth labels: so many do
with the adapted backbone what all do with its base.

Of 80 simulated pairs of backbones that differ in what they have to learn (as in the tests; 10 draws, 300 val images),
the interval of equally many labels held the true number in 95 % (a true 8, by a rung at 8) and in 85 % (a true 18,
between rungs at 8 and 20): a curve bends, and the line between two rungs lies below it, so that some labels too many
are read off.

Test images play no part. Intervals cover the chance in val's images and in which images are labelled (a bootstrap of
both), not that of another pretraining.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hpt.callbacks import Progress
from hpt.config import KnnConfig
from hpt.data.listing import Labels
from hpt.evaluate.knn import knn_logits
from hpt.evaluate.labels import in_order
from hpt.metrics import Float, Scores, weighted

Head = Literal["linear", "knn"]
HEADS: tuple[Head, ...] = get_args(Head)
STEPS = (1, 2, 5)
"""Rungs of a decade, in labels for each class."""
LAST = 0.8
"""A rung with more than this share of all labels is left out: all of them are the next one."""
LEVEL = 0.95
"""Coverage of the intervals."""
PENALTIES = 10.0 ** np.arange(-5, 3.5, 0.5)
"""Ridge penalties that are tried, in multiples of the mean squared length of a feature, centred."""


class Embedded(NamedTuple):
    """One backbone's features of the same images."""

    train: Tensor
    """[m, d] of the training images that have labels."""
    val: Tensor
    """[n, d]"""


@dataclass(frozen=True)
class Estimate:
    """A figure, or a difference of two, with its interval."""

    value: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 or -1 where the interval leaves out 0, else 0."""
        return int(self.low > 0) - int(self.high < 0)


@dataclass(frozen=True)
class LabelCount:
    """A number of labels, with its interval; each of the three is infinite beyond the last rung, and 0 where the first
    rung is more than enough: nothing is extrapolated."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Curves:
    """The figures of K backbones on val at R numbers of labels."""

    rungs: tuple[int, ...]
    """Numbers of training labels, ascending; the last is all of them."""
    figures: Float
    """[K, R, D, 1 + B] for each of D draws of the labels: on val's images, then on B resamples of them; NaN where a
    resample leaves the metric undefined. The draws of the last rung are one and the same."""
    images: int
    """The number of val images."""
    seed: int = 0
    """Of the resampled draws."""

    def figure(self, backbone: int, rung: int) -> Estimate:
        """The mean over the draws of a rung, and its interval."""
        return _estimate(self._means[backbone, rung])

    def gain(self, of: int, over: int, rung: int) -> Estimate:
        """How much one backbone is above another at a rung, paired by images and draws."""
        return _estimate(self._means[of, rung] - self._means[over, rung])

    def rise(self, backbone: int) -> Estimate:
        """What the last doubling of labels brought: the slope from the last rung but one to the last.

        Of a single rung there is none (NaN).
        """
        if len(self.rungs) < 2:
            return Estimate(math.nan, math.nan, math.nan)
        curve = self._means[backbone]
        return _estimate((curve[-1] - curve[-2]) / math.log2(self.rungs[-1] / self.rungs[-2]))

    def as_good_as(self, backbone: int, other: int, rung: int) -> LabelCount:
        """The labels with which a backbone is as good as another one with those of a rung."""
        found = labels_for(self._means[other, rung], self._means[backbone], self.rungs)
        low, high = np.quantile(found[1:], _ENDS, method="closest_observation")  # between two, infinity has no mean
        return LabelCount(float(found[0]), float(low), float(high))

    @cached_property
    def _means(self) -> Float:
        """[K, R, 1 + B] means over the draws: over all of them, and over D - 1 drawn with replacement beside each
        resample of the images, by which the variance is that of a mean of D."""
        count, resamples = self.figures.shape[2], self.figures.shape[3] - 1
        random = np.random.default_rng([self.seed, 0xD4A35])
        times = random.multinomial(count - 1, np.full(count, 1 / count), size=resamples) / (count - 1)  # B x D
        whole = self.figures[..., :1].mean(axis=2)
        drawn: Float = np.einsum("krdb,bd->krb", self.figures[..., 1:], times)
        defined = ~np.isnan(drawn).any(axis=(0, 1))
        return np.concatenate([whole, drawn[..., defined]], axis=2)


_ENDS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


def ladder(least: int, labels: int) -> tuple[int, ...]:
    """Numbers of labels to measure at: `least`, which has every class once, times 1, 2, 5, 10, 20, 50, ..., and all."""
    rungs: list[int] = []
    for power in range(12):
        rungs += [least * step * 10**power for step in STEPS]
    return (*(rung for rung in rungs if rung <= LAST * labels), labels)


def measure(
    backbones: Sequence[Embedded],
    train: Labels,
    val: Labels,
    classes: int,
    metric: str,
    *,
    head: Head = "linear",
    knn: KnnConfig | None = None,
    draws: int = 10,
    resamples: int = 1000,
    seed: int = 0,
    progress: Progress = lambda done, total, what: None,
) -> Curves:
    """The curves of some backbones, by heads fitted on their features.

    A fit of 1,000 labels, 512 features and 10 classes takes 0.1 s on a core, so 10 draws of six rungs some seconds.

    Args:
        train: labels [m] or [m, C] of the training images, all of them known.
        val: likewise [n] or [n, C].
        metric: one of `hpt.metrics` that `val` defines.
        draws: of the labels of each rung, 2 or more, by the seeds `seed`, `seed + 1`, ..., as `--labels N` draws them.

    Raises:
        HptError: scores are not finite.
    """
    orders = [in_order(train, seed + number) for number in range(draws)]
    rungs = ladder(max(first for _, first in orders), len(train))
    random = np.random.default_rng([seed, 0xE57])
    counts = random.multinomial(len(val), np.full(len(val), 1 / len(val)), size=resamples)
    weights = np.concatenate([np.ones((1, len(val))), counts]).astype(np.float32)
    figures = np.empty((len(backbones), len(rungs), draws, len(weights)))
    fits = len(backbones) * ((len(rungs) - 1) * draws + 1)
    done = 0
    for at, features in enumerate(backbones):
        fit = _heads(features, classes, head, knn or KnnConfig())
        for rung, count in enumerate(rungs):
            alike = count == len(train)
            for draw, (order, _) in enumerate(orders[:1] if alike else orders):
                rows = np.sort(order[:count])
                found = weighted(metric, fit(rows, train[rows]), val)(weights)
                figures[at, rung, slice(None) if alike else draw] = found
                done += 1
                progress(done, fits, "fitting heads")
    return Curves(rungs, figures, len(val), seed)


def labels_for(level: Float, curve: Float, rungs: Sequence[int]) -> Float:
    """[B] the labels at which curves [R, B] reach levels [B], between rungs linearly in the logarithm of the labels.

    The curves are made to rise first, by isotonic regression. Infinity where one does not reach its level by the last
    rung, 0 where the first rung is above it already.
    """
    rising = rise_only(curve)
    logs = np.log(np.asarray(rungs, dtype=float))
    reached = rising >= level  # R x B
    after = reached.argmax(axis=0)
    before = np.maximum(after - 1, 0)
    columns = np.arange(rising.shape[1])
    low, high = rising[before, columns], rising[after, columns]
    share = np.divide(level - low, high - low, out=np.zeros_like(level), where=high > low)
    found: Float = np.exp(logs[before] + share * (logs[after] - logs[before]))
    found[(after == 0) & (rising[0] > level)] = 0.0
    found[~reached.any(axis=0)] = np.inf
    return found


def rise_only(curve: Float) -> Float:
    """The nearest curves [R, B] that never fall (isotonic regression, by its max-min formula)."""
    count = len(curve)
    sums = np.concatenate([np.zeros((1, *curve.shape[1:])), np.cumsum(curve, axis=0)])
    out = np.empty_like(curve)
    for at in range(count):
        least = [
            np.min([(sums[end] - sums[begin]) / (end - begin) for end in range(at + 1, count + 1)], axis=0)
            for begin in range(at + 1)
        ]
        out[at] = np.max(least, axis=0)
    return out


def _estimate(values: Float) -> Estimate:
    """Of values [1 + B], the observed one first."""
    low, high = np.quantile(values[1:], _ENDS)
    return Estimate(float(values[0]), float(low), float(high))


Fit = Callable[[NDArray[np.int64], Labels], Scores]
"""Rows of the training features and their labels -> scores [n, C] of val."""


def _heads(features: Embedded, classes: int, head: Head, knn: KnnConfig) -> Fit:
    if head == "knn":

        def vote(rows: NDArray[np.int64], labels: Labels) -> Scores:
            bank, truth = features.train[rows], torch.from_numpy(labels).to(features.train.device)
            scores: Scores = knn_logits(bank, truth, features.val, classes, knn).cpu().numpy()
            return scores

        return vote
    train, val = (F.normalize(each, dim=1).double() for each in features)

    def fit(rows: NDArray[np.int64], labels: Labels) -> Scores:
        truth = torch.from_numpy(labels).to(train.device)
        targets = F.one_hot(truth, classes).double() if truth.ndim == 1 else truth.double()
        scores: Scores = ridge(train[rows], targets, val).cpu().numpy()
        return scores

    return fit


def ridge(bank: Tensor, targets: Tensor, queries: Tensor) -> Tensor:
    """Scores [n, C] of least squares with a penalty, fitted on `bank` [m, d] and `targets` [m, C] of 0 and 1.

    The penalty is the one of `PENALTIES` by which each labelled image is best told from all others of them (its squared
    error when left out, in closed form), so that val has no say in it. O(m d min(m, d)) time, and fp64.
    """
    mean, middle = bank.mean(dim=0), targets.mean(dim=0)
    x, y, q = bank - mean, targets - middle, queries - mean
    count = len(x)
    wide = count <= x.shape[1]
    gram = x @ x.T if wide else x.T @ x
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp_min(0)
    scale = values.sum() / count
    if not scale > 0:  # a single image, or all alike
        return middle.expand(len(queries), -1)
    penalties = torch.from_numpy(PENALTIES).to(x) * scale
    # Of the centred images, whose smoother has the mean of the targets beside it (1 / m on its diagonal).
    basis = vectors if wide else x @ vectors / values.clamp_min(1e-12 * values[-1]).sqrt()  # m x r
    inside = basis.T @ y  # r x C
    best, chosen = float("inf"), penalties[-1]
    for penalty in penalties:
        shrunk = values / (values + penalty)
        own = basis.square() @ shrunk + 1 / count  # m
        error = (y - basis @ (shrunk[:, None] * inside)) / (1 - own).clamp_min(1e-9)[:, None]
        if (loss := float(error.square().mean())) < best:
            best, chosen = loss, penalty
    dual = vectors @ ((inside if wide else vectors.T @ (x.T @ y)) / (values + chosen)[:, None])
    scores: Tensor = (q @ x.T if wide else q) @ dual + middle
    return scores
