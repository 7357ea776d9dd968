"""Features of frozen backbones on the disk, beside the decoded images: what was embedded once is read afterwards.

    <cache>/features/<key>.safetensors     `features` fp32 [n, d]; its metadata say of what. Its time is that of the
                                           last use
    <cache>/features/<key>.lock            held while a process embeds; empty

A key is made by who embeds (`hpt.evaluate.kept_features`), of all that the features rest on, so that nothing is ever
out of date. All files together stay below `LIMIT`: the longest unused give way.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import Timeout
from safetensors import SafetensorError, safe_open

from hpt.files import replacing, shared_lock
from hpt.user_folders import cache_folder

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("hpt.data")

LIMIT = 8 << 30
"""Bytes of all files together."""
LARGEST = LIMIT // 4
"""Bytes of a file: the features of more images are not kept."""
SUFFIX, PART = ".safetensors", ".part"
METADATA = "hptctl"


@dataclass(frozen=True)
class KeptFile:
    """A file of features, or what a process that was killed has left of one."""

    path: Path
    whole: bool
    """Whether it can be read."""
    dataset: str
    """The name of the dataset."""
    of: str
    """The backbone."""
    images: int | None
    """Their number; None where the file cannot be read."""
    bytes: int
    used: float
    """The time, in seconds since 1970, when it was last read, or written."""


def features_folder() -> Path:
    """The folder of the files."""
    return cache_folder() / "features"


def read(key: str) -> Tensor | None:
    """Features [n, d] on the CPU; None where none are kept, or their file is damaged."""
    path = features_folder() / (key + SUFFIX)
    try:
        with safe_open(path, "pt") as file:
            found: Tensor = file.get_tensor("features")
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError) as error:
        log.warning("the features in %s cannot be read (%s): they are computed again", path, error)
        return None
    with suppress(OSError):
        os.utime(path)
    return found


def write(key: str, features: Tensor, about: Mapping[str, str]) -> None:
    """Keep features [n, d]. Where they are too many, or the folder cannot be written, they are not kept, and no more.

    Args:
        about: `dataset` and `of`, by which the file is listed.
    """
    from safetensors.torch import save_file

    if features.nbytes > LARGEST:
        return
    try:
        make_room(features.nbytes)
        with replacing(features_folder() / (key + SUFFIX)) as part:
            save_file({"features": features.contiguous()}, part, {METADATA: json.dumps(dict(about))})
    except (OSError, SafetensorError) as error:
        log.info("the features are not kept: %s", error)


@contextmanager
def alone(key: str) -> Iterator[None]:
    """A block in which no other process embeds the same; in a folder that cannot be written, one may."""
    folder = features_folder()
    lock = None
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        lock = shared_lock(folder / f"{key}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("another process is embedding these images; waiting until it has finished")
            lock.acquire()
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def make_room(needed: int) -> None:
    """Remove the longest unused until `needed` bytes more stay below the limit."""
    kept = sorted(_sizes(), key=lambda each: -each[1].st_mtime)
    for path, stat in kept:
        needed += stat.st_size
        if needed > LIMIT:
            with suppress(OSError):  # removed meanwhile, or another user's
                remove(path)


def remove(path: Path) -> None:
    """Remove a file, which whoever reads it still holds, and its lock: who waits for that embeds for himself.

    Raises:
        OSError: this user may not.
    """
    path.unlink(missing_ok=True)
    lock_of(path).unlink(missing_ok=True)


def kept() -> list[KeptFile]:
    """All files, and those of processes that were killed while they wrote."""
    found = []
    for path, stat in _sizes():
        about, images = _about(path) if path.suffix == SUFFIX else ({}, None)
        dataset, of = about.get("dataset", ""), about.get("of", "")
        found.append(KeptFile(path, images is not None, dataset, of, images, stat.st_size, stat.st_mtime))
    return found


def lock_of(path: Path) -> Path:
    """The lock of a file, whole or not: of `.<key>.safetensors.x3f2.part` that is `<key>.lock`."""
    return path.with_name(path.name.lstrip(".").partition(".")[0] + ".lock")


def _sizes() -> Iterator[tuple[Path, os.stat_result]]:
    folder = features_folder()
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.suffix in (SUFFIX, PART):
            with suppress(OSError):
                yield path, path.stat()


def _about(path: Path) -> tuple[Mapping[str, str], int | None]:
    try:
        with safe_open(path, "np") as file:
            about = json.loads((file.metadata() or {})[METADATA])
            return {name: str(about[name]) for name in ("dataset", "of")}, file.get_slice("features").get_shape()[0]
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, IndexError):
        return {}, None
