"""Which training labels an evaluation may use."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hpt.config import PROTOCOL_LABELS, EvaluateConfig, parse_labels
from hpt.errors import DataError


def choose(labels: NDArray[np.int64], classes: int, config: EvaluateConfig) -> NDArray[np.int64]:
    """Sorted positions in `labels` [n] that may be used: drawn by seed, not balanced, each class at least once.

    Raises:
        DataError: more asked for than there are, or fewer than classes.
    """
    everything = np.arange(len(labels))
    wanted = config.labels
    if wanted is None:
        use_all = config.kind != "finetune" or len(labels) <= PROTOCOL_LABELS
        wanted = "all" if use_all else str(PROTOCOL_LABELS)
    kind, value = parse_labels(wanted)
    if kind == "all":
        return everything
    shuffled = np.random.default_rng([config.seed, 0x1ABE15]).permutation(everything)
    if kind == "per-class":
        return _per_class(labels[shuffled], shuffled, classes, int(value))
    count = round(len(labels) * value) if kind == "share" else int(value)
    if count > len(labels):
        raise DataError(f"--labels {wanted}: there are {len(labels)} labelled training images", "use --labels all")
    first = np.unique(labels[shuffled], return_index=True)[1]
    if count < len(first):
        raise DataError(
            f"--labels {wanted} is {count} images, fewer than the {len(first)} classes",
            f"use {len(first)} or more",
        )
    rest = np.delete(shuffled, first)
    return np.sort(np.concatenate([shuffled[first], rest[: count - len(first)]]))


def _per_class(labels: NDArray[np.int64], positions: NDArray[np.int64], classes: int, count: int) -> NDArray[np.int64]:
    have = np.bincount(labels, minlength=classes)
    if have.min() < count:
        raise DataError(
            f"--labels {count}-per-class: class number {have.argmin()} has {have.min()} training images",
            f"use {have.min()}-per-class or fewer",
        )
    return np.sort(np.concatenate([positions[labels == c][:count] for c in range(classes)]))
