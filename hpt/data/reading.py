"""Every image of a listing, read once, by all cores."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from hpt import cores
from hpt.callbacks import Progress
from hpt.data import decode
from hpt.data.listing import Distant, Listing, Unreadable

T = TypeVar("T")
U = TypeVar("U")

CHUNK = 8
"""Images per task of a thread: one by one, threads lose a third of their speed to the interpreter's lock."""


def reading(
    listing: Listing, work: Callable[[bytes], T], progress: Progress | None, *, what: str = "reading images"
) -> AbstractContextManager[Iterator[T | str]]:
    """What `work` makes of the bytes of each image, in the order of the listing; a text says why one is unreadable.

    Memory holds a few chunks of images per core. The iterator ends with the block. `what` is said of the progress.
    """
    return reading_in_stages(listing, work, list, progress, what=what)


@contextmanager
def reading_in_stages(
    listing: Listing,
    work: Callable[[bytes], T],
    finish: Callable[[list[T]], list[U]],
    progress: Progress | None,
    *,
    what: str = "reading images",
) -> Iterator[Iterator[U | str]]:
    """As `reading`, and `finish` makes of the readable images of a chunk, once all are decoded, what is yielded.

    What is done after each image's decoding runs without anything of it in the processor's caches: in chunks, sums and
    thumbnails of photographs took half the time.
    """
    workers = max(cores.usable(), listing.source.readers if isinstance(listing.source, Distant) else 1)

    def attempt(name: str) -> T | _Unread:
        try:
            return work(read(name))
        except Unreadable as error:
            return _Unread(str(error))

    def work_on(names: Sequence[str]) -> list[U | str]:
        found = [attempt(name) for name in names]
        finished = iter(finish([each for each in found if not isinstance(each, _Unread)]))
        return [each.why if isinstance(each, _Unread) else next(finished) for each in found]

    def results() -> Iterator[U | str]:
        total = len(listing.names)
        for done, result in enumerate(_in_order(work_on, listing.names, workers), start=1):
            yield result
            if progress is not None and (done % CHUNK == 0 or done == total):
                progress(done, total, what)

    with decode.quiet(), listing.source.open() as read:
        yield results()


@dataclass(frozen=True)
class _Unread:
    why: str


def _in_order(work_on: Callable[[Sequence[str]], list[T]], names: Sequence[str], workers: int) -> Iterator[T]:
    """What `work_on` gives for the names of each chunk, one after the other.

    In threads, because Pillow decodes without the interpreter's lock: on two cores photographs of 500 x 375 came at 630
    a second (330 in one thread, 420 in two processes, which must send the pixels); images of 64 x 64 at 5,000 (9,000,
    8,700).
    """
    chunks = iter([names[i : i + CHUNK] for i in range(0, len(names), CHUNK)])
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        ahead: deque[Future[list[T]]] = deque()
        try:
            ahead.extend(pool.submit(work_on, chunk) for chunk in islice(chunks, 2 * workers))
            while ahead:
                yield from ahead.popleft().result()
                ahead.extend(pool.submit(work_on, chunk) for chunk in islice(chunks, 1))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
