"""Processes that a command starts: in sessions of their own, ended with it, each with its share of the machine.

A terminal's Ctrl-C reaches the command alone, which asks its children to end (SIGTERM), so that they save what they
have, and kills those that take too long. Nothing is left behind:

    a signal that comes while a child is being started      waits until the child is written down
    a second signal, an error of the command                kills the children and what they started
    SIGKILL of the command, or of a launcher in between     each child asks itself to end (`end_with_command`)
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import IO, Any

from hpt import cores
from hptctl.runs.signals import COMMAND_VARIABLE, Pending, held_back, time_signal_blocked

SHUTDOWN_SECONDS = 120.0
"""What a child that trains gets to save a checkpoint before it is killed: a step on a slow machine, and the write."""
TICK_SECONDS = 0.1
WATCH_SECONDS = 0.5


@dataclass(frozen=True)
class Child:
    """A process that a command started."""

    slot: int
    """Its place among the command's children; another may follow it there."""
    process: subprocess.Popen[bytes]
    log: Path
    """What it writes."""

    @property
    def ending(self) -> str:
        """How it ended, in words behind its name: `was killed by SIGKILL`."""
        code = self.process.returncode
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def last_line(self) -> str:
        """The last line of its log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "it wrote nothing"


class Children:
    """The children of a command; `child_processes` makes them and ends them."""

    def __init__(self, slots: int, patience: float, stop: Pending) -> None:
        self.slots, self.patience = slots, patience
        self.stop = stop
        """The signal that came, or 0."""
        self.running: dict[int, Child] = {}

    def free(self) -> list[int]:
        """The slots in which no child runs."""
        return [slot for slot in range(self.slots) if slot not in self.running]

    def start(
        self,
        slot: int,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str],
        *,
        stdout: IO[Any] | None = None,
    ) -> Child:
        """Start a command in a free slot, with `environment` over this process's; its output goes behind the log's."""
        full = {**os.environ, **safe_path(), **environment, COMMAND_VARIABLE: str(os.getpid())}
        with self.stop.undivided(), time_signal_blocked(), log.open("ab") as file:
            process = subprocess.Popen(
                command, env=full, start_new_session=True, stdin=subprocess.DEVNULL, stdout=stdout or file, stderr=file
            )
            self.running[slot] = Child(slot, process, log)
        return self.running[slot]

    def wait(self, seconds: float = math.inf) -> list[Child]:
        """The children that have ended, as soon as there is one, at the latest after `seconds`; after a signal all of
        them, once they have ended.

        Raises:
            Interrupted: a second signal.
        """
        end = time.monotonic() + seconds
        while not self.stop():
            ended = self._take_ended()
            if ended or time.monotonic() >= end:
                return ended
            time.sleep(TICK_SECONDS)
        return self.terminate()

    def terminate(self) -> list[Child]:
        """Ask every child to end, and kill those that run on after `patience` seconds; all of them.

        Raises:
            Interrupted: a second signal.
        """
        for child in self.running.values():
            child.process.terminate()
        end = time.monotonic() + self.patience
        while any(child.process.poll() is None for child in self.running.values()):
            if time.monotonic() > end:
                self.kill()
            time.sleep(TICK_SECONDS)
        return self._take_ended()

    def kill(self) -> None:
        """Kill every child and what it started."""
        for child in self.running.values():
            if child.process.poll() is None:
                _kill_tree(child.process.pid)
                with suppress(subprocess.TimeoutExpired):  # a device may hold it for a while
                    child.process.wait(timeout=5)

    def _take_ended(self) -> list[Child]:
        ended = [child for child in self.running.values() if child.process.poll() is not None]
        for child in ended:
            del self.running[child.slot]
        return ended


@contextmanager
def child_processes(slots: int = 1, *, patience: float = SHUTDOWN_SECONDS) -> Iterator[Children]:
    """Children, as many at once as there are slots; none runs on after the block, however that ends.

    Inside it a first signal is noted (`stop`), and `wait` passes it on; a second one raises Interrupted. `patience` are
    the seconds between SIGTERM and SIGKILL: of children that have children of their own, more than those have.
    """
    with held_back() as stop:
        children = Children(slots, patience, stop)
        try:
            yield children
        finally:
            with stop.undivided():
                children.kill()


def safe_path() -> dict[str, str]:
    """Environment of a Python that imports nothing from the working folder, as `hptctl` itself: a user's `random.py`
    lies there. Where the program runs from a checkout that is the working folder, its packages are named instead."""
    safe = {"PYTHONSAFEPATH": "1"}
    checkout = Path(__file__).parents[2]
    if checkout == Path.cwd():
        before = os.environ.get("PYTHONPATH")
        safe["PYTHONPATH"] = f"{checkout}{os.pathsep}{before}" if before else str(checkout)
    return safe


def share(slot: int, of: int) -> dict[str, str]:
    """Environment of one of several children: a GPU in turn of those that this process may use, a share of the cores.

    A device keeps the name that `CUDA_VISIBLE_DEVICES` has for it here (`3`, `GPU-8932f937`, `MIG-GPU-8932f937/1/0`).
    """
    gpus = _gpus()
    return threads(of) | ({"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {})


def threads(of: int) -> dict[str, str]:
    """Environment of each of several children that share the cores, unless the user has set the number of threads."""
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, cores.usable() // of))}


def end_with_command() -> None:
    """In a child: from now on SIGTERM comes, as if passed on, when the command that started it has ended without a
    word, or its parent where that is another (the launcher of several processes).

    Nothing happens in a process that no command of ours has started.
    """
    if (command := os.environ.get(COMMAND_VARIABLE)) is not None:
        watch = threading.Thread(target=_watch, args=(int(command), os.getppid()), name="watch", daemon=True)
        watch.start()


def _watch(command: int, parent: int) -> None:
    import psutil

    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(command)
        while os.getppid() == parent and process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(WATCH_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def _gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        names = (name.strip() for name in given.split(","))
        return list(takewhile(lambda name: name and not name.startswith("-"), names))  # -1 hides what follows it
    devices = Path("/dev")
    if not any(next(devices.glob(name), None) for name in ("nvidia[0-9]*", "dxg", "kfd")):  # asking torch costs seconds
        return []
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def terminate_tree(pid: int) -> None:
    """Ask a process and all that it started to end; on Windows, which cannot ask, they are ended."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in (*process.children(recursive=True), process):
            with suppress(psutil.NoSuchProcess):
                each.terminate()


def _kill_tree(pid: int) -> None:
    """Kill a process and all that it started, which may be in sessions of their own."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        process.suspend()  # so that it starts no more while its children are looked up
        for each in process.children():
            _kill_tree(each.pid)
        process.kill()
