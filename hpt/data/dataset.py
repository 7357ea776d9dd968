"""A dataset ready for use: from a name or a path to images, labels and splits."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from hpt.callbacks import Progress
from hpt.config import DataConfig
from hpt.data import cache, intensity, quarantine, splits, stream
from hpt.data.images import Images, OpenEntry
from hpt.data.left_out import notes_of_losses, tell
from hpt.data.listing import Labels, Listing, unlabelled
from hpt.data.names import find, list_images, name_of
from hpt.data.pixel_format import PixelFormat, Unmeasured
from hpt.data.row import METRICS, CatalogRow, Found, Task
from hpt.errors import DataError

log = logging.getLogger("hpt.data")

T = TypeVar("T")

NAMED = 3
"""The number of unreadable images that a message names."""


@dataclass(frozen=True)
class Dataset:
    """Images, labels and splits, ready for use."""

    name: str
    """The name in the catalogue, or that of the folder, zip file or list."""
    task: Task
    """Whether an image has one class or any number of them."""
    classes: tuple[str, ...]
    """The names of the classes; none where the images are unlabelled."""
    metric: str
    """The headline metric: the one of the dataset's row, or `top1` of single-label and `auroc` of multi-label sets."""
    images: Images
    """Every readable image, of all splits."""
    labels: Labels
    """int64 [N], -1 where unlabelled; float32 [N, C] of 0 and 1 of a multi-label set, NaN where unlabelled."""
    splits: Mapping[str, splits.Indices]
    """Sorted indices into images and labels by split (`train`, `val`, `test`), where a split may be empty; what a
    quarantine list names is in none of them."""
    quarantined: tuple[tuple[str, str], ...]
    """The name of each image that is unreadable or named by a quarantine list, and the reason."""
    fingerprint: str
    """A hexadecimal digest of names, contents and labels, which is the same wherever the images lie."""
    split_fingerprint: str
    """A hexadecimal digest of which image is in which split."""
    notes: tuple[str, ...] = ()
    """How it was read where that is not plain, and what lies there and is not used."""
    streamed: str = ""
    """How its images are streamed, in words; empty where they lie in the cache."""

    def pretraining_images(self, share: float = 1.0, seed: int = 0) -> Images:
        """The images of train and val, never of test, without labels; or a share of them, drawn by seed, of at least
        two."""
        rows = _pretraining(self.splits)
        if share < 1:
            drawn = np.random.default_rng([seed, 0x5A4E]).permutation(rows)
            rows = np.sort(drawn[: max(2, round(share * len(rows)))])
        return self.images.subset(rows)

    def split(self, name: str) -> tuple[Images, Labels]:
        """The images of a split and their labels.

        Raises:
            DataError: the split has no images, or no labels.
        """
        indices = self.splits[name]
        if not len(indices):
            raise DataError(f"{self.name} has no {name} images", "add some, or use the set for pretraining only")
        labels = self.labels[indices]
        if unlabelled(labels).any():
            raise DataError(
                f"the {name} images of {self.name} have no labels",
                "sort them into one folder per class, or list them with labels, to evaluate on them; pretraining needs "
                "no labels",
            )
        return self.images.subset(indices), labels

    def per_class(self, split: str) -> npt.NDArray[np.int64]:
        """[C] the number of images of a split that have each class."""
        labels = self.labels[self.splits[split]]
        if labels.ndim == 2:
            counts: npt.NDArray[np.int64] = (labels > 0).sum(axis=0)
            return counts
        return np.bincount(labels[labels >= 0], minlength=len(self.classes))


def load(
    dataset: str, config: DataConfig, *, side: int, progress: Progress | None = None, brief: bool = False
) -> Dataset:
    """The dataset of a name of the catalogue, or else in a folder, zip file or list (`names.find`).

    Images are decoded on the first call, with their shorter side reduced to `side` pixels (`config.side` of the view's
    size), and come from the cache afterwards. A small dataset of the catalogue that is missing is downloaded first.
    `brief` logs only what is doubtful of how numbers became pixels, for who shows the rest.

    Raises:
        DataError: there is nothing of that name, no images, too many unreadable ones, or an ambiguous layout.
        OSError: the cache cannot be written.
    """
    found = find(dataset)
    listing = list_images(found, progress, config)
    return load_listing(found, listing, config, side=side, progress=progress, brief=brief, dataset=dataset)


def load_listing(
    found: Found,
    listing: Listing,
    config: DataConfig,
    *,
    side: int,
    progress: Progress | None = None,
    brief: bool = False,
    dataset: str = "",
) -> Dataset:
    """As `load`, of what was found, by the name of `dataset`, and listed already."""
    row = found if isinstance(found, CatalogRow) else None
    name = name_of(found)
    task: Task = "multi-label" if listing.labels.ndim == 2 else "single-label"
    entry = _open(found, listing, config, side, progress)
    _check_quarantine(name, entry, config.max_unreadable)
    losses = notes_of_losses(entry.losses, entry.form)
    tell(name, [note for note in losses if note.doubtful or not brief])

    at = {image: i for i, image in enumerate(listing.names)}
    readable = np.array([at[image] for image in entry.names], dtype=np.int64)
    labels = listing.labels[readable]
    indices = split(found, listing, readable, config.split_seed)
    # After the cut, so that an image that is left out moves no other to another split.
    indices, left_out = _without_quarantined(found, entry.names, indices)
    if row and row.mean and row.std and entry.form.plain:
        mean, std = (tuple(published) for published in (row.mean, row.std))
    else:
        mean, std = entry.mean_std(_pretraining(indices))
    images = Images(entry, np.arange(len(entry.names)), mean, std)
    _warn_of_copies(name, dataset or _said(found), images, indices)
    return Dataset(
        name=name,
        task=task,
        classes=listing.classes,
        metric=(row and row.metric) or METRICS[task],
        images=images,
        labels=labels,
        splits=indices,
        quarantined=(*entry.quarantined, *left_out.items()),
        fingerprint=_fingerprint(entry.names, entry.digests, labels, listing.classes, entry.form),
        split_fingerprint=splits.fingerprint(entry.names, indices),
        notes=tuple(note.text for note in (*listing.notes, *losses)),
    )


def load_streamed(dataset: str, config: DataConfig, *, side: int, progress: Progress | None = None) -> Dataset:
    """As `load`, for a pretraining that reads and decodes images as it comes to them.

    Nothing is read but a sample: which images are unreadable shows on the way, the mean and spread are those of the
    sample, and the fingerprint rests on names, labels and, but for a pack, sizes and times instead of contents.

    Raises:
        DataError: as `load`.
    """
    found = find(dataset)
    listing = list_images(found, progress, config)
    name, row = name_of(found), found if isinstance(found, CatalogRow) else None
    form = format_of(found, listing, config, progress)
    every = np.arange(len(listing.names), dtype=np.int64)
    indices, left_out = _without_quarantined(found, listing.names, split(found, listing, every, config.split_seed))
    store = stream.Store(listing, side, form, config.stream_buffer << 20, config.max_unreadable)
    mean, std, sample = stream.measured(store, _pretraining(indices), progress)
    words = f"in pools of {config.stream_buffer / 2:g} MiB; mean and spread of {sample:,} images"
    if row and row.mean and row.std and form.plain:
        mean, std = (tuple(published) for published in (row.mean, row.std))
        words = f"in pools of {config.stream_buffer / 2:g} MiB; mean and spread as published"
    images = stream.StreamedImages(store, every, mean, std)
    contents = images.digests.view(np.uint8).reshape(-1, 16) if images.has_digests else stream.content_stamps(listing)
    if images.has_digests:
        _warn_of_copies(name, dataset, images, indices)
    task: Task = "multi-label" if listing.labels.ndim == 2 else "single-label"
    return Dataset(
        name=name,
        task=task,
        classes=listing.classes,
        metric=(row and row.metric) or METRICS[task],
        images=images,
        labels=listing.labels,
        splits=indices,
        quarantined=tuple(left_out.items()),
        fingerprint=_fingerprint(
            listing.names, contents, listing.labels, listing.classes, form, read=images.has_digests
        ),
        split_fingerprint=splits.fingerprint(listing.names, indices),
        notes=tuple(note.text for note in listing.notes),
        streamed=words,
    )


def split(
    found: Found, listing: Listing, rows: splits.Indices, seed: int, *, tell: bool = True
) -> dict[str, splits.Indices]:
    """The splits of some images of a listing, as indices into `rows`; what the dataset lacks is cut by `seed`."""
    names = [listing.names[i] for i in rows]
    given = [listing.splits[i] for i in rows]
    groups = None if listing.groups is None else [listing.groups[i] for i in rows]
    shares = found.cut if isinstance(found, CatalogRow) else splits.SHARES
    labels = listing.labels[rows]
    return splits.complete(
        *(name_of(found), names, labels, given, seed),
        groups=groups,
        shares=shares,
        annotated=listing.annotated,
        tell=tell,
    )


def format_of(
    found: Found,
    listing: Listing,
    config: DataConfig,
    progress: Progress | None = None,
    *,
    thorough: bool = False,
) -> PixelFormat:
    """How the files of a dataset become pixels, measured on its training images, or kept from an earlier run.

    `thorough` measures all of them, where some of another kind than those that were measured turned up.

    Raises:
        DataError: the images differ in their channels. ConfigError: a channel does not exist.
    """
    place, form = intensity.kept_format(listing, config)
    if form is None or thorough:
        train = split(found, listing, np.arange(len(listing.names)), config.split_seed, tell=False)["train"]
        form = intensity.pixel_format(listing, train, config, progress, thorough=thorough)
        intensity.keep(place, form)
    return form


def with_format(
    found: Found,
    listing: Listing,
    config: DataConfig,
    progress: Progress | None,
    read: Callable[[PixelFormat], T],
) -> tuple[PixelFormat, T]:
    """The format of a dataset and what `read` makes of it, who reads all images: where it meets one of a kind that the
    measured ones are not, all are measured, and read anew."""
    form = format_of(found, listing, config, progress)
    try:
        return form, read(form)
    except Unmeasured:
        log.info("%s has images of a kind that the measured ones are not: measuring all", name_of(found))
        form = format_of(found, listing, config, progress, thorough=True)
        return form, read(form)


def _open(found: Found, listing: Listing, config: DataConfig, side: int, progress: Progress | None) -> OpenEntry:
    def build(form: PixelFormat) -> OpenEntry:
        return cache.open_or_build(listing, side, progress, dataset=_said(found), form=form)

    return with_format(found, listing, config, progress, build)[1]


def _said(found: Found) -> str:
    """What names a dataset on the command line."""
    return found.name if isinstance(found, CatalogRow) else str(found)


def _without_quarantined(
    found: Found, names: Sequence[str], indices: dict[str, splits.Indices]
) -> tuple[dict[str, splits.Indices], dict[str, str]]:
    """The splits without what the dataset's quarantine list names, and the reasons."""
    left_out = quarantine.read(quarantine.place(found))
    return quarantine.apply(name_of(found), names, indices, left_out) if left_out else (indices, left_out)


def _pretraining(indices: Mapping[str, splits.Indices]) -> splits.Indices:
    return np.sort(np.concatenate([indices["train"], indices["val"]]))


def _check_quarantine(name: str, entry: OpenEntry, allowed: float) -> None:
    bad, total = len(entry.quarantined), len(entry.quarantined) + len(entry.names)
    if not bad:
        return
    first = _first(entry.quarantined)
    if bad == total:
        raise DataError(f"none of the {total:,} images of {name} can be read: {first}", "check the files")
    if bad > allowed * total:
        enough = math.ceil(100 * bad / total) / 100
        raise DataError(
            f"{bad:,} of {total:,} images of {name} cannot be read, over the limit of {allowed:.4g}: {first}",
            f"repair or remove them, or leave them out by --set data.max_unreadable={enough:g}",
        )
    log.warning("%s: %d of %d images cannot be read and are left out: %s", name, bad, total, first)


def _warn_of_copies(name: str, dataset: str, images: Images, indices: Mapping[str, splits.Indices]) -> None:
    """Say before a run that some test images are byte for byte among the others."""
    copies = np.isin(images.digests[indices["test"]], images.digests[_pretraining(indices)]).sum()
    if copies:
        log.warning(
            "%s: %d of %d test images are also in train or val; `hptctl datasets check %s` names them",
            *(name, copies, len(indices["test"]), dataset),
        )


def _first(quarantined: Sequence[tuple[str, str]]) -> str:
    named = ", ".join(f"{name} ({reason})" for name, reason in quarantined[:NAMED])
    return named if len(quarantined) <= NAMED else f"{named}, ..."


def _fingerprint(
    names: Sequence[str],
    contents: npt.NDArray[np.uint8],
    labels: Labels,
    classes: tuple[str, ...],
    form: PixelFormat,
    *,
    read: bool = True,
) -> str:
    """A digest of the names, contents [N, 16] and labels of images; `read`: whether contents are digests of files."""
    digest = hashlib.sha256()
    if not form.plain:  # version 0.1 read more than 8 bits otherwise: results on such images are others
        digest.update(b"numbers by a window\n")
    if not read:
        digest.update(b"contents by their stamps\n")
    for name, content, label in zip(names, contents, labels, strict=True):
        if labels.ndim == 2:
            text = ",".join(c for c, value in zip(classes, label, strict=True) if value > 0)
        else:
            text = classes[label] if label >= 0 else ""
        digest.update(f"{name}\0{text}\0".encode("utf-8", "surrogateescape") + content.tobytes())
    return digest.hexdigest()[:32]
