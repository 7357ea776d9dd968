"""How threads of parallel regions wait for each other: spinning while cores are theirs, asleep while others need one.

A thread of PyTorch's OpenMP that waits spins for milliseconds. Where it has a core to itself nothing is quicker; where
it has not, it takes the core from whoever has the work that it waits for: beside one busy process on two cores a
ResNet-18 (32 px, fp32) fell to a third and less. So the kernel's count of how long this process's threads were ready to
run and had no core is looked at a few times a second, and decides.

libgomp, which PyTorch's wheels for Linux bring, spins 300,000 times, and 100 times while it has more threads than there
are cores (its manual, GOMP_SPINCOUNT), as it finds at every wait. So a team of idle threads, which sleep, has the
others sleep; and they spin again when it has gone.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

SET_BY_USERS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""The variables with which a user says it himself."""
UNWATCHED = {"GOMP_SPINCOUNT": "2000"}
"""Where the kernel counts no delays: sleeping after some 0.1 ms, which costs a few per cent alone."""
TASKS = Path("/proc/self/task")
PERIOD = 0.25
"""Seconds between two looks."""
NEEDED, FREE = 0.15, 0.05
"""Cores that this process's threads lack on average, from which on they sleep, and below which they spin again."""
MOST = 200
"""A look takes at most one of so many parts of a core, however many threads there are."""
CALM = 8
"""Looks in a row below `FREE` before they spin again."""


def begin() -> None:
    """Have this process's threads wait as the load of the cores asks, unless the user has said how. Before PyTorch is
    loaded, which reads the environment once."""
    if any(os.environ.get(name) for name in SET_BY_USERS):
        return
    if not delays(TASKS):
        os.environ.update(UNWATCHED)
    elif not any(thread.name == Watch.NAME for thread in threading.enumerate()):
        Watch().start()


def delays(tasks: Path) -> Mapping[str, int]:
    """How long each thread was ready to run and had no core, in ns, by its number; none where the kernel does not
    count."""
    found = {}
    with suppress(OSError):
        for task in tasks.iterdir():
            with suppress(OSError, IndexError, ValueError):  # it has ended
                found[task.name] = int((task / "schedstat").read_bytes().split()[1])
    return found


class Watch(threading.Thread):
    """Looks at the delays, and has threads sleep or spin."""

    NAME = "waiting"

    def __init__(self) -> None:
        super().__init__(name=self.NAME, daemon=True)
        self.team: IdleTeam | None = None

    def run(self) -> None:
        """Until the process ends."""
        while "torch._C" not in sys.modules:
            time.sleep(PERIOD)
        if (library := loaded_libgomp()) is None:
            return
        before, then, calm = delays(TASKS), time.perf_counter(), 0
        cost = 0.0
        while True:
            time.sleep(max(PERIOD, MOST * cost))
            now = time.perf_counter()
            after = delays(TASKS)
            cost = time.perf_counter() - now
            lacking = sum(after[each] - before.get(each, 0) for each in after) / (now - then) / 1e9
            before, then = after, now
            calm = calm + 1 if lacking < FREE else 0
            if self.team is None and lacking > NEEDED:
                self.team = IdleTeam(library)
            elif self.team is not None and calm >= CALM:
                self.team.end()
                self.team = None


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
    with suppress(OSError):
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape")
        found = set(re.findall(r"/\S*/libgomp\S*", maps))
        its = [path for path in found if "/torch" in path] or [path for path in found if ".libs/" not in path]
        if its:
            return ctypes.CDLL(its[0])
    return None
