"""What is read from packed files, whatever their format, before it becomes a listing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from hpt.data.listing import ImageSource, Note

ReadMany = Callable[[Sequence[str]], list[bytes | str]]
"""From the names of images that lie in one chunk, their bytes; a text says why one is unreadable."""


class Placed(NamedTuple):
    """Where images lie, an entry each."""

    chunk: npt.NDArray[np.int64]
    """The number of what is read at once: a few megabytes of a shard, a row group of a table."""
    at: npt.NDArray[np.int64]
    """A number that orders the images of a chunk as they lie there."""
    size: npt.NDArray[np.int64]
    """The bytes of an image, about."""


@runtime_checkable
class ChunkedSource(ImageSource, Protocol):
    """A source whose images lie together in chunks, each of which is quicker to read at once."""

    @property
    def parallel(self) -> int:
        """The number of reads that are worth having at one time."""

    @property
    def digests(self) -> npt.NDArray[np.uint8] | None:
        """[N, 16] digests of the files of all its images, sorted by name, where they are known without reading them."""

    def placed(self, names: Sequence[str]) -> Placed:
        """Where the images of these names lie."""

    def open_chunks(self) -> AbstractContextManager[ReadMany]:
        """A reader of many images of a chunk, which several threads may call at once."""


@dataclass(frozen=True)
class PackedImages:
    """What packed files hold, in the order in which it lies there."""

    names: list[str]
    """The name of each image."""
    file: npt.NDArray[np.int64]
    """[N] the number of its file."""
    labels: list[Any] | None
    """The label of each: a text, a number, several of them, or None; None where there are none at all."""
    source: Callable[[tuple[str, ...], npt.NDArray[np.int64]], ImageSource]
    """From the sorted names, and the order that sorts them, what reads the images."""
    classes: tuple[str, ...] = ()
    """The names of the classes that numbers stand for, where the files say them."""
    by_names: bool = False
    """Whether classes and splits may be told by the folders in the images' names, as in a tar of class folders."""
    notes: tuple[Note, ...] = ()
    """What was left out."""
