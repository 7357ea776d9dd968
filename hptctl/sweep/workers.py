"""The workers of a sweep on this machine: started while trials wait for one, their trials given back when they die."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from hpt.errors import TIME_IS_UP_CODE, HptError, RunError
from hptctl import console
from hptctl.runs import Run
from hptctl.runs.children import Child, Children, share
from hptctl.sweep.queue import Queue, Trial
from hptctl.sweep.storage import STORAGE_VARIABLE

DEADLINE_VARIABLE = "HPTCTL_SWEEP_DEADLINE"
"""Environment variable of a worker: seconds since 1970 after which it begins no trial."""
CRASHES = 3
"""Workers that may end before they do a trial; after that the fault is not a trial's."""


class Workers:
    """Processes that each do one trial after the other."""

    def __init__(self, sweep: Run, queue: Queue, children: Children, deadline: float | None) -> None:
        """`deadline`, in seconds since 1970, is when the last trial may begin."""
        self.sweep, self.queue, self.children, self.deadline = sweep, queue, children, deadline
        self.crashes = 0
        self.time_is_up = False
        """Whether one has found too little of the time left (`--for`) for a trial."""

    def start(self, wanted: int) -> None:
        """Start workers where there is a slot, until as many run as are wanted."""
        for slot in self.children.free():
            if len(self.children.running) < wanted:
                self._start(slot)

    def _start(self, slot: int) -> None:
        environment = share(slot, self.children.slots)
        if self.queue.url is not None:  # not among the arguments, which everybody can read
            environment[STORAGE_VARIABLE] = self.queue.url
        if self.deadline is not None:
            environment[DEADLINE_VARIABLE] = str(self.deadline)
        number = _number(slot)
        command = [sys.executable, "-m", "hptctl.sweep.worker", str(self.sweep.path), str(number)]
        self.children.start(slot, command, self._log_of(number), environment)

    def _log_of(self, number: int) -> Path:
        return self.sweep.path / f"worker-{socket.gethostname()}-{number}.log"

    def see_off(self, ended: Sequence[Child]) -> None:
        """Give back the trials that workers held when they ended.

        Raises:
            RunError, HptError: they end before they do any trial.
        """
        for child in ended:
            if self.children.stop():  # one that died of the signal gave nothing back
                self._give_back(child)
            elif child.process.returncode == TIME_IS_UP_CODE:
                self.time_is_up = True
                self._give_back(child)  # it did so itself, unless the storage was away
            elif child.process.returncode:
                self._mourn(child)

    def _mourn(self, child: Child) -> None:
        """A worker ended that should not have."""
        held = self._held_by(child)
        for trial in held:
            said = self.queue.give_back(trial.number, death=f"it {child.ending}")
            console.warn(f"worker {_number(child.slot)} {child.ending}: {said}")
        if held:
            return
        self.crashes += 1
        to_mend = child.process.returncode == RunError.exit_code  # by the user
        if not to_mend and self.crashes < CRASHES:
            return
        for other in self.children.terminate():
            self._give_back(other)
        why = child.last_line().removeprefix("error: ")
        if to_mend:
            raise RunError(why)
        raise HptError(f"its workers end before they do anything (the last {child.ending}): {why}", f"see {child.log}")

    def _give_back(self, child: Child) -> None:
        for trial in self._held_by(child):
            self.queue.give_back(trial.number)

    def _held_by(self, child: Child) -> list[Trial]:
        """The trial that a worker of ours had claimed when it ended."""
        host = f"{socket.gethostname()}/"
        running = [trial for trial in self.queue.trials() if trial.state == "running"]
        return [trial for trial in running if trial.pid == child.process.pid and trial.worker.startswith(host)]


def _number(slot: int) -> int:
    """By which a worker is called: people count from one."""
    return slot + 1
