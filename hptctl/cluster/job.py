"""What a job executes on its node: a command of this program, which saves when the cluster says so, and goes on later.

submitit keeps a `Command` beside the job and calls it on the node. When SIGUSR1 comes, some time before the job's limit
or a preemption, submitit calls `Command.checkpoint`, writes down what that returns, and puts the job back into the
queue (`scontrol requeue`). A preemption with a time of grace sends SIGTERM, to the command too: once that has saved,
the job takes it for the warning. A job that is put back or killed without one starts with the same command, which goes
on from the run's last checkpoint.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpt.errors import TIME_IS_UP, TIME_IS_UP_CODE
from hptctl import deadline, runs
from hptctl.cluster.schedulers import Away, Slurm
from hptctl.runs import Run
from hptctl.runs.children import safe_path
from hptctl.runs.signals import COMMAND_VARIABLE, time_signal_blocked
from hptctl.runs.weights import saved_steps

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

TICK_SECONDS = 0.1
SIGTERM_CODE = 128 + signal.SIGTERM
"""The exit code of a command that saved when SIGTERM came."""

Mark = tuple[int, int]
"""How far a run is: trials that are done, and steps that are saved."""


def _still_runs() -> bool:
    """Whether Slurm counts this job as running: not one that was cancelled, or that Slurm puts back by itself."""
    from submitit import JobEnvironment

    here = JobEnvironment()
    if here.cluster != Slurm.name:
        return False
    try:
        place = Slurm().queue([here.job_id]).get(here.job_id)
    except Away:
        return False
    return place is not None and place.state == "RUNNING"


def mark(run: Run) -> Mark:
    """How far a run is, or a sweep with its trials."""
    if not (run.path / "run.json").exists():
        return 0, 0
    is_sweep = run.spec().kind == "sweep"
    each = [trial for trial in runs.all_runs() if trial.spec().parent == run.name] if is_sweep else [run]
    return sum(one.status().state == "finished" for one in each), sum(map(saved_steps, each))


@dataclass
class Command:
    """`python -m WORDS` in the working folder."""

    words: Sequence[str]
    """A module, and its arguments."""
    folder: str
    """The working folder, which the node has to see."""
    run: str
    """The folder of the run that it works on, in the working folder."""
    minutes: int
    """The job's limit."""
    cpus: int | None = None
    """The cores that were asked for."""
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _began: float = field(default=0.0, init=False)
    _before: Mark = field(default=(0, 0), init=False)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_process": None}

    def __call__(self) -> None:
        """Do it.

        Raises:
            ChildProcessError: it ended with another exit code than 0, which makes the job one that failed.
        """
        os.chdir(self.folder)
        self._began, self._before = time.monotonic(), mark(Run(Path(self.run)))
        with time_signal_blocked():  # what comes while it is started is for it, too
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self.words], stdin=subprocess.DEVNULL, env=self._environment()
            )
        code = self._wait(self._process)
        if code == SIGTERM_CODE and _still_runs():
            os.kill(os.getpid(), TIME_IS_UP)
        if code:
            raise ChildProcessError(f"`{' '.join(self.words)}` ended with exit code {code}")

    def checkpoint(self) -> DelayedSubmission | None:
        """Have the command save; what the job is to do when it starts again, or None where it would get nowhere.

        What saves nothing within a whole job, since its limit is too short for it, would never end.
        """
        from submitit.core.utils import DelayedSubmission

        if self._process is not None:
            self._process.send_signal(TIME_IS_UP)
            code = self._wait(self._process)
            if code == 0:
                sys.exit(0)  # it was nearly done
            whole = time.monotonic() - self._began > self.minutes * 60 / 2
            if code == TIME_IS_UP_CODE and whole and mark(Run(Path(self.run))) == self._before:
                return None
        return DelayedSubmission(Command(self.words, self.folder, self.run, self.minutes, self.cpus))

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        """The exit code. The signal never comes while Python holds the lock of waiting, which its handler takes."""
        while True:
            with time_signal_blocked():
                code = process.poll()
            if code is not None:
                return code
            time.sleep(TICK_SECONDS)

    def _environment(self) -> Mapping[str, str]:
        # The time that was given to the command that sent the job is not the job's.
        inherited = {key: value for key, value in os.environ.items() if key != deadline.VARIABLE}
        own = safe_path() | {COMMAND_VARIABLE: str(os.getpid())}
        cores = int(os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE") or self.cpus or 0)
        if cores and not inherited.get("OMP_NUM_THREADS"):  # a node need not confine a job to its cores
            own["OMP_NUM_THREADS"] = str(max(1, cores // self._beside_each_other()))
        return inherited | own

    def _beside_each_other(self) -> int:
        """The processes that share the job's cores."""
        run = Run(Path(self.run))
        config = run.spec().config if (run.path / "run.json").exists() else {}
        return int(config.get("processes") or config.get("workers") or 1)
