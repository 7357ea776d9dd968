"""What a dataset holds, before any image is read: names, labels, splits, and where the bytes come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
Labels = npt.NDArray[Any]
"""int64 [N], -1 where unlabelled; float32 [N, C] of 0 and 1 of a multi-label set, NaN where unlabelled."""
Read = Callable[[str], bytes]


class Unreadable(Exception):
    """One image cannot be read, and why. It goes into quarantine, and this exception never leaves the package."""


@contextmanager
def damage_is_unreadable(*but: type[Exception]) -> Iterator[None]:
    """What readers raise on damaged files, which may be anything (OSError, struct.error, KeyError, a codec's own), as
    an Unreadable; `but` and a lack of memory stay what they are."""
    kept: tuple[type[Exception], ...] = (Unreadable, MemoryError, *but)
    try:
        yield
    except kept:
        raise
    except Exception as error:
        raise Unreadable(str(error) or type(error).__name__) from None


@dataclass(frozen=True)
class Note:
    """One line about how a dataset was read, or about what of it was left out."""

    text: str
    doubtful: bool = True
    """Whether it may be other than its owner thinks."""


class ImageSource(Protocol):
    """What reads an image's bytes, by its name."""

    def stamp(self, names: Iterable[str]) -> Iterator[str]:
        """Texts that change when an image changes, found without reading the images."""

    def open(self) -> AbstractContextManager[Read]:
        """A reader that several threads may call at once, and that raises `Unreadable`."""


@runtime_checkable
class Distant(Protocol):
    """A source whose images are waited for, so that more threads than cores are of use."""

    @property
    def readers(self) -> int:
        """The number of threads."""


@dataclass(frozen=True)
class Listing:
    """The images of a dataset, sorted by name."""

    source: ImageSource
    """What reads the images."""
    names: tuple[str, ...]
    """The relative posix names, unique and sorted; absolute for images that a list has elsewhere."""
    splits: tuple[Split, ...]
    """The split of each image; a split without images is cut from train by `load`, where train has labels."""
    labels: Labels
    """The labels of all images."""
    classes: tuple[str, ...]
    """The names of the classes; none where the images are unlabelled."""
    groups: tuple[str, ...] | None = None
    """What a cut must not divide, such as the patient, of each image; None where every image stands alone."""
    notes: tuple[Note, ...] = ()
    """How it was read where that is not plain, and what lies there and is not used."""
    annotated: bool = False
    """Whether boxes or masks lie beside the images: then splits are cut from train though no image has a label, so that
    pretraining does not see what detection or segmentation tests on."""

    @classmethod
    def single_label(
        cls,
        source: ImageSource,
        images: Mapping[str, tuple[Split, str | None]],
        classes: Iterable[str] | None = None,
        notes: tuple[Note, ...] = (),
    ) -> Listing:
        """From the split and the class (None: unlabelled) of each name; `classes` default to those that
        occur."""
        if classes is None:
            classes = sorted({label for _, label in images.values() if label is not None})
        classes = tuple(classes)
        number = {label: i for i, label in enumerate(classes)}
        names = sorted(images)
        return cls(
            source=source,
            names=tuple(names),
            splits=tuple(images[name][0] for name in names),
            labels=np.array([number.get(images[name][1] or "", -1) for name in names], dtype=np.int64),
            classes=classes,
            notes=notes,
        )

    @classmethod
    def multi_label(
        cls, source: ImageSource, images: Mapping[str, tuple[Split, Iterable[str]]], classes: Iterable[str]
    ) -> Listing:
        """From the split and the classes of each name, which may be none; other classes than `classes` are left out."""
        classes = tuple(classes)
        number = {label: i for i, label in enumerate(classes)}
        names = sorted(images)
        labels = np.zeros((len(names), len(classes)), dtype=np.float32)
        for row, name in enumerate(names):
            labels[row, [number[label] for label in images[name][1] if label in number]] = 1
        return cls(source, tuple(names), tuple(images[name][0] for name in names), labels, classes)

    def grouped(self, group: Callable[[str], str]) -> Listing:
        """The same with the group of each image, found from its name."""
        return replace(self, groups=tuple(group(name) for name in self.names))


def unlabelled(labels: Labels) -> npt.NDArray[np.bool_]:
    """[N] which images have no labels. One of a multi-label set that has no class is labelled, with zeros."""
    first = labels if labels.ndim == 1 else labels[:, 0]
    return ~(first >= 0)


class WithLabels(Protocol):
    """Images with labels: a listing, or a dataset."""

    @property
    def labels(self) -> Labels: ...

    @property
    def classes(self) -> tuple[str, ...]: ...


def class_names(images: WithLabels, index: int) -> str:
    """The class of an image, or its classes; empty where the image is unlabelled."""
    if unlabelled(images.labels[[index]])[0]:
        return ""
    if images.labels.ndim == 1:
        return images.classes[int(images.labels[index])]
    return ", ".join(images.classes[i] for i in np.flatnonzero(images.labels[index] > 0)) or "no class"
