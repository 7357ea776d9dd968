"""Train, val and test, where a dataset does not bring all three."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from hpt.data.listing import SPLITS, Labels, Split, unlabelled

log = logging.getLogger("hpt.data")

SHARES: dict[Split, Fraction] = {"test": Fraction(2, 10), "val": Fraction(1, 10)}
"""The shares of all images, so that a dataset without splits is cut 70/10/20."""
MOST_OF_TRAIN = 2
"""A cut split takes at most this many times its share of train, where a given test set is most of the
images."""

Indices = npt.NDArray[np.int64]


def complete(
    dataset: str,
    names: Sequence[str],
    labels: Labels,
    splits: Sequence[Split],
    seed: int,
    *,
    groups: Sequence[str] | None = None,
    shares: Mapping[Split, Fraction] = SHARES,
    annotated: bool = False,
    tell: bool = True,
) -> dict[str, Indices]:
    """Sorted indices of train, val and test; what the dataset lacks is cut from a labelled train, class by
    class, and whole groups at a time where images belong together.

    A class gives to every split that is cut, and keeps an image in train, as far as its images go: three
    suffice for 70/10/20, though of sets of labels some may be spent on other classes. The cut ranks images by
    a hash of seed and name, so that it is the same in any order, on any machine, and new images do not move
    the old ones' ranks. `annotated` images are cut though they have no labels.
    """
    given = np.array(splits)
    train = np.flatnonzero(given == "train")
    missing = [split for split in SHARES if not (given == split).any()]
    if annotated and not _labelled(labels[train]):
        labels = np.full(len(names), -1, dtype=np.int64)
    if missing and len(train) and (annotated or _labelled(labels[train])):
        scale = Fraction(len(names), len(train))
        wanted = {split: min(shares[split] * scale, MOST_OF_TRAIN * shares[split]) for split in missing}
        given = _cut(names, labels, given, train, wanted, seed, groups)
        cut = ", ".join(f"{split} ({float(shares[split]):.0%})" for split in reversed(missing))
        whole = "per class" if groups is None else "per class and group"
        say = log.info if tell else log.debug
        say("%s comes without %s: cut from train, %s, by data.split_seed=%d", dataset, cut, whole, seed)
    return {split: np.flatnonzero(given == split) for split in SPLITS}


def fingerprint(names: Sequence[str], splits: dict[str, Indices]) -> str:
    """A hexadecimal digest of the names in each split."""
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
    shares: Mapping[Split, Fraction],
    seed: int,
    groups: Sequence[str] | None,
) -> npt.NDArray[np.str_]:
    cut = given.copy()
    if groups is not None:
        cut[train] = _cut_groups(labels[train], [groups[i] for i in train], shares, seed)
        return cut
    ranked = np.array(sorted(train, key=lambda i: _rank(names[i], seed)))
    if labels.ndim == 2:
        has = (labels[ranked] > 0).astype(np.int64)
        cut[ranked] = _cut_sets(has, np.ones(len(has), dtype=np.int64), shares)
        return cut
    for stratum in np.unique(labels[train]):
        members = ranked[labels[ranked] == stratum]
        for split, count in _counts(len(members), shares).items():
            cut[members[:count]] = split
            members = members[count:]
    return cut


def _counts(size: int, shares: Mapping[Split, Fraction]) -> dict[Split, int]:
    """How many of `size` images go to each split; what remains, and one at least, is train's."""
    left, counts = size, {}
    for split, share in shares.items():
        counts[split] = min(max(1, round(share * size)), left - 1) if left else 0
        left -= counts[split]
    return {**counts, "train": left}


def _cut_groups(
    labels: Labels, groups: Sequence[str], shares: Mapping[Split, Fraction], seed: int
) -> npt.NDArray[np.str_]:
    """The split of each image, the same for all of a group, with the classes as even as whole groups allow."""
    names, which = np.unique(np.array(groups), return_inverse=True)
    ranked = np.array(sorted(range(len(names)), key=lambda i: _rank(str(names[i]), seed)))
    has = labels > 0 if labels.ndim == 2 else labels[:, None] == np.unique(labels)
    counts = np.zeros((len(names), has.shape[1]), dtype=np.int64)
    np.add.at(counts, which, has)
    places = np.empty(len(names), dtype="<U5")
    places[ranked] = _cut_sets(counts[ranked], np.bincount(which)[ranked], shares)
    return places[which]


def _cut_sets(
    has: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], shares: Mapping[Split, Fraction]
) -> npt.NDArray[np.str_]:
    """The split of each of m ranked images, or groups of `sizes` images, that have classes so many times [m, C], by
    iterative stratification.

    The class with the fewest images still to place goes first, since the commoner ones can make up for what it
    spends of them; each of its images goes where most of that class are wanted, then most images (Sechidis et al.
    2011, algorithm 1). Images without a class fill up.
    """
    places = [*shares, "train"]
    total = int(sizes.sum())
    room = [_counts(total, shares)[place] for place in places]
    left = has.sum(axis=0)
    wanted = [[_counts(size, shares)[place] for place in places] for size in left.tolist()]
    rows, columns = has.nonzero()
    ends = np.searchsorted(rows, np.arange(len(has) + 1)).tolist()
    classes, times = columns.tolist(), has[rows, columns].tolist()
    weights = sizes.tolist()
    chosen = np.full(len(has), -1)

    while left.any():
        rarest = int(np.where(left > 0, left, total + 1).argmin())
        some = np.flatnonzero((has[:, rarest] > 0) & (chosen < 0))
        for image in some.tolist():
            place = max(range(len(places)), key=lambda p: (wanted[rarest][p], room[p]))
            chosen[image] = place
            room[place] -= weights[image]
            for at in range(ends[image], ends[image + 1]):
                wanted[classes[at]][place] -= times[at]
        left -= has[some].sum(axis=0)
    for image in np.flatnonzero(chosen < 0).tolist():
        place = max(range(len(places)), key=room.__getitem__)
        chosen[image] = place
        room[place] -= weights[image]
    return np.array(places).take(chosen)


def _rank(name: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}\0{name}".encode("utf-8", "surrogateescape"), digest_size=16).digest()


def _labelled(labels: Labels) -> bool:
    return len(labels) > 0 and not unlabelled(labels).any()
