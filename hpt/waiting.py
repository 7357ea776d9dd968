"""How threads of parallel regions wait for each other: spinning, or asleep while others keep the cores busy.

A thread of PyTorch's OpenMP that waits spins for milliseconds. Where it has a core to itself nothing is quicker, nor
where others need a core now and then. Where they always do, it takes the core from whoever has the work that it waits
for: beside one busy process on two cores a ResNet-18 (32 px, fp32) fell to 0.3 of its speed, and to 0.5 asleep; beside
one that was busy for 70 ms of 100 it was quicker spinning. So the kernel's count of how long this process's threads
ran, and of how long they could have and had no core, is looked at twice a second, and decides.

libgomp, which PyTorch's wheels for Linux bring, spins 300,000 times, and 100 times while it has more threads than there
are cores (its manual, GOMP_SPINCOUNT), as it finds at every wait. So a team of idle threads, which sleep, has the
others sleep; and they spin again when it has gone.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes

SET_BY_USERS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""The variables with which a user says it himself."""
UNWATCHED = {"GOMP_SPINCOUNT": "2000"}
"""Where the kernel counts no delays: sleeping after some 0.1 ms, which costs a few per cent alone."""
TASKS = Path("/proc/self/task")
PERIOD = 0.5
"""Seconds between two looks."""
NEEDED, FREE = 0.28, 0.2
"""The share of the time that threads wanted to run in which they had no core: from the first on they sleep, below the
second they spin again. On two cores, spinning, it was 0.01 alone, 0.19 beside 70 ms of 100, and 0.35 beside all."""
WORKING = 0.5
"""Cores that the threads must want: the share of less says nothing."""
MOST = 200
"""A look takes at most one of so many parts of a core, however many threads there are."""
CALM = 3
"""Looks in a row below `FREE` before they spin again."""


def begin() -> None:
    """Have this process's threads wait as the load of the cores asks, unless the user has said how. Before PyTorch is
    loaded, which reads the environment once."""
    if any(os.environ.get(name) for name in SET_BY_USERS):
        return
    if not clocks(TASKS):
        os.environ.update(UNWATCHED)
    elif not any(thread.name == Watch.NAME for thread in threading.enumerate()):
        Watch().start()


def clocks(tasks: Path) -> Mapping[str, tuple[int, int]]:
    """How long each thread has run, and how long it could have and had no core, in ns, by its number; none where the
    kernel does not count."""
    found = {}
    with suppress(OSError):
        for task in tasks.iterdir():
            with suppress(OSError, ValueError):  # it has ended
                ran, lacked, _ = map(int, (task / "schedstat").read_bytes().split())
                found[task.name] = ran, lacked
    return found


class Watch(threading.Thread):
    """Looks at the clocks, and has threads sleep or spin."""

    NAME = "waiting"

    def __init__(self) -> None:
        super().__init__(name=self.NAME, daemon=True)
        self.team: IdleTeam | None = None

    def run(self) -> None:
        """Until the process ends, where its regions have several threads."""
        while "torch._C" not in sys.modules:
            time.sleep(PERIOD)
        if (library := loaded_libgomp()) is None or library.omp_get_max_threads() == 1:
            return
        before, then, calm, cost = clocks(TASKS), time.perf_counter(), 0, 0.0
        while True:
            time.sleep(max(PERIOD, MOST * cost))
            now = time.perf_counter()
            after = clocks(TASKS)
            cost = time.perf_counter() - now
            lacking = _lacking(before, after, now - then)
            before, then = after, now
            calm = calm + 1 if lacking < FREE else 0
            if self.team is None and lacking > NEEDED:
                self.team = IdleTeam(library)
            elif self.team is not None and calm >= CALM:
                self.team.end()
                self.team = None


def _lacking(before: Mapping[str, tuple[int, int]], after: Mapping[str, tuple[int, int]], seconds: float) -> float:
    """The share of what threads wanted to run that they had no core for; 0 where they wanted little."""
    ran, lacked = 0, 0
    for each, (its_run, its_lack) in after.items():
        old_run, old_lack = before.get(each, (0, 0))
        ran, lacked = ran + its_run - old_run, lacked + its_lack - old_lack
    wanted = ran + lacked
    return lacked / wanted if wanted > WORKING * seconds * 1e9 else 0.0


class IdleTeam:
    """So many threads, asleep, that with the others they are one more than the cores: as long as they are there, no
    thread of libgomp spins for long."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._hold, name="idle team", daemon=True)
        self._thread.start()

    def _hold(self) -> None:
        """The thread that leads a team keeps it until it ends."""
        import ctypes

        cores, others = self._library.omp_get_num_procs(), self._library.omp_get_max_threads()
        threads = max(2, cores - others + 2)  # this one is not counted
        nothing = ctypes.cast(self._library.omp_get_thread_num, ctypes.c_void_p)  # which each of them calls once
        self._library.GOMP_parallel(nothing, None, threads, 0)
        self._ended.wait()

    def end(self) -> None:
        """Let the threads go."""
        self._ended.set()
        self._thread.join()


def loaded_libgomp() -> ctypes.CDLL | None:
    """The library that PyTorch has loaded: its own, or else the system's, but not what another package has brought;
    None where it has another OpenMP."""
    import ctypes

    with suppress(OSError):
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape")
        found = sorted(set(re.findall(r"/.*/libgomp.*", maps)))
        its = [path for path in found if "/torch" in path] or [path for path in found if ".libs/" not in path]
        if its:
            return ctypes.CDLL(its[0])
    return None
