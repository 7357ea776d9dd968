"""Ctrl-C, SIGTERM and a lost terminal end a command; inside a training loop they ask for a checkpoint first.

SIGUSR1, which Slurm sends some time before a job's limit (`--signal=USR1@90`), does the same as a time that is over.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from hpt.errors import TIME_IS_UP, Interrupted
from hptctl.ending import SIGNALS

COMMAND_VARIABLE = "HPTCTL_COMMAND"
"""Environment variable of a process that a command started: the number of the command's process."""


def raise_on_signals() -> None:
    """From now on a signal raises Interrupted, which the error boundary turns into a line and an exit code."""
    for number in SIGNALS:
        signal.signal(number, _raise)
    _unblock()


def _unblock() -> None:
    """Take SIGUSR1 again, in a child that `time_signal_blocked` has made."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {TIME_IS_UP})


@contextmanager
def time_signal_blocked() -> Iterator[None]:
    """A block in which SIGUSR1 waits, and whose child processes it does not reach until they take it themselves.

    Slurm sends it to every process of a job, and would end a launcher that knows nothing of it.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {TIME_IS_UP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Pending:
    """The signal that came, or 0. A second one does not wait: it raises Interrupted, but never inside `undivided`.
    SIGUSR1, a notice of what is to come, makes no other signal a second one, and is none itself.

    In a process that a command started a second one changes nothing: schedulers send SIGTERM to every process of a job,
    and the command passes its own on. It is the command that loses patience, and kills.
    """

    def __init__(self) -> None:
        self.number = 0
        self._undivided = False
        self._late: int | None = None

    def __call__(self) -> int:
        return self.number

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler of a signal."""
        if self.number in (0, TIME_IS_UP):
            self.number = number
        elif number == TIME_IS_UP or COMMAND_VARIABLE in os.environ:
            return
        elif self._undivided:
            self._late = number
        else:
            _raise(number, frame)

    @contextmanager
    def undivided(self) -> Iterator[None]:
        """A block that a second signal does not break into: it is raised at the end.

        A process that has begun, but whose number nobody has written down yet, would be left behind.
        """
        self._undivided = True
        try:
            yield
        finally:
            self._undivided = False
        if self._late is not None:
            _raise(self._late, None)


@contextmanager
def held_back() -> Iterator[Pending]:
    """A block inside which a signal is noted, not raised."""
    pending = Pending()
    before = {number: signal.signal(number, pending.note) for number in SIGNALS}
    _unblock()
    try:
        yield pending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number, f"stopped by {signal.Signals(number).name}")
