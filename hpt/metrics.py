"""Classification metrics, all between 0 and 1.

Scores [n, C] are logits. Those of a single-label set go through a softmax, so votes and probabilities are passed as
their logarithm (-inf for a vote of 0). Labels are class numbers [n], or 0 and 1 [n, C] of a multi-label set. A class
without the label values that a metric needs is left out of the mean and never counted as 0; `left_out` names these.

Each metric is written once, as a function of how often each image counts (`weighted`), so the bootstrap of
`hpt.statistics` recomputes exactly what an evaluation reports.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpt.dense import figures as dense
from hpt.errors import ConfigError, HptError, did_you_mean

Scores = NDArray[np.floating]
Labels = NDArray[np.integer | np.floating]
Float = NDArray[np.float64]
Weights = NDArray[np.float32]
"""[B, n] how often each image counts in each of B resamples: whole numbers, whose sums are exact in fp32 up to 2^24 and
take half the time of fp64."""
Weighted = Callable[[Weights], Float]
"""Weights [B, n] -> the metric [B], NaN where it is undefined."""

SINGLE_LABEL = ("top1", "top5", "balanced_accuracy", "auroc")
MULTI_LABEL = ("auroc", "map")
NAMES = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auroc": "mean AUROC",
    "map": "mean average precision",
    "ap": "average precision",
    "ap50": "average precision at an IoU of 0.5",
    "ap75": "average precision at an IoU of 0.75",
    "miou": "mean IoU",
    "pixel_accuracy": "pixel accuracy",
}
"""What the metrics are called in a sentence."""


@dataclass(frozen=True)
class PerClass:
    """The metrics of each class: every field is [C], and NaN where it is undefined."""

    support: NDArray[np.int64]
    """Number of images of the class."""
    recall: Float
    """Share of the class's images that were predicted as the class; undefined without such images."""
    precision: Float
    """Share of the images predicted as the class that belong to it; undefined without such predictions."""
    f1: Float
    """Harmonic mean of recall and precision, 2 TP / (2 TP + FP + FN); undefined where all three counts are 0."""
    auroc: Float
    """Area under the ROC curve of the class against the rest; undefined where all images belong to it, or none does."""
    average_precision: Float
    """Average precision of the class against the rest; undefined without images of the class."""


def single_label(scores: Scores, labels: Labels) -> dict[str, float]:
    """The metrics of scores [n, C] and class numbers [n].

    `top1`; `top5` with more than five classes; `balanced_accuracy`, the recall averaged over the classes present;
    `auroc`, the area under the ROC curve of each class's softmax probability against the rest, averaged over the
    classes present, which for two classes is the usual AUROC. It is missing where all images belong to one class.

    Raises:
        HptError: there are no images, a score is NaN or infinite, or a label is not a class number.
    """
    return _defined([m for m in SINGLE_LABEL if m != "top5" or scores.shape[1] > 5], scores, labels)


def multi_label(scores: Scores, labels: Labels) -> dict[str, float]:
    """The metrics of scores [n, C] and labels [n, C] of 0 and 1, averaged over the classes.

    `auroc`, over the classes that have both label values; `map`, the mean average precision (without interpolation),
    over the classes that have a positive. A metric that no class defines is missing.

    Raises:
        HptError: there are no images, a score is NaN, or a label is neither 0 nor 1.
    """
    return _defined(MULTI_LABEL, scores, labels)


def left_out(labels: Labels, classes: int) -> dict[str, list[int]]:
    """The class numbers that each class average leaves out because labels [n] or [n, classes] do not define it there.

    The keys are `balanced_accuracy` and `auroc` for a single-label set, `map` and `auroc` for a multi-label set.
    """
    positives = np.bincount(labels.astype(np.int64), minlength=classes) if labels.ndim == 1 else labels.sum(axis=0)
    absent = np.flatnonzero(positives == 0).tolist()
    one_sided = np.flatnonzero((positives == 0) | (positives == len(labels))).tolist()
    return {"balanced_accuracy" if labels.ndim == 1 else "map": absent, "auroc": one_sided}


def in_words(metric: str) -> str:
    """What a metric is called in a sentence: `top1` -> `top-1 accuracy`."""
    return NAMES.get(metric, metric.replace("_", " "))


def hits(scores: Scores, labels: Labels, k: int = 1) -> NDArray[np.bool_]:
    """[n] whether the label [n] is among the k highest scores [n, C]; of tied classes the lower number ranks first."""
    own = scores[np.arange(len(labels)), labels][:, None]
    ahead = np.arange(scores.shape[1]) < labels[:, None]
    rank: NDArray[np.intp] = np.count_nonzero((scores > own) | ((scores == own) & ahead), axis=1)
    return rank < k


def confusion(scores: Scores, labels: Labels) -> NDArray[np.int64]:
    """[C, C] number of images by class (row) and predicted class (column), from scores [n, C] and class numbers [n].

    Raises:
        HptError: as for `single_label`.
    """
    scores, labels = _checked(scores, labels)
    classes = scores.shape[1]
    cells = labels * classes + scores.argmax(axis=1)
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def per_class(scores: Scores, labels: Labels) -> PerClass:
    """The metrics of each class, from scores [n, C] and labels [n] or [n, C].

    The highest score is the prediction; in a multi-label set every score above 0 is (a probability above one half).

    Raises:
        HptError: as for `single_label` and `multi_label`.
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
    """The metric of these images as a function of how often each of them counts.

    All sorting happens here, once: a call then costs about 5 ns for each resample, image and, for AUROC and mAP, class.
    It takes a few times the memory of the weights.

    Raises:
        ConfigError: the metric is not defined for labels of this kind, [n] or [n, C].
        HptError: as for `single_label` and `multi_label`.
    """
    if metric in dense.DETECTION + dense.SEGMENTATION:
        of_images: Weighted = dense.weighted(metric, np.asarray(scores, dtype=np.float32), labels)
        return of_images
    known = SINGLE_LABEL if labels.ndim == 1 else MULTI_LABEL
    if metric not in known:
        kind = "single-label" if labels.ndim == 1 else "multi-label"
        raise ConfigError(
            f"'{metric}' is not a {kind} metric{did_you_mean(metric, known)}", f"choose one of {', '.join(known)}"
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
    """[P] number of negatives that score less than each positive."""
    upto: NDArray[np.intp]
    """[P] number of negatives that score at most as much as each positive."""
    first: NDArray[np.intp]
    """[P] number of positives that score less than each positive."""

    def auroc(self, weights: Weights) -> Float:
        """[B] share of the pairs of a positive and a negative that are in order; a tie counts half (midranks)."""
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
    """The ranking of each class. One class at a time stays in the processor's cache: 10,000 x 345 take 0.3 s."""
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

    Ranking a class against the rest compares images, and the logits of different images are not comparable: adding a
    constant to all logits of one image changes none of its probabilities but would change its rank. The log-odds order
    images as the probability does, without its saturation: p is 1.0 for every image with a margin above 37 (17 in
    fp32), which a probe's logits exceed, so such images would tie.
    """
    rows, top = np.arange(len(scores)), scores.argmax(axis=1)
    logits = scores.astype(np.float64)
    highest = logits[rows, top]
    rest = logits.copy()
    rest[rows, top] = -np.inf
    second = rest.max(axis=1)
    second[np.isneginf(second)] = 0.0  # one class has all the votes
    rest = np.exp(rest - second[:, None])
    # Summed in ascending order, so that rows with the same logits in another order tie exactly.
    tail = np.sort(rest, axis=1).sum(axis=1)
    # The rest of any other class contains the top class: relative to it, the sum is 1 plus less than C.
    relative = np.exp(second - highest)
    others = np.log1p(np.maximum(tail[:, None] - rest, 0.0) * relative[:, None])
    odds: Float = logits - highest[:, None] - others
    with np.errstate(divide="ignore"):
        odds[rows, top] = highest - second - np.log(tail)
    return odds


def _balanced_accuracy(scores: Scores, labels: Labels) -> Weighted:
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))  # one for each class present
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
    """[B, C] -> [B]: the mean over the classes that define it."""
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
            raise HptError(f"label {odd} is not one of the {classes} classes, which are 0 to {classes - 1}")
        labels = labels.astype(np.int64)
    elif not np.isin(labels, (0, 1)).all():
        raise HptError("a multi-label set has a label other than 0 and 1", "replace uncertain labels by one of them")
    return (scores.astype(np.float32) if scores.dtype == np.float16 else scores), labels
