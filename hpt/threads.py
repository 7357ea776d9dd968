"""Parts of a batch in several threads, each on a core of its own.

PyTorch divides each operation among its threads, which meet after every one of them. Beside other work whoever waits
for the others waits for a core then, and a view has some 150 small operations: 256 views of 112 px (flowers of 500
px, two cores that others used) took 1,154 ms so, and 540 ms in parts whose threads meet once (medians of 12 rounds in
turn).
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


def in_parts(work: Callable[[slice], None], rows: int, most: int) -> None:
    """Call `work` with slices of so many rows, of at most `most` each, in as many threads as PyTorch has here.

    Raises:
        Whatever `work` raises.
    """
    threads = torch.get_num_threads()  # one within a part, which is so not divided again
    size = max(min(most, -(-rows // threads)), 1)
    parts = [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
    if threads == 1 or len(parts) == 1:
        for part in parts:
            work(part)
        return
    for _ in _pool(threads, os.getpid()).map(work, parts):
        pass


@functools.lru_cache(maxsize=1)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads each of which computes alone; of this process, since a fork takes none along."""
    here = torch.get_num_threads()
    pool, all_there = ThreadPoolExecutor(threads, "parts", _alone), threading.Barrier(threads)
    for _ in pool.map(lambda _: all_there.wait(), range(threads)):  # else the last would come when it is needed
        pass
    torch.set_num_threads(here)  # what threads that start later begin with, such as the feed's
    return pool


def _alone() -> None:
    torch.get_num_threads()  # a thread takes over the number of all when it first asks, and would do so later
    torch.set_num_threads(1)
