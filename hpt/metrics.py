"""Figures of merit, shares in [0, 1].

Scores [n, C] are logits. Single-label ones go through a softmax, so votes or probabilities are handed over as their
log (-inf for a vote of 0). Labels are class numbers [n], or 0 and 1 [n, C] of a multi-label set. A class without
the label values that a figure needs is left out of the mean, never scored 0; `left_out` says which.

Each figure is written once, as a function of how often each image counts (`weighted`): the bootstrap of
`hpt.statistics` recomputes exactly what an evaluation reports.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpt.errors import ConfigError, HptError, did_you_mean

Scores = NDArray[np.floating]
Labels = NDArray[np.integer | np.floating]
Float = NDArray[np.float64]
Weights = NDArray[np.float32]
"""[B, n] how often each image counts, in each of B resamples: whole numbers, whose sums fp32 holds exactly up to
2^24, and twice as fast as fp64."""
Weighted = Callable[[Weights], Float]
"""Weights [B, n] -> the figure [B], NaN where it is undefined."""

SINGLE_LABEL = ("top1", "top5", "balanced_accuracy", "auroc")
MULTI_LABEL = ("auroc", "map")


@dataclass(frozen=True)
class PerClass:
    """One row a class: each field is [C], and NaN where it is undefined."""

    support: NDArray[np.int64]
    """Images of the class."""
    recall: Float
    """Share of these that were predicted as the class; undefined without any."""
    precision: Float
    """Share of what was predicted as the class that is of it; undefined where nothing was."""
    f1: Float
    """Harmonic mean of both, 2 TP / (2 TP + FP + FN); undefined where all three are 0."""
    auroc: Float
    """Of the class against the rest; undefined where every image is of it, or none."""
    average_precision: Float
    """Of the class against the rest; undefined without images of it."""


def single_label(scores: Scores, labels: Labels) -> dict[str, float]:
    """The figures of scores [n, C] and class numbers [n].

    top1; top5 where there are more than five classes; balanced_accuracy, the recall averaged over the classes present;
    auroc, the area under the ROC curve of each class's softmax probability against the rest, averaged over the
    classes present. Of two classes it is the usual AUROC. It is absent where all images are of one class.

    Raises:
        HptError: no images, NaN or infinity among the scores, or a label that is no class.
    """
    return _defined([m for m in SINGLE_LABEL if m != "top5" or scores.shape[1] > 5], scores, labels)


def multi_label(scores: Scores, labels: Labels) -> dict[str, float]:
    """The figures of scores [n, C] and labels [n, C] of 0 and 1, averaged over classes; one without a class is absent.

    auroc, over the classes that have both label values; map, mean average precision (without interpolation), over
    the classes that have a positive.

    Raises:
        HptError: no images, NaN among the scores, or labels other than 0 and 1.
    """
    return _defined(MULTI_LABEL, scores, labels)


def left_out(labels: Labels, classes: int) -> dict[str, list[int]]:
    """Numbers of the classes that each averaged figure leaves out for want of labels [n] or [n, classes].

    Keys: `balanced_accuracy` and `auroc` of single-label sets, `auroc` and `map` of multi-label sets.
    """
    positives = np.bincount(labels.astype(np.int64), minlength=classes) if labels.ndim == 1 else labels.sum(axis=0)
    absent = np.flatnonzero(positives == 0).tolist()
    one_sided = np.flatnonzero((positives == 0) | (positives == len(labels))).tolist()
    return {"balanced_accuracy" if labels.ndim == 1 else "map": absent, "auroc": one_sided}


def hits(scores: Scores, labels: Labels, k: int = 1) -> NDArray[np.bool_]:
    """[n] whether the label [n] is among the k highest scores [n, C]; of tied classes the lower number wins."""
    own = scores[np.arange(len(labels)), labels][:, None]
    ahead = np.arange(scores.shape[1]) < labels[:, None]
    rank: NDArray[np.intp] = np.count_nonzero((scores > own) | ((scores == own) & ahead), axis=1)
    return rank < k


def top_k(scores: Scores, labels: Labels, k: int) -> float:
    """Share of images [n, C] whose label [n] is among the k highest scores; of tied classes the lower number wins."""
    return float(hits(scores, labels, k).mean())


def confusion(scores: Scores, labels: Labels) -> NDArray[np.int64]:
    """[C, C] images of each class (row) by predicted class (column), of scores [n, C] and class numbers [n].

    Raises:
        HptError: as `single_label`.
    """
    scores, labels = _checked(scores, labels)
    classes = scores.shape[1]
    cells = labels * classes + scores.argmax(axis=1)
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def per_class(scores: Scores, labels: Labels) -> PerClass:
    """Figures of each class, of scores [n, C] and labels [n] or [n, C].

    The highest score is the prediction, in a multi-label set each score above 0 (a probability above one half).

    Raises:
        HptError: as `single_label` and `multi_label`.
    """
    scores, labels = _checked(scores, labels)
    if labels.ndim == 1:
        counts = confusion(scores, labels)
        right, support, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    else:
        positive, above = labels > 0, scores > 0
        right, support, predicted = (np.count_nonzero(each, axis=0) for each in (positive & above, positive, above))
    rankings, once = _rankings(scores, labels), np.ones((1, len(labels)), dtype=np.float32)
    return PerClass(
        support=support.astype(np.int64),
        recall=_share(right, support),
        precision=_share(right, predicted),
        f1=_share(2 * right, support + predicted),
        auroc=np.array([ranking.auroc(once)[0] for ranking in rankings]),
        average_precision=np.array([ranking.average_precision(once)[0] for ranking in rankings]),
    )


def weighted(metric: str, scores: Scores, labels: Labels) -> Weighted:
    """The figure `metric` of these images as a function of how often each counts.

    All sorting is done here, once: a call costs about 5 ns for each resample, image and (AUROC, mAP) class. Memory is
    a few times that of the weights.

    Raises:
        ConfigError: labels [n] have no such metric, or labels [n, C] have not.
        HptError: as `single_label` and `multi_label`.
    """
    known = SINGLE_LABEL if labels.ndim == 1 else MULTI_LABEL
    if metric not in known:
        kind = "single-label" if labels.ndim == 1 else "multi-label"
        raise ConfigError(
            f"'{metric}' is no {kind} metric{did_you_mean(metric, known)}", f"choose one of {', '.join(known)}"
        )
    scores, labels = _checked(scores, labels)
    if metric in ("top1", "top5"):
        right = hits(scores, labels, int(metric[3:])).astype(np.float32)
        return lambda weights: _share(weights @ right, weights.sum(axis=1))
    if metric == "balanced_accuracy":
        return _balanced_accuracy(scores, labels)
    of_class = _Ranking.auroc if metric == "auroc" else _Ranking.average_precision
    rankings = _rankings(scores, labels)
    return lambda weights: _macro(np.stack([of_class(ranking, weights) for ranking in rankings], axis=1))


@dataclass(frozen=True)
class _Ranking:
    """The images of one class and those of the rest, each sorted by the class's score, lowest first."""

    positives: NDArray[np.intp]
    """[P] image numbers."""
    negatives: NDArray[np.intp]
    """[N] image numbers."""
    below: NDArray[np.intp]
    """[P] negatives that score less than each positive."""
    upto: NDArray[np.intp]
    """[P] negatives that score no more than each positive."""
    first: NDArray[np.intp]
    """[P] positives that score less than each positive."""

    def auroc(self, weights: Weights) -> Float:
        """[B] share of the pairs of a positive and a negative that are in order; a tie is half a pair (midranks)."""
        positives = weights[:, self.positives].astype(np.float64)
        negatives = _running(weights[:, self.negatives])
        outranked = negatives[:, self.below].astype(np.float64) + negatives[:, self.upto]
        return _share((positives * outranked).sum(axis=1) / 2, positives.sum(axis=1) * negatives[:, -1])

    def average_precision(self, weights: Weights) -> Float:
        """[B] mean over the positives of the precision at their score (tied images enter together)."""
        positives = weights[:, self.positives].astype(np.float64)
        negatives, before = _running(weights[:, self.negatives]), _running(positives)
        right = before[:, -1:] - before[:, self.first]
        wrong = negatives[:, -1:] - negatives[:, self.below]
        precision = right / np.maximum(right + wrong, 1)  # 0 / 0 only where the positive does not count
        return _share((positives * precision).sum(axis=1), before[:, -1])


def _rankings(scores: Scores, labels: Labels) -> list[_Ranking]:
    """One a class. Class after class, as one class's columns stay in the processor's cache: 10,000 x 345 in 0.3 s."""
    if labels.ndim == 1:
        scores = _log_odds(scores)
    columns = np.ascontiguousarray(scores.T)
    return [
        _rank(column, labels == number if labels.ndim == 1 else labels[:, number] > 0)
        for number, column in enumerate(columns)
    ]


def _rank(column: Scores, positive: NDArray[np.bool_]) -> _Ranking:
    def ascending(images: NDArray[np.intp]) -> NDArray[np.intp]:
        return images[np.argsort(column[images])]

    positives, negatives = ascending(np.flatnonzero(positive)), ascending(np.flatnonzero(~positive))
    own, rest = column[positives], column[negatives]
    return _Ranking(
        positives=positives,
        negatives=negatives,
        below=np.searchsorted(rest, own, side="left"),
        upto=np.searchsorted(rest, own, side="right"),
        first=np.searchsorted(own, own, side="left"),
    )


def _log_odds(scores: Scores) -> Float:
    """log(p / (1 - p)) of the softmax probabilities p of scores [n, C], in fp64.

    A class against the rest compares images, and logits of different images are not comparable: adding a constant to
    all logits of one image changes none of its probabilities, but would change its rank. The log-odds order images
    as the probability does, without its saturation: p is 1.0 for every image whose margin is above 37 (17 in fp32),
    which a probe's logits exceed, and would tie them.
    """
    rows, top = np.arange(len(scores)), scores.argmax(axis=1)
    logits = scores.astype(np.float64)
    highest = logits[rows, top]
    rest = logits.copy()
    rest[rows, top] = -np.inf
    second = rest.max(axis=1)
    second[np.isneginf(second)] = 0.0  # one class has all the votes
    rest = np.exp(rest - second[:, None])
    # Summed in order of size, so that rows of the same logits in another order tie exactly.
    tail = np.sort(rest, axis=1).sum(axis=1)
    # The rest of any other class has the top one in it: relative to that, 1 and less than C more.
    relative = np.exp(second - highest)
    others = np.log1p(np.maximum(tail[:, None] - rest, 0.0) * relative[:, None])
    odds: Float = logits - highest[:, None] - others
    with np.errstate(divide="ignore"):
        odds[rows, top] = highest - second - np.log(tail)
    return odds


def _balanced_accuracy(scores: Scores, labels: Labels) -> Weighted:
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))  # one a class present
    right = hits(scores, labels)[order].astype(np.float32)

    def recall(weights: Weights) -> Float:
        sorted_ = weights[:, order]
        found, of_class = (np.add.reduceat(each, starts, axis=1) for each in (sorted_ * right, sorted_))
        return _macro(_share(found, of_class))

    return recall


def _running(weights: NDArray[np.floating]) -> NDArray[np.floating]:
    """[B, m] -> [B, m + 1]: the sum of the first 0, 1, ..., m."""
    sums = np.zeros((len(weights), weights.shape[1] + 1), dtype=weights.dtype)
    np.cumsum(weights, axis=1, out=sums[:, 1:])
    return sums


def _share(part: NDArray[np.number], whole: NDArray[np.number]) -> Float:
    """part / whole in fp64, NaN where the whole is 0."""
    out: Float = np.full(whole.shape, np.nan)
    np.divide(part, whole, out=out, where=whole > 0, dtype=np.float64)
    return out


def _macro(values: Float) -> Float:
    """[B, C] -> [B]: the mean over the classes where it is defined."""
    defined = ~np.isnan(values)
    return _share(np.where(defined, values, 0.0).sum(axis=1), defined.sum(axis=1))


def _defined(metrics: tuple[str, ...] | list[str], scores: Scores, labels: Labels) -> dict[str, float]:
    once = np.ones((1, len(labels)), dtype=np.float32)
    found = {metric: float(weighted(metric, scores, labels)(once)[0]) for metric in metrics}
    return {metric: value for metric, value in found.items() if not np.isnan(value)}


def _checked(scores: Scores, labels: Labels) -> tuple[Scores, Labels]:
    """Scores in fp32 or wider, and labels as integers or as they are."""
    n, classes = scores.shape
    if not n:
        raise HptError("there are no images to score")
    wrong = np.isnan(scores).any(axis=1)
    if labels.ndim == 1:
        wrong |= ~np.isfinite(scores.max(axis=1))  # a softmax needs a highest score
    if wrong.any():
        raise HptError(
            f"the scores of {np.count_nonzero(wrong)} of {n} images are NaN or infinite, so nothing can be measured",
            "the weights hold NaN, or a learning rate was too high: look at the loss of the run that made them",
        )
    if labels.ndim == 1:
        if labels.min() < 0 or labels.max() >= classes:
            odd = labels.min() if labels.min() < 0 else labels.max()
            raise HptError(f"label {odd} is none of the {classes} classes, which are 0 to {classes - 1}")
        labels = labels.astype(np.int64)
    elif not np.isin(labels, (0, 1)).all():
        raise HptError("a multi-label set has a label other than 0 and 1", "count uncertain labels as one of them")
    return (scores.astype(np.float32) if scores.dtype == np.float16 else scores), labels
