"""Which training labels an evaluation may use, and whether a dataset has those that it needs."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpt.config import PROTOCOL_LABELS, EvaluateConfig, parse_labels
from hpt.data.dataset import Dataset
from hpt.data.listing import unlabelled
from hpt.errors import DataError
from hpt.evaluate.objective import check_metric
from hpt.files import write_text

log = logging.getLogger("hpt.evaluate")

NAMED = 5
"""Classes that a message names."""


def choose(
    labels: NDArray[np.int64] | NDArray[np.float32], classes: int, config: EvaluateConfig, names: Sequence[str] = ()
) -> NDArray[np.int64]:
    """The sorted positions in `labels` ([n], or [n, C] of 0 and 1) that may be used.

    They are drawn by seed and not balanced, but hold every class that has an image at least once. `5-per-class` draws
    five images of each class, or more where images have several classes.

    Args:
        names: of the classes, for messages.

    Raises:
        DataError: the budget exceeds the labels that there are, or is too small to hold every class.
    """
    everything = np.arange(len(labels))
    wanted = config.labels
    if wanted is None:
        use_all = config.kind != "finetune" or len(labels) <= PROTOCOL_LABELS
        wanted = "all" if use_all else str(PROTOCOL_LABELS)
    kind, value = parse_labels(wanted)
    if kind == "all":
        return everything
    if kind == "per-class":
        shuffled = _shuffled(len(labels), config.seed)
        return _per_class(labels[shuffled], shuffled, classes, int(value), names)
    count = round(len(labels) * value) if kind == "share" else int(value)
    if count > len(labels):
        raise DataError(f"--labels {wanted}: there are {len(labels)} labelled training images", "use --labels all")
    order, first = in_order(labels, config.seed)
    if count < first:
        needed = "that it takes to have each class" if labels.ndim == 2 else "classes"
        raise DataError(f"--labels {wanted} is {count} images, fewer than the {first} {needed}", f"use {first} or more")
    return np.sort(order[:count])


def in_order(labels: NDArray[np.int64] | NDArray[np.float32], seed: int) -> tuple[NDArray[np.int64], int]:
    """The positions in `labels` in the order in which a number of them is drawn by seed, so that fewer labels are some
    of more; and how many of the first it takes to have every class that has an image."""
    shuffled = _shuffled(len(labels), seed)
    sets = labels.ndim == 2
    first = _cover(labels[shuffled] > 0, 1) if sets else np.unique(labels[shuffled], return_index=True)[1]
    return np.concatenate([shuffled[first], np.delete(shuffled, first)]), len(first)


def _shuffled(count: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, 0x1ABE15]).permutation(np.arange(count))


def _per_class(
    labels: NDArray[np.int64] | NDArray[np.float32],
    positions: NDArray[np.int64],
    classes: int,
    count: int,
    names: Sequence[str],
) -> NDArray[np.int64]:
    have = np.bincount(labels, minlength=classes) if labels.ndim == 1 else (labels > 0).sum(axis=0)
    if have.min() < count:
        rarest, most = int(have.argmin()), int(have.min())
        which = f"'{names[rarest]}'" if names else f"number {rarest}"
        fewer = f"use {most}-per-class or fewer" if most else "use a number of images, or all"
        raise DataError(f"--labels {count}-per-class: class {which} has {most} training images", fewer)
    if labels.ndim == 2:
        return np.sort(positions[_cover(labels > 0, count)])
    return np.sort(np.concatenate([positions[labels == c][:count] for c in range(classes)]))


def _cover(has: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
    """The rows of `has` [n, C] that hold each class `count` times, or as often as it occurs.

    The rarest class comes first, and of each class the first rows: commoner classes then need fewer rows of their own,
    or none.
    """
    chosen = np.zeros(len(has), dtype=np.bool_)
    for each in np.argsort(has.sum(axis=0), kind="stable"):
        missing = max(0, count - np.count_nonzero(has[chosen, each]))
        chosen[np.flatnonzero(has[:, each] & ~chosen)[:missing]] = True
    return np.flatnonzero(chosen)


def check_labels(dataset: Dataset, config: EvaluateConfig) -> None:
    """Check that the dataset has classes to distinguish, and training images of each.

    Raises:
        DataError: it has no labels, one class only, or classes without training images that `allow_absent_classes` does
            not allow; of a multi-label set these are warned about.
    """
    if not dataset.classes:
        raise DataError(
            f"dataset '{dataset.name}' has no labels, so nothing can be evaluated on it",
            "use class folders, or a list with labels",
        )
    if dataset.task == "single-label" and len(dataset.classes) < 2:
        raise DataError(
            f"dataset '{dataset.name}' has one class only ('{dataset.classes[0]}')",
            "an evaluation needs two or more",
        )
    absent = [name for name, count in zip(dataset.classes, dataset.per_class("train"), strict=True) if not count]
    if not absent:
        return
    said = (
        f"{len(absent)} of {len(dataset.classes)} classes of '{dataset.name}' have no training images:"
        f" {enumerated(absent)}"
    )
    if dataset.task == "single-label" and not config.allow_absent_classes:
        raise DataError(
            said, "correct the folders' names, or count their images as errors by --set allow_absent_classes=true"
        )
    log.warning("%s", said)


def unmeasurable(
    dataset: Dataset, train: NDArray[np.int64], val: NDArray[np.int64], metric: str | None = None
) -> str | None:
    """Why no figure on val can be measured of these images, or none of the `metric`; None where it can."""
    if not dataset.classes:
        return f"{dataset.name} has no labels"
    for name, rows in (("train", train), ("val", val)):
        if not len(rows):
            return f"{dataset.name} has no {name} images"
        if unlabelled(dataset.labels[rows]).any():
            return f"the {name} images of {dataset.name} have no labels"
    if dataset.task == "single-label" and len(dataset.classes) < 2:
        return f"{dataset.name} has one class only"
    try:
        check_metric(metric or dataset.metric, dataset.labels[val], dataset.classes, f"{dataset.name}'s val split")
    except DataError as error:
        return error.what
    return None


def write_labels(folder: Path, config: EvaluateConfig, names: Sequence[str], available: int) -> dict[str, str]:
    """Facts about the labels used, which are those of the training images `names` of all that are `available`.

    Where they are not all, `artifacts/labels.txt` lists these images.
    """
    text = "".join(f"{name}\n" for name in names)
    if len(names) < available:
        (folder / "artifacts").mkdir(exist_ok=True)
        write_text(folder / "artifacts" / "labels.txt", text)
    return {
        "labels": config.labels or (str(len(names)) if len(names) < available else "all"),
        "labels_used": str(len(names)),
        "labels_fingerprint": hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32],
    }


def enumerated(classes: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(classes[:NAMED]) + (f" and {len(classes) - NAMED} more" if len(classes) > NAMED else "")
