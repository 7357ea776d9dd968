"""Charts drawn beside the rest of a report: they are half of its time, and a page of many needs more than one core.

A chart is ordered where it is known (`draw`) and fetched where the page says it: by then another process may have
drawn it. What that one has not begun is drawn by who fetches it, so both are at work until the end.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

from markupsafe import Markup

from hpt import cores

MOST = 3
"""Most processes beside this one; each takes a second to start."""
WORTHWHILE = 30
"""Charts that pay for one such process: they take as long as its start."""
_pool: ProcessPoolExecutor | None = None


class Drawing:
    """A chart that was ordered; a template fetches it."""

    def __init__(self, chart: Callable[[], Markup]) -> None:
        self._chart = chart
        self._beside: Future[Markup] | None = None
        if _pool is not None:
            with suppress(BrokenProcessPool):  # killed, perhaps for lack of memory
                self._beside = _pool.submit(chart)

    def __html__(self) -> str:
        if self._beside is not None and not self._beside.cancel():
            with suppress(BrokenProcessPool):
                return self._beside.result()
        return self._chart()


@dataclass(frozen=True)
class Chart:
    """A drawing with its caption."""

    svg: Drawing
    caption: str


def draw(chart: Callable[..., Markup], *arguments: object, **options: object) -> Drawing:
    """Order a chart: a function of `hptctl.charts` that draws one, and what it draws."""
    return Drawing(partial(chart, *arguments, **options))


@contextmanager
def beside(charts: int) -> Iterator[None]:
    """Draw what is ordered in this block in other processes too, where cores are free and the number of charts expected
    makes it worthwhile."""
    global _pool
    others = min(cores.usable() - 1, MOST, charts // WORTHWHILE)
    if not others:
        yield
        return
    # Not forked: a lock that a thread of a numerical library holds at the fork would never be released.
    pool = ProcessPoolExecutor(others, mp_context=get_context("spawn"), initializer=_begin)
    _pool = pool
    try:
        yield
    finally:
        _pool = None
        pool.shutdown(wait=False, cancel_futures=True)


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command itself answers Ctrl-C
