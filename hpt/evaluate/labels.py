"""Which training labels an evaluation may use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hpt.config import PROTOCOL_LABELS, EvaluateConfig, parse_labels
from hpt.errors import DataError


def choose(
    labels: NDArray[np.int64] | NDArray[np.float32], classes: int, config: EvaluateConfig, names: Sequence[str] = ()
) -> NDArray[np.int64]:
    """Sorted positions in `labels` ([n], or [n, C] of 0 and 1) that may be used: drawn by seed, not balanced, each
    class that has an image at least once.

    `5-per-class` draws five images of each class, or more where images have several. `names` are the classes', for
    messages.

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
        return _per_class(labels[shuffled], shuffled, classes, int(value), names)
    count = round(len(labels) * value) if kind == "share" else int(value)
    if count > len(labels):
        raise DataError(f"--labels {wanted}: there are {len(labels)} labelled training images", "use --labels all")
    sets = labels.ndim == 2
    first = _cover(labels[shuffled] > 0, 1) if sets else np.unique(labels[shuffled], return_index=True)[1]
    if count < len(first):
        needed = "that it takes to have each class" if sets else "classes"
        raise DataError(
            f"--labels {wanted} is {count} images, fewer than the {len(first)} {needed}", f"use {len(first)} or more"
        )
    rest = np.delete(shuffled, first)
    return np.sort(np.concatenate([shuffled[first], rest[: count - len(first)]]))


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
    """Rows of `has` [n, C] that hold each class `count` times, or as often as it occurs.

    The rarest class first, and of each the first rows: the commoner ones then need fewer rows of their own, or none.
    """
    chosen = np.zeros(len(has), dtype=np.bool_)
    for each in np.argsort(has.sum(axis=0), kind="stable"):
        missing = max(0, count - np.count_nonzero(has[chosen, each]))
        chosen[np.flatnonzero(has[:, each] & ~chosen)[:missing]] = True
    return np.flatnonzero(chosen)
