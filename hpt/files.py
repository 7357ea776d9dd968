"""Atomic writing: a file is either whole or unchanged, since it is written beside its place, synced, then renamed."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import FileLock


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, which replaces it when the block ends, and is removed when the block raises."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    part = Path(name)
    try:
        yield part
        part.chmod(0o666 & ~_umask())
        sync(part)
        part.replace(path)
        sync(path.parent)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Make `text` the whole content of `path`, atomically."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def shared_lock(path: Path) -> FileLock:
    """A lock that whoever may come to its folder can hold: the file is empty, and of the user who was there first."""
    from filelock import FileLock

    return FileLock(path, mode=0o666)


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk; Windows flushes a file that may be written alone, and folders by itself."""
    if sys.platform == "win32" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
