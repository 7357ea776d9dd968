"""Who runs jobs: Slurm, or this machine, to try the settings of a cluster out without one."""

from __future__ import annotations

import io
import logging
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hpt import cores
from hpt.errors import ConfigError, HptError
from hptctl.cluster.settings import Cluster, unknown
from hptctl.runs.children import SHUTDOWN_SECONDS, safe_path

if TYPE_CHECKING:
    import submitit

ANSWER_SECONDS = 60.0
"""Seconds that Slurm gets to answer."""
TIMEOUTS = 1_000
"""How often submitit may put a job back that came to its limit: what gets nowhere ends by itself (`job.Command`)."""


class Away(HptError):
    """The queue does not answer: nothing is known of the jobs."""


@dataclass(frozen=True)
class Place:
    """Where a job is in the queue."""

    state: str
    """In Slurm's words: PENDING, RUNNING, COMPLETING, ..."""
    reason: str = ""
    """Why it waits, in Slurm's words."""
    node: str = ""
    """What it runs on."""
    seconds: float = 0.0
    """Since when it runs."""
    name: str = ""
    """What its array is called."""

    @property
    def waits(self) -> bool:
        return not self.node


class Scheduler(Protocol):
    """Runs jobs."""

    name: str
    """As `--on` takes it."""
    look_seconds: float
    """Seconds between two questions to the queue."""
    gone_seconds: float
    """Seconds for which a job has to be out of the queue before it counts as gone: what it wrote last may come late to
    another machine of a shared folder."""

    def check(self) -> None:
        """Raises:
        ConfigError: it is not here."""

    def reach(self) -> None:
        """Raises:
        ConfigError: it is installed here, and does not answer.
        """

    def executor(self, folder: Path, cluster: Cluster, name: str) -> submitit.AutoExecutor:
        """What sends jobs, all of them called `name`, and keeps their files in `folder`."""

    def queue(self, ids: Collection[str]) -> dict[str, Place]:
        """The jobs that wait or run, by their ids, those of `ids` among them.

        Raises:
            Away: it does not answer.
        """

    def ending(self, id: str) -> str:
        """How a job that is gone ended, as far as that is known: `NODE_FAIL on n1`."""

    def keep(self, jobs: Sequence[submitit.Job[None]]) -> None:
        """Take note of jobs that were sent."""

    def room(self, cluster: Cluster, active: int) -> int:
        """How many jobs may be sent beside those that wait or run."""

    def words_to_end(self, ids: Sequence[str]) -> str:
        """The command that ends jobs."""


class Slurm:
    """Slurm, through submitit, squeue and scontrol."""

    name = "slurm"
    look_seconds = 15.0
    gone_seconds = 10.0

    def check(self) -> None:
        for tool in ("sbatch", "srun", "squeue", "scontrol"):  # submitit starts what runs on the node by srun
            if shutil.which(tool) is None:
                raise ConfigError(
                    f"there is no {tool} on this machine, so no Slurm to send jobs to",
                    "give the command on a login node, or try the settings out with --on local",
                )

    def reach(self) -> None:
        try:
            _asked(["scontrol", "ping"])
        except Away as error:
            raise ConfigError(
                f"no Slurm to send jobs to can be reached from this machine: {error}",
                "give the command where `scontrol ping` says UP (a login node, or one whose SLURM_CONF names the"
                " cluster's slurm.conf), or try the settings out with --on local",
            ) from None

    def executor(self, folder: Path, cluster: Cluster, name: str) -> submitit.AutoExecutor:
        executor = _executor(folder, self.name)
        # Whatever of the environment a site hands on to jobs, these have to come.
        exports = [f"export {key}={shlex.quote(value)}" for key, value in _for_submitit().items()]
        executor.update_parameters(
            name=name,
            timeout_min=cluster.minutes,
            cpus_per_task=cluster.cpus,
            gpus_per_node=cluster.gpus or None,
            slurm_partition=cluster.partition,
            slurm_account=cluster.account,
            slurm_qos=cluster.qos,
            slurm_mem=cluster.mem,
            slurm_array_parallelism=cluster.array_parallelism,
            slurm_setup=[*exports, *cluster.setup],
            slurm_signal_delay_s=_notice(cluster),
            slurm_stderr_to_stdout=True,
            slurm_additional_parameters=({} if "no-requeue" in cluster.sbatch else {"requeue": True})
            | {key: value for key, value in cluster.sbatch.items() if value is not False},
        )
        return executor

    def queue(self, ids: Collection[str]) -> dict[str, Place]:
        command = ["squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%i|%T|%r|%N|%M|%j"]
        found = {}
        for line in _asked(command).splitlines():
            id, state, reason, node, ran, name = line.strip().split("|", 5)
            said = "" if reason == "None" else reason
            found[id] = Place(state, said, node, _seconds(ran), name)
        return found

    def ending(self, id: str) -> str:
        with suppress(Away):  # known for some minutes, without accounting
            said = dict(re.findall(r"(\w+)=(\S*)", _asked(["scontrol", "--oneliner", "show", "job", id])))
            code, _, number = said.get("ExitCode", "0:0").partition(":")
            return _in_words(said.get("JobState", ""), said.get("NodeList", ""), int(code or 0), int(number or 0))
        with suppress(Away):
            lines = _asked(["sacct", "-X", "-n", "-P", "-j", id, "-o", "State,NodeList"]).splitlines()
            if lines:
                state, _, node = lines[-1].partition("|")
                return _in_words(state, node, 0, 0)
        return ""

    def keep(self, jobs: Sequence[submitit.Job[None]]) -> None:
        pass

    def room(self, cluster: Cluster, active: int) -> int:
        return 500  # an array may have 1,000 jobs on most clusters; what comes later is an array of its own

    def words_to_end(self, ids: Sequence[str]) -> str:
        return f"scancel {' '.join(dict.fromkeys(id.partition('_')[0] for id in ids))}"


class Local:
    """This machine, whose jobs are processes: to try out what is asked of a cluster."""

    name = "local"
    look_seconds = 0.5
    gone_seconds = 0.5

    def __init__(self) -> None:
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        """Those that this process has started."""

    def check(self) -> None:
        pass

    def reach(self) -> None:
        pass

    def executor(self, folder: Path, cluster: Cluster, name: str) -> submitit.AutoExecutor:
        executor = _executor(folder, self.name)
        executor.update_parameters(
            name=name,
            timeout_min=cluster.minutes,
            gpus_per_node=cluster.gpus,
            local_setup=list(cluster.setup),
            stderr_to_stdout=True,
        )
        return executor

    def queue(self, ids: Collection[str]) -> dict[str, Place]:
        import psutil

        for own in self.processes.values():
            own.poll()  # takes its exit code, without which its number would stay
        found = {}
        for id in ids:
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(int(id))
                if "submitit.local._local" in " ".join(process.cmdline()) and process.status() != "zombie":
                    since = time.time() - process.create_time()
                    found[id] = Place("RUNNING", node=socket.gethostname(), seconds=since)
        return found

    def keep(self, jobs: Sequence[submitit.Job[None]]) -> None:
        self.processes |= {job.job_id: process for job in jobs if (process := getattr(job, "_process", None))}

    def ending(self, id: str) -> str:
        process = self.processes.get(id)
        code = process.returncode if process is not None else None
        return f"exit code {code}" if code else ""

    def room(self, cluster: Cluster, active: int) -> int:
        return (cluster.array_parallelism or max(1, cores.usable() // 2)) - active

    def words_to_end(self, ids: Sequence[str]) -> str:
        return f"kill {' '.join(ids)}"


KNOWN: dict[str, type[Scheduler]] = {"slurm": Slurm, "local": Local}


def scheduler(name: str) -> Scheduler:
    """Who `--on` names.

    Raises:
        ConfigError: nobody, or one who is not here.
    """
    if name not in KNOWN:
        raise unknown(name, KNOWN)
    found = KNOWN[name]()
    found.check()
    return found


def reached(name: str) -> Scheduler:
    """Who `--on` names, once it has answered: before anything is made for jobs.

    Raises:
        ConfigError: nobody, one who is not here, or one who does not answer.
    """
    found = scheduler(name)
    found.reach()
    return found


@contextmanager
def sending() -> Iterator[None]:
    """A block that sends jobs. A terminal's Ctrl-C waits, which would reach sbatch, and jobs of this machine, too.

    Raises:
        ConfigError: sbatch's own words, in one line, where it refuses them.
    """
    os.environ.update(_for_submitit())
    from submitit.core.utils import FailedJobError

    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with redirect_stderr(io.StringIO()):  # it prints what it raises
            yield
    except FailedJobError as error:
        said = [line.removeprefix("sbatch: ").removeprefix("error: ").strip() for line in str(error).splitlines()]
        words = "; ".join(dict.fromkeys(filter(None, said))) or "it gave no reason"
        raise ConfigError(f"sbatch refuses the jobs: {words}", "mend [cluster], or --cluster") from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _executor(folder: Path, name: str) -> submitit.AutoExecutor:
    os.environ.update(_for_submitit())  # read as submitit is imported, and inherited by processes of this machine
    import submitit

    logging.getLogger("submitit").setLevel(logging.CRITICAL)
    return submitit.AutoExecutor(folder, cluster=name, **{f"{name}_max_num_timeout": TIMEOUTS})


def _for_submitit() -> dict[str, str]:
    return {"SUBMITIT_PREEMPT_SIGNAL": "USR1"} | safe_path()


def _notice(cluster: Cluster) -> int:
    """Seconds before its limit at which a job is told to save."""
    return min(round(SHUTDOWN_SECONDS), cluster.minutes * 60 // 2)


def _asked(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=ANSWER_SECONDS, start_new_session=True, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Away(f"{command[0]} does not answer: {error}") from None
    if done.returncode:
        said = [*done.stdout.strip().splitlines()[:1], *done.stderr.strip().splitlines()[-1:]]
        raise Away(f"{command[0]} does not answer: {said[-1] if said else f'exit code {done.returncode}'}")
    return done.stdout


def _seconds(text: str) -> float:
    """Of Slurm's `1-02:03:04`, `02:03:04` or `03:04`; 0 of what is none, as of a job that has not begun."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    parts = match.groups() if match is not None else ()
    return float(sum(int(part or 0) * unit for part, unit in zip(parts, (86_400, 3_600, 60, 1), strict=False)))


def _in_words(state: str, node: str, code: int, number: int) -> str:
    how = f" (signal {number})" if number else f" (exit code {code})" if code else ""
    where = f" on {node}" if node and node != "(null)" else ""
    return f"{state}{where}{how}"
