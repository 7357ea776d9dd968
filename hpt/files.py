"""Atomic writing: a file is either whole or unchanged, since it is written beside its place, synced, then renamed; and
what locks and syncs."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import Future

    from filelock import FileLock

FLUSHED = 64 << 20
"""Bytes from which on `flushed_meanwhile` sends them to the disk."""
PIECE = 1 << 20
"""Bytes that it writes at once: in pieces of an image of 144 px ext4 took twice the processor time."""


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


@contextmanager
def flushed_meanwhile(path: Path) -> Iterator[Callable[[memoryview], None]]:
    """What writes a new file whose bytes go to the disk while more are made, and are there when the block has ended.

    Linux leaves them in memory until they are a tenth of it, so that all who wait for the disk wait at the end. A block
    that raises leaves a part of the file.
    """
    from concurrent.futures import ThreadPoolExecutor

    waiting = 0
    flush: Future[None] | None = None
    with path.open("wb", buffering=PIECE) as file, ThreadPoolExecutor(1, thread_name_prefix="flush") as pool:

        def write(data: memoryview) -> None:
            nonlocal waiting, flush
            file.write(data)
            waiting += data.nbytes
            if waiting >= FLUSHED and (flush is None or flush.done()):
                if flush is not None:
                    flush.result()  # raises where the disk did not take it
                file.flush()
                waiting, flush = 0, pool.submit(os.fsync, file.fileno())

        yield write
        file.flush()
        if flush is not None:
            flush.result()
        os.fsync(file.fileno())


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
