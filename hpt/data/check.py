"""The leak guard: what is wrong with a dataset's images, before hours are spent on them.

Near duplicates are found by thumbnails, not by a hash of bits: the correlation of 32 x 32 grey pixels is what hashes
such as dHash approximate, and on drawings and x-rays, which are mostly flat, those approximate it badly. Brightness,
contrast, size and recompression do not hide a copy; mirroring and cropping do.

One pass reads each image once and writes nothing. On two cores photographs of 500 x 375 were read at 1,400 a second and
100,000 thumbnails compared in 50 s, which grows with the square of their number; they take 0.2 GiB.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from hpt.callbacks import Progress
from hpt.config import DataConfig
from hpt.data import decode
from hpt.data.dataset import split, with_format
from hpt.data.left_out import levels_of, notes_of_losses, tell
from hpt.data.listing import SPLITS, ImageSource, Labels, Listing, unlabelled
from hpt.data.names import list_images, name_of
from hpt.data.pixel_format import PixelFormat, eight_bits
from hpt.data.reading import reading
from hpt.data.row import CatalogRow, Found
from hpt.data.splits import Indices
from hpt.data.thumbnails import BLOCK, FLAT, normalised
from hpt.errors import DataError

SIDE = 32
"""The side of a thumbnail in pixels."""
NEAR = 0.99
"""The correlation of two thumbnails from which on they count as the same picture."""
COARSE_SIDE, COARSE = 16, 0.98
"""Pairs of thumbnails reduced to this side are not compared any closer below this correlation."""
MOST_PAIRS = 5_000_000
"""The number of duplicates above which the images are refused."""
SMALL, LONG = 16, 5.0
"""An image is odd whose shorter side has fewer pixels, or whose longer side is this many times the shorter."""


@dataclass(frozen=True)
class Duplicate:
    """Two images that show the same."""

    first: int
    """The number of the image whose split comes first in train, val, test."""
    second: int
    """The number of the other image."""
    likeness: float
    """The correlation of the thumbnails; 1 where the files are equal, byte for byte."""
    exact: bool
    """Whether the files are equal, byte for byte."""


@dataclass(frozen=True)
class CheckResult:
    """What `check` found in a dataset; images are numbered as in `names`."""

    source: ImageSource
    """What reads the images."""
    names: tuple[str, ...]
    """The names of the images that can be read and are not left out."""
    splits: Mapping[str, Indices]
    """The images of each split."""
    where: tuple[str, ...]
    """The split of each image."""
    classes: tuple[str, ...]
    """The names of the classes."""
    unreadable: tuple[tuple[str, str], ...]
    """The name of each image that cannot be read, and the reason."""
    leaks: tuple[Duplicate, ...]
    """The duplicates across splits, the most alike first; one for each image of the earlier split."""
    repeats: tuple[Duplicate, ...]
    """The duplicates within a split; one for each image that an earlier one shows already."""
    contradictions: tuple[Duplicate, ...]
    """The duplicates, within a split and across, that are equal files with different labels."""
    absent: Mapping[str, tuple[str, ...]]
    """The classes without an image, by labelled split."""
    sizes: npt.NDArray[np.int64]
    """[N, 2] the height and width of the files."""
    notes: tuple[str, ...]
    """How the dataset was read where that is not plain, and what lies there and is not used."""
    modes: Mapping[str, int]
    """The number of images of each of Pillow's modes, such as `RGB` or `L`, or type of numbers, such as `uint16`."""
    form: PixelFormat
    """How the files become pixels."""
    levels: tuple[int, int] | None
    """The grey levels of the files of more than 8 bits, and of their pixels, as medians; None where there are none."""
    odd: tuple[tuple[str, str], ...]
    """The name of each image that is odd, and what is odd about its size or content."""
    miscounted: Mapping[str, tuple[int, int]]
    """The numbers of images found and published, by split, where they differ; and those of `classes`."""

    def to_leave_out(self) -> dict[str, str]:
        """The images to leave out so that no test image is in val or train, and no val image in train; with the
        reason."""
        reasons = {}
        for pair in self.leaks:
            kind = "a copy" if pair.exact else f"a near copy ({pair.likeness:.4f})"
            reasons[self.names[pair.first]] = f"{kind} of {self.where[pair.second]} image {self.names[pair.second]}"
        return reasons


def check(
    found: Found,
    config: DataConfig,
    *,
    left_out: Collection[str] = (),
    near: float = NEAR,
    progress: Progress | None = None,
) -> CheckResult:
    """Read every image of a dataset and compare each with all others.

    Args:
        left_out: the names in its quarantine list, which runs do not see.
        near: the correlation from which on two images count as near duplicates; 1 finds exact ones only.

    Raises:
        DataError: as `dataset.load`; or nearly all images are alike.
    """
    listing = list_images(found, progress, config)
    form, seen = with_format(found, listing, config, progress, lambda form: _looks(listing, form, progress))
    unreadable = tuple((listing.names[i], look) for i, look in enumerate(seen) if isinstance(look, str))
    readable = np.array([i for i, look in enumerate(seen) if isinstance(look, _Look)], dtype=np.int64)
    where = np.full(len(seen), "", dtype="<U5")
    for name, indices in split(found, listing, readable, config.split_seed).items():
        where[readable[indices]] = name
    where[[listing.names[i] in left_out for i in range(len(seen))]] = ""
    rows = np.flatnonzero(where != "")
    looks = [look for i in rows.tolist() if isinstance(look := seen[i], _Look)]
    if not looks:
        raise DataError(f"none of the {len(seen):,} images can be read: {unreadable[0][1]}", "check the files")
    lost = np.array([(a.loss.pages, a.loss.levels, a.loss.kept) for a in looks], dtype=np.int64)
    losses = notes_of_losses(lost, form)
    tell(name_of(found), [note for note in losses if note.doubtful])
    where, labels, names = where[rows], listing.labels[rows], tuple(listing.names[i] for i in rows.tolist())
    splits: dict[str, Indices] = {name: np.flatnonzero(where == name) for name in SPLITS}
    thumbnails = np.stack([look.thumbnail for look in looks])
    pairs = _pairs(np.array([look.digest for look in looks]), thumbnails, where, near, progress)
    leaks = [pair for pair in pairs if where[pair.first] != where[pair.second]]
    repeats = [pair for pair in pairs if where[pair.first] == where[pair.second]]
    row = found if isinstance(found, CatalogRow) else None
    return CheckResult(
        source=listing.source,
        names=names,
        splits=splits,
        where=tuple(where.tolist()),
        classes=listing.classes,
        unreadable=unreadable,
        leaks=_once(leaks, key=lambda pair: pair.first),
        repeats=_once(repeats, key=lambda pair: pair.second),
        contradictions=tuple(p for p in pairs if p.exact and not _same(labels[p.first], labels[p.second])),
        absent=_absent(labels, listing.classes, splits),
        sizes=np.array([look.loss.size for look in looks], dtype=np.int64),
        notes=tuple(note.text for note in (*listing.notes, *losses)),
        form=form,
        levels=levels_of(lost),
        modes=Counter(look.loss.mode for look in looks),
        odd=tuple((name, why) for name, look in zip(names, looks, strict=True) if (why := _odd(look))),
        miscounted=_miscounted(row, splits, len(listing.classes)) if row else {},
    )


def _looks(listing: Listing, form: PixelFormat, progress: Progress | None) -> list[_Look | str]:
    with reading(listing, lambda data: _look(data, form), progress) as looked:
        return list(looked)


@dataclass(frozen=True)
class _Look:
    """What one image looks like."""

    digest: bytes
    loss: decode.Loss
    thumbnail: npt.NDArray[np.uint8]


def _look(data: bytes, form: PixelFormat) -> _Look:
    pixels, loss = decode.decode_counting(data, SIDE, form)
    pixels = eight_bits(pixels)
    if len(pixels) == 3:
        grey = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).convert("L")
    else:
        grey = Image.fromarray(np.rint(pixels.mean(axis=0)).astype(np.uint8))
    thumbnail = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX))
    return _Look(hashlib.blake2b(data, digest_size=16).digest(), loss, thumbnail)


def _pairs(
    digests: npt.NDArray[np.bytes_],
    thumbnails: npt.NDArray[np.uint8],
    where: npt.NDArray[np.str_],
    near: float,
    progress: Progress | None,
) -> list[Duplicate]:
    """Every two images that show the same."""
    order = np.array([SPLITS.index(split) for split in where.tolist()])
    _, contents = np.unique(digests, return_inverse=True)
    found: list[tuple[int, int, float, bool]] = [(one, other, 1.0, True) for one, other in _equal(contents)]
    if near < 1:
        for ones, others, likeness in _alike(thumbnails, near, progress):
            fresh = contents[ones] != contents[others]
            columns = zip(ones[fresh].tolist(), others[fresh].tolist(), likeness[fresh].tolist(), strict=True)
            found.extend((one, other, value, False) for one, other, value in columns)
            if len(found) > MOST_PAIRS:
                raise DataError(
                    f"more than {MOST_PAIRS:,} pairs of images are alike at a correlation of {near:g}",
                    "they may be blank or frames of a film; raise --near, or --near 1 for equal files only",
                )
    pairs = []
    for found_pair in found:
        first, second = sorted(found_pair[:2], key=lambda row: (order[row], row))
        pairs.append(Duplicate(first, second, *found_pair[2:]))
    return sorted(pairs, key=lambda pair: (-pair.exact, -pair.likeness, pair.first, pair.second))


def _equal(contents: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Pairs of equal numbers."""
    ranked = np.argsort(contents, kind="stable")
    ends = np.flatnonzero(np.diff(contents[ranked])) + 1
    pairs: list[tuple[int, int]] = []
    for rows in np.split(ranked, ends):
        if len(pairs) + len(rows) ** 2 // 2 > MOST_PAIRS:
            raise DataError(f"{len(rows):,} files are equal, byte for byte", "keep one of them")
        pairs.extend((one, other) for at, one in enumerate(rows.tolist()) for other in rows[at + 1 :].tolist())
    return pairs


def _alike(
    thumbnails: npt.NDArray[np.uint8], near: float, progress: Progress | None
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    """Rows [n], rows [n] and correlations [n] of near duplicates, block by block."""
    step = SIDE // COARSE_SIDE
    small = thumbnails.reshape(-1, COARSE_SIDE, step, COARSE_SIDE, step).mean(axis=(2, 4), dtype=np.float32)
    coarse = normalised(torch.from_numpy(small).flatten(1))
    starts = range(0, len(coarse), BLOCK)
    total = len(starts) * (len(starts) + 1) // 2
    for done, (top, left) in enumerate(((i, j) for i in starts for j in starts if j >= i), start=1):
        likeness = coarse[top : top + BLOCK] @ coarse[left : left + BLOCK].T
        first, second = (likeness >= min(near, COARSE)).nonzero(as_tuple=True)
        first, second = first + top, second + left
        first, second = first[first < second], second[first < second]
        for ones, others in zip(first.split(BLOCK), second.split(BLOCK), strict=True):
            fine = (_fine(thumbnails, ones) * _fine(thumbnails, others)).sum(dim=1)
            chosen = fine >= near
            yield ones[chosen].numpy(), others[chosen].numpy(), fine[chosen].numpy()
        if progress is not None:
            progress(done, total, "comparing images")


def _fine(thumbnails: npt.NDArray[np.uint8], rows: torch.Tensor) -> torch.Tensor:
    return normalised(torch.from_numpy(thumbnails[rows.numpy()]).float().flatten(1))


def _once(pairs: Iterable[Duplicate], key: Callable[[Duplicate], int]) -> tuple[Duplicate, ...]:
    """The first of the pairs for each key; they come with the most alike first."""
    best: dict[int, Duplicate] = {}
    for pair in pairs:
        best.setdefault(key(pair), pair)
    return tuple(best.values())


def _same(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> bool:
    return bool(np.array_equal(one, other, equal_nan=True))


def _absent(labels: Labels, classes: Sequence[str], splits: Mapping[str, Indices]) -> dict[str, tuple[str, ...]]:
    absent = {}
    for split_name, rows in splits.items():
        here = labels[rows]
        here = here[~unlabelled(here)] if len(here) else here
        if len(here):
            counts = (here > 0).sum(axis=0) if here.ndim == 2 else np.bincount(here, minlength=len(classes))
            absent[split_name] = tuple(name for name, count in zip(classes, counts.tolist(), strict=True) if not count)
    return {name: missing for name, missing in absent.items() if missing}


def _odd(look: _Look) -> str:
    short, long = sorted(look.loss.size)
    if short < SMALL:
        return f"{look.loss.size[1]} x {look.loss.size[0]} px"
    if long > LONG * short:
        return f"{look.loss.size[1]} x {look.loss.size[0]} px, {long / short:.0f} times as long as wide"
    return "one colour" if look.thumbnail.std() < FLAT else ""


def _miscounted(row: CatalogRow, splits: Mapping[str, Indices], classes: int) -> dict[str, tuple[int, int]]:
    found = {key: sum(len(splits[name]) for name in key.split("+")) for key in row.counts}
    published = dict(row.counts)
    if row.classes is not None:
        found["classes"], published["classes"] = classes, row.classes
    return {key: (found[key], published[key]) for key in published if found[key] != published[key]}
