"""Train, val and test, where a dataset does not bring all three."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from hpt.data.listing import SPLITS, Labels, Split

log = logging.getLogger("hpt.data")

SHARES: dict[Split, Fraction] = {"test": Fraction(2, 10), "val": Fraction(1, 10)}
"""Of all images, so that a dataset without splits is cut 70/10/20."""
MOST_OF_TRAIN = 2
"""A cut split takes at most this many times its share of train, where a given test set is most of the
images."""

Indices = npt.NDArray[np.int64]


def complete(
    dataset: str, names: Sequence[str], labels: Labels, splits: Sequence[Split], seed: int
) -> dict[str, Indices]:
    """Sorted indices of train, val and test; what the dataset lacks is cut from a labelled train, class by
    class.

    A class gives to every split that is cut, and keeps an image in train, as far as its images go: three
    suffice for 70/10/20. The cut ranks images by a hash of seed and name, so that it is the same in any
    order, on any machine, and new images do not move the old ones' ranks.
    """
    given = np.array(splits)
    train = np.flatnonzero(given == "train")
    missing = [split for split in SHARES if not (given == split).any()]
    if missing and _labelled(labels[train]):
        given = _cut(names, labels, given, train, missing, seed)
        shares = ", ".join(f"{split} ({float(SHARES[split]):.0%})" for split in reversed(missing))
        log.info("%s comes without %s: cut from train, per class, by data.split_seed=%d", dataset, shares, seed)
    return {split: np.flatnonzero(given == split) for split in SPLITS}


def fingerprint(names: Sequence[str], splits: dict[str, Indices]) -> str:
    """Hex over the names in each split."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for name in sorted(names[i] for i in splits[split]):
            digest.update(f"{split}\0{name}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


def _cut(
    names: Sequence[str],
    labels: Labels,
    given: npt.NDArray[np.str_],
    train: Indices,
    missing: Sequence[Split],
    seed: int,
) -> npt.NDArray[np.str_]:
    cut = given.copy()
    # Sets of labels have no classes to draw from: one stratum.
    strata = labels[train] if labels.ndim == 1 else np.zeros(len(train), dtype=np.int64)
    for stratum in np.unique(strata):
        members = sorted(train[strata == stratum], key=lambda i: _rank(names[i], seed))
        size = len(members)
        for split in missing:
            share = min(SHARES[split] * len(names) / len(train), MOST_OF_TRAIN * SHARES[split])
            count = min(max(1, round(share * size)), len(members) - 1)
            cut[members[:count]] = split
            members = members[count:]
    return cut


def _rank(name: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}\0{name}".encode("utf-8", "surrogateescape"), digest_size=16).digest()


def _labelled(labels: Labels) -> bool:
    return len(labels) > 0 and (labels.ndim == 2 or bool((labels >= 0).all()))
