"""A dataset whose images have boxes or masks, ready for use."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from hpt.callbacks import Progress
from hpt.config import DataConfig
from hpt.data import cache, class_pixels, decode, splits
from hpt.data.dataset import Dataset, load_listing
from hpt.data.images import OpenEntry
from hpt.data.left_out import counted, tell
from hpt.data.listing import SPLITS, Listing, Note, Split
from hpt.data.names import name_of
from hpt.data.pixel_format import PixelFormat
from hpt.data.reading import reading
from hpt.data.row import METRICS, CatalogRow
from hpt.data.splits import Indices
from hpt.dense import fit
from hpt.dense.annotated_boxes import AnnotatedBoxes, named
from hpt.dense.class_list import ClassList, ListedClass
from hpt.dense.find import Found, find
from hpt.dense.fit import Fault
from hpt.dense.instance_masks import AnnotatedMasks
from hpt.dense.targets import IGNORED, Boxes, DenseTask, Mask
from hpt.errors import DataError

log = logging.getLogger("hpt.data")

MOST_NUMBERS = 128
"""Masks with more different numbers than this, and no list of classes, were smoothed or compressed."""
MOST_UNKNOWN = 0.5
"""The share of pixels of no listed class above which the list is not that of the masks."""
SAMPLED = 8
"""The masks by which it is decided whether they are indices or colours."""


@dataclass(frozen=True)
class DenseDataset:
    """Images with a target each, in splits."""

    dataset: Dataset
    """The images, as a classification has them: cached, in splits, with a fingerprint. The labels are the classes that
    occur on each."""
    task: DenseTask
    """What is annotated."""
    classes: tuple[str, ...]
    """The names of the classes."""
    boxes: Callable[[int], Boxes]
    """The objects of an image, by its number in `dataset.images`, in the pixels of the cache; of a segmentation it
    raises."""
    mask: Callable[[int], Mask]
    """The classes of an image's pixels, likewise; of a detection it raises."""
    enlarged: Callable[[int], float]
    """The number by which an image's cached pixels are multiplied to get those of its file, at least 1."""
    faults: tuple[Fault, ...] = ()
    """What was wrong with boxes, one each."""
    pixels: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int64))
    """[N, C + 2] of a segmentation, the pixels of each image's file that have each class, that are ignored, and whose
    number or colour no list names."""


def load(
    dataset: str,
    task: DenseTask,
    config: DataConfig,
    *,
    side: int,
    progress: Progress | None = None,
    brief: bool = False,
) -> DenseDataset:
    """The dataset of a name of the catalogue, or else in a folder, zip file or table, with its boxes or masks.

    As `hpt.data.dataset.load`: images, and masks, are decoded on the first call with their shorter side reduced to
    `side` pixels, and come from the cache afterwards. Images without a target are in no split. `brief` does not log how
    the images were listed, for who has listed them before.

    Raises:
        DataError: as there; or there are no boxes or masks, they are damaged, or too many do not fit their images.
    """
    found = find(dataset, task, progress)
    if not brief:
        tell(name_of(found.dataset), found.listing.notes)
    loaded = load_listing(
        found.dataset, found.listing, config, side=side, progress=progress, brief=brief, dataset=dataset
    )
    frames = _Frames.of(loaded, found.listing, progress)
    if found.boxes is not None:
        return _with_boxes(found, found.boxes, loaded, frames)
    assert found.masks is not None
    return _with_masks(found, found.masks, loaded, frames, config, side, progress)


@dataclass(frozen=True)
class _Frames:
    """How images are shown, and how large they are in the cache."""

    shown: npt.NDArray[np.int64]
    """[N, 3] height, width, EXIF orientation."""
    cached: npt.NDArray[np.int64]
    """[N, 2]"""

    @classmethod
    def of(cls, loaded: Dataset, listing: Listing, progress: Progress | None) -> _Frames:
        shown = loaded.images.originals
        if len(shown) and not shown.all():  # an entry of version 0.1 did not record them
            some = replace(listing, names=loaded.images.names)
            form = loaded.images.form
            with reading(some, lambda data: decode.decode_counting(data, 1, form)[1], progress) as losses:
                found = [each if isinstance(each, decode.Loss) else decode.Loss() for each in losses]
            sizes = [(*(loss.size[::-1] if loss.turn > 4 else loss.size), loss.turn) for loss in found]
            shown = np.array(sizes, dtype=np.int64).reshape(-1, 3)
        return cls(shown, loaded.images.sizes)

    def enlarged(self, row: int) -> float:
        return float(max(1.0, (self.shown[row, :2] / self.cached[row]).max()))


def _with_boxes(found: Found, annotated: AnnotatedBoxes, loaded: Dataset, frames: _Frames) -> DenseDataset:
    classes = annotated.classes
    names = loaded.images.names
    counts = np.zeros(len(names), dtype=np.int64)
    boxes, labels, difficult, faults = [], [], [], []
    occur = np.full((len(names), len(classes)), np.nan, dtype=np.float32)
    digest = hashlib.sha256("\0".join(("detection", loaded.fingerprint, *classes)).encode("utf-8", "surrogateescape"))
    for row, name in enumerate(names):
        its = annotated.images.get(name)
        if its is None:
            continue
        height, width, turn = frames.shown[row].tolist()
        fitted = fit.fit(its, height, width, turn)
        faults += [Fault(name, what) for what in fitted.faults]
        digest.update(f"{row}\0".encode() + np.rint(fitted.boxes * 16).astype("<i8").tobytes())
        digest.update(its.labels[fitted.kept].astype("<i8").tobytes() + its.difficult[fitted.kept].tobytes())
        factor = np.array([frames.cached[row, 1] / width, frames.cached[row, 0] / height] * 2)
        counts[row] = len(fitted.kept)
        boxes.append(fitted.boxes * factor)
        labels.append(its.labels[fitted.kept])
        difficult.append(its.difficult[fitted.kept])
        occur[row] = 0
        occur[row, its.labels[fitted.kept]] = 1
    if not counts.sum():
        said = "; ".join(note.text for note in fit.notes_of(faults))
        raise DataError(f"not one box of {loaded.name} is on its image: {said}", "correct the annotations")
    packed = _PackedBoxes(
        starts=np.concatenate([[0], np.cumsum(counts)]),
        boxes=np.concatenate(boxes).astype(np.float32),
        labels=np.concatenate(labels),
        difficult=np.concatenate(difficult),
    )
    here = np.array([name in annotated.images for name in names], dtype=np.bool_)
    notes = [*annotated.notes, *fit.notes_of(faults)]
    dataset = _with_targets(loaded, classes, occur, here, {}, notes, digest.hexdigest()[:32], loaded.splits)
    return DenseDataset(dataset, "detection", classes, packed.of, _no_mask, frames.enlarged, tuple(faults))


@dataclass(frozen=True)
class _PackedBoxes:
    """The boxes of all images, one image after the other."""

    starts: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    difficult: npt.NDArray[np.bool_]

    def of(self, row: int) -> Boxes:
        some = slice(self.starts[row], self.starts[row + 1])
        return Boxes(self.boxes[some], self.labels[some], self.difficult[some])


def _no_mask(row: int) -> Mask:
    raise TypeError("a detection has no masks")


def _none_boxed(row: int) -> Boxes:
    raise TypeError("a segmentation has no boxes")


def _with_targets(
    loaded: Dataset,
    classes: tuple[str, ...],
    occur: npt.NDArray[np.float32],
    here: npt.NDArray[np.bool_],
    unfit: Mapping[str, str],
    notes: Sequence[Note],
    fingerprint: str,
    indices: Mapping[str, Indices],
) -> Dataset:
    """The images with what occurs on each; those without a target are in no split."""
    cut = {split: rows[here[rows]] for split, rows in indices.items()}
    name = loaded.name
    if not len(cut["train"]):
        raise DataError(f"none of the train images of {name} is annotated", "annotate some, or name another dataset")
    bare = [loaded.images.names[i] for i in np.flatnonzero(~here).tolist() if loaded.images.names[i] not in unfit]
    if bare:
        many = counted(len(bare), "image")
        notes = [*notes, Note(f"{many} without annotations left out of all splits: {named(bare)}")]
    tell(name, notes)
    return replace(
        loaded,
        task="multi-label",
        metric=METRICS["multi-label"],
        classes=classes,
        labels=occur,
        splits=cut,
        quarantined=(*loaded.quarantined, *unfit.items()),
        fingerprint=fingerprint,
        split_fingerprint=splits.fingerprint(loaded.images.names, cut),
        notes=(*loaded.notes, *(note.text for note in notes)),
    )


def _with_masks(
    found: Found,
    annotated: AnnotatedMasks,
    loaded: Dataset,
    frames: _Frames,
    config: DataConfig,
    side: int,
    progress: Progress | None,
) -> DenseDataset:
    masks = tuple(sorted(set(annotated.by_image.values())))
    listing = Listing.single_label(annotated.source, dict.fromkeys(masks, ("train", None)))
    form = _mask_format(listing, annotated.classes)
    row = found.dataset if isinstance(found.dataset, CatalogRow) else None
    entry = cache.open_or_build(listing, side, progress, dataset=row.name if row else str(found.dataset), form=form)
    at = {name: i for i, name in enumerate(entry.names)}
    why = dict(entry.quarantined)

    names = loaded.images.names
    rows = np.full(len(names), -1, dtype=np.int64)
    turns = np.ones(len(names), dtype=np.int64)
    unfit: dict[str, str] = {}
    for image, name in enumerate(names):
        mask = annotated.by_image.get(name)
        if mask is None:
            continue
        if mask not in at:
            unfit[name] = f"its mask {mask}: {why.get(mask, 'is not there')}"
            continue
        height, width, turn = frames.shown[image].tolist()
        size = tuple(entry.originals[at[mask], :2].tolist())
        if size == (height, width):
            rows[image] = at[mask]
        elif turn > 4 and size == (width, height):  # drawn on the file as it is stored
            rows[image], turns[image] = at[mask], turn
        else:
            unfit[name] = f"its mask {mask} has {size[1]} x {size[0]} pixels, and the image {width} x {height}"
    _check_unfit(loaded.name, unfit, len(annotated.by_image), config.max_unreadable)

    here = rows >= 0
    numbers = _numbers_of(entry, rows[here])
    meaning = _meaning(loaded.name, annotated.classes, numbers, form)
    count = len(meaning.classes)
    pixels = np.zeros((len(names), count + 2), dtype=np.int64)
    columns = np.where(meaning.table == IGNORED, count, meaning.table.astype(np.int64))
    columns[meaning.strange] = count + 1
    by_row: dict[int, list[tuple[int, int]]] = {}
    for mask_row, number, times in entry.occurring.tolist():
        by_row.setdefault(mask_row, []).append((number, times))
    for image in np.flatnonzero(here).tolist():
        for number, times in by_row.get(int(rows[image]), ()):
            pixels[image, columns[number]] += times
    notes = list(meaning.notes)
    if (strange := int(pixels[:, -1].sum())) and annotated.classes is not None:
        share = strange / max(1, int(pixels.sum()))
        which = ", ".join(str(n) for n in np.flatnonzero(meaning.strange & (numbers > 0)).tolist()[:6])
        what = "colours that" if form.classes_by == "colour" else f"numbers ({which}) that"
        text = f"{share:.2%} of the pixels have {what} {annotated.classes.file} does not list, and are ignored"
        if share > MOST_UNKNOWN:
            raise DataError(f"{loaded.name}: {text}", "correct the list of classes, or name the right masks")
        images = [names[i] for i in np.flatnonzero(pixels[:, -1]).tolist()]
        notes.append(Note(f"{text}: {counted(len(images), 'image')}, {named(images)}"))
    occur = np.where(here[:, None], pixels[:, :count] > 0, np.nan).astype(np.float32)

    digest = hashlib.sha256(
        "\0".join(("masks", loaded.fingerprint, *meaning.classes)).encode("utf-8", "surrogateescape")
    )
    digest.update(meaning.table.tobytes())
    for image in np.flatnonzero(here).tolist():
        digest.update(f"{image}\0".encode() + entry.digests[rows[image]].tobytes())
    indices = _own_splits(loaded, annotated.splits)
    dataset = _with_targets(loaded, meaning.classes, occur, here, unfit, notes, digest.hexdigest()[:32], indices)
    packed = _PackedMasks(entry, rows, turns, frames.cached, meaning.table)
    return DenseDataset(dataset, "segmentation", meaning.classes, _none_boxed, packed.of, frames.enlarged, (), pixels)


@dataclass(frozen=True)
class _PackedMasks:
    """The masks of all images, mapped from the disk as their files number them."""

    entry: OpenEntry
    rows: npt.NDArray[np.int64]
    turns: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    table: npt.NDArray[np.uint8]

    def of(self, row: int) -> Mask:
        at = int(self.rows[row])
        if at < 0:
            return np.full(tuple(self.sizes[row].tolist()), IGNORED, dtype=np.uint8)
        numbers = self.entry.pixels.image(at)[0].numpy()
        classes: Mask = self.table[numbers]
        return classes if self.turns[row] == 1 else decode.turned(classes, int(self.turns[row]))


@dataclass(frozen=True)
class _Meaning:
    """What the numbers in the cache stand for."""

    classes: tuple[str, ...]
    table: npt.NDArray[np.uint8]
    """[256] the class of each number, or `IGNORED`."""
    strange: npt.NDArray[np.bool_]
    """[256] which numbers nothing lists."""
    notes: tuple[Note, ...] = ()


def _numbers_of(entry: OpenEntry, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """[256] how many pixels of some masks have each number."""
    some = entry.occurring[np.isin(entry.occurring[:, 0], rows)]
    numbers = np.zeros(256, dtype=np.int64)
    np.add.at(numbers, some[:, 1], some[:, 2])
    return numbers


def _meaning(name: str, listed: ClassList | None, numbers: npt.NDArray[np.int64], form: PixelFormat) -> _Meaning:
    table = np.full(256, IGNORED, dtype=np.uint8)
    strange = np.zeros(256, dtype=np.bool_)
    if listed is None:
        return _unlisted(name, numbers, table, strange)
    kept: Sequence[ListedClass] = listed.kept
    if not kept:
        raise DataError(f"{listed.file} lists no class that counts", "add one")
    table[[each.number for each in kept]] = np.arange(len(kept))
    known = {each.number for each in listed.classes} | listed.ignored
    if form.classes_by != "colour":
        known.add(IGNORED)
    strange[[number for number in range(256) if number not in known]] = True
    return _Meaning(tuple(each.name for each in kept), table, strange)


def _unlisted(
    name: str, numbers: npt.NDArray[np.int64], table: npt.NDArray[np.uint8], strange: npt.NDArray[np.bool_]
) -> _Meaning:
    there = np.flatnonzero(numbers).tolist()
    if len(there) > MOST_NUMBERS:
        raise DataError(
            f"the masks of {name} hold {len(there)} different numbers, so they were smoothed or saved as JPEG",
            "save them as PNG with the number of a class in each pixel, or add a classes.txt",
        )
    if there in ([0, 255], [255]):
        table[[0, 255]] = 0, 1
        note = Note("masks of 0 and 255, and no list of classes: read as background and foreground")
        return _Meaning(("background", "foreground"), table, strange, (note,))
    classes = [number for number in there if number != IGNORED]
    table[classes] = np.arange(len(classes))
    note = Note("no list names the classes of the masks: they are called by their numbers (classes.txt names them)")
    return _Meaning(tuple(str(number) for number in classes), table, strange, (note,))


def _mask_format(listing: Listing, listed: ClassList | None) -> PixelFormat:
    """Whether masks are indices or colours: of those that could be both, what makes more of their pixels classes."""
    index = PixelFormat(channels=1, colours="none", classes_by="index")
    if listed is None or not listed.coloured:
        return index
    colours = tuple((each.colour, each.number) for each in listed.classes if each.colour is not None)
    colour = index.model_copy(update={"classes_by": "colour", "class_colours": colours})
    either = colour.model_copy(update={"classes_by": "either"})
    step = max(1, len(listing.names) // SAMPLED)
    some = replace(listing, names=listing.names[::step])
    known = [each.number for each in listed.classes]
    shares = []
    for form in (colour, either):
        with reading(some, partial(_occurring, form), None) as looked:
            found = [each for each in looked if not isinstance(each, str)]
        counts = np.concatenate(found) if found else np.zeros((0, 2), dtype=np.int64)
        shares.append(counts[np.isin(counts[:, 0], known), 1].sum() / max(1, counts[:, 1].sum()))
    return colour if shares[0] >= shares[1] else either


def _occurring(form: PixelFormat, data: bytes) -> class_pixels.Occurring:
    return class_pixels.decode(data, 1, form)[2]


def _check_unfit(name: str, unfit: Mapping[str, str], total: int, allowed: float) -> None:
    if not unfit:
        return
    first = named([f"{image} ({reason})" for image, reason in unfit.items()])
    if len(unfit) > allowed * total or len(unfit) == total:
        enough = math.ceil(100 * len(unfit) / total) / 100
        raise DataError(
            f"{len(unfit):,} of {total:,} masks of {name} do not fit, over the limit of {allowed:.4g}: {first}",
            "make them again at the size of their images"
            + (f", or leave them out by --set data.max_unreadable={enough:g}" if len(unfit) < total else ""),
        )
    log.warning("%s: %d of %d masks do not fit and are left out: %s", name, len(unfit), total, first)


def _own_splits(loaded: Dataset, own: Mapping[str, Split]) -> Mapping[str, Indices]:
    """The splits of masks that have lists of their own; what the images' own lists test on stays test."""
    if not own:
        return loaded.splits
    tests = set(loaded.splits["test"].tolist())
    used = {row for rows in loaded.splits.values() for row in rows.tolist()}
    given: dict[Split, list[int]] = {split: [] for split in SPLITS}
    for row, name in enumerate(loaded.images.names):
        if row in used and (split := own.get(name)) is not None:
            given["test" if row in tests else split].append(row)
    return {split: np.array(rows, dtype=np.int64) for split, rows in given.items()}
