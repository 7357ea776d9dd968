"""The jobs that were sent for the runs of a folder: written down there before they are sent, found again whoever asks.

    runs/mine/jobs/jobs.json      the newest job of each run
    runs/mine/jobs/17_3_0_log.out what a job wrote, its starts one after the other

A command that sends jobs may be ended at any time. What it was about to send is written down under a name that the
queue keeps, so that the next command tells jobs that were sent from those that were not, and sends none twice.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hpt.errors import ConfigError, RunError
from hpt.files import write_text
from hptctl import console
from hptctl.cluster.job import Command, Mark, mark
from hptctl.cluster.schedulers import Away, Place, Scheduler, sending
from hptctl.cluster.settings import Cluster
from hptctl.runs import Busy, Run, launch

FOLDER = "jobs"
"""In the folder of a study or run."""
LOST = 3
"""Jobs in a row that may be lost without anything saved, before the run counts as failed."""


@dataclass(frozen=True)
class Task:
    """A run that a job does."""

    run: Run
    words: tuple[str, ...]
    """What the job executes: a module, and its arguments."""

    @property
    def key(self) -> str:
        """The run's folder, in the working folder."""
        return self.run.path.as_posix()


def task_of(run: Run, *more: str) -> Task:
    """The task of a run whose folder is made; `more` are options of the command that goes on with it."""
    return Task(run, ("hptctl", *launch.resume_words(run), *more))


@dataclass(frozen=True)
class Job:
    """A job, as it is written down."""

    run: str
    """The folder of the run that it does."""
    words: tuple[str, ...]
    on: str
    """Who runs it, as `--on` takes it."""
    name: str
    """By which the queue knows its array."""
    index: int
    """Its place in the array."""
    many: int
    """The jobs of the array; a single one is none."""
    id: str | None
    """None for one that was about to be sent."""
    sent: float
    """Seconds since 1970."""
    mark: Mark
    """How far the run was."""
    fruitless: int = 0
    """Jobs in a row before it that were lost with nothing saved."""

    @property
    def task(self) -> Task:
        return Task(Run(Path(self.run)), self.words)


@dataclass(frozen=True)
class Ended:
    """A task that is over."""

    key: str
    why: str
    """Why it failed; empty where it is done."""
    user: bool = False
    """Whether the user has to mend it."""


class Jobs:
    """The jobs of a folder."""

    def __init__(self, folder: Path, scheduler: Scheduler, cluster: Cluster) -> None:
        """`folder` is that of the study or run that they belong to."""
        self.folder, self.scheduler, self.cluster = folder / FOLDER, scheduler, cluster
        self.places: dict[str, Place] = {}
        """Where the jobs are in the queue, by the run that each does."""
        self._known = {job.run: job for job in remembered(folder) if job.on == scheduler.name}
        self._gone: dict[str, float] = {}
        self._looked = -1e9
        self._away = ""

    def __contains__(self, key: str) -> bool:
        """Whether a task's job was sent, and is not known to be over."""
        return key in self._known

    def __getitem__(self, key: str) -> Job:
        return self._known[key]

    @property
    def room(self) -> int:
        """How many jobs may be sent now."""
        return max(0, self.scheduler.room(self.cluster, len(self._known)))

    def send(self, tasks: Sequence[Task], *, fruitless: int = 0) -> None:
        """Send jobs, as one array where there are several.

        Raises:
            ConfigError: the cluster refuses them. Busy: somebody works on one of the runs.
        """
        if not tasks:
            return
        self.folder.mkdir(exist_ok=True)
        for task in tasks:
            with task.run.working():  # a failure of before is not that of this job
                task.run.write_status(state="created", reason="", exit_code=0)
        name, now = f"hptctl-{self.folder.parent.name}-{uuid.uuid4().hex[:8]}", time.time()
        made = [
            Job(each.key, each.words, self.scheduler.name, name, i, len(tasks), None, now, mark(each.run), fruitless)
            for i, each in enumerate(tasks)
        ]
        self._known |= {job.run: job for job in made}
        self._write()
        before = {*self.folder.iterdir()}
        try:
            with sending():
                executor = self.scheduler.executor(self.folder, self.cluster, name)
                sent = executor.submit_array([self._command(task) for task in tasks])
        except ConfigError:
            for job in made:
                del self._known[job.run]
            self._write()
            for left in {*self.folder.iterdir()} - before:
                left.unlink()
            raise
        self.scheduler.keep(sent)
        self._known |= {job.run: replace(job, id=str(own.job_id)) for job, own in zip(made, sent, strict=True)}
        self._write()

    def _command(self, task: Task) -> Command:
        return Command(task.words, str(Path.cwd()), task.key, self.cluster.minutes, self.cluster.cpus)

    def look(self, *, idly: bool = False) -> None:
        """Ask the queue where the jobs are, unless that was just done; nothing is known while it does not answer.

        Who looks `idly` writes nothing: another command may be sending jobs.
        """
        if time.monotonic() - self._looked < self.scheduler.look_seconds:
            return
        self._looked = time.monotonic()
        try:
            queue = self.scheduler.queue([job.id for job in self._known.values() if job.id is not None])
        except Away as error:
            if self._away != str(error):
                console.warn(f"{error}; the jobs go on, and it is asked again")
            self._away = str(error)
            return
        self._away = ""
        if not idly:
            self._recover(queue)
        self.places = {key: queue[job.id] for key, job in self._known.items() if job.id in queue and job.id is not None}
        for key in self._known:
            if key in self.places:
                self._gone.pop(key, None)
            else:
                self._gone.setdefault(key, self._looked)

    def ended(self) -> Iterator[Ended]:
        """The tasks that are over since it was asked last. A job that was lost is sent again: its run goes on."""
        for key, job in [*self._known.items()]:
            run = job.task.run
            state = run.status().state
            gone = key in self._gone and self._looked - self._gone[key] >= self.scheduler.gone_seconds
            if state == "finished":
                self._forget(key)
                yield Ended(key, "")
            elif gone and state == "failed":
                status = run.status()
                self._forget(key)
                yield Ended(key, status.reason, user=status.exit_code == RunError.exit_code)
            elif gone and (over := self._take_up(job)) is not None:
                self._forget(key)
                yield over

    def _take_up(self, job: Job) -> Ended | None:
        """Send the task of a job that was lost once more; the end of it where that is no use."""
        run, how = job.task.run, self.scheduler.ending(job.id) if job.id is not None else ""
        if not self._released(run):
            return None
        how, log = how or "it left the queue without a word", self.log(job)
        if run.status().state == "created" and log is None and how.startswith(("FAILED", "it left", "exit code")):
            said = f"job {job.id} ended before it wrote anything ({how}): its node seems not to see {Path.cwd()}"
            return Ended(job.run, f"{said}; work in a folder that this machine shares with the nodes", user=True)
        fruitless = job.fruitless + 1 if mark(run) == tuple(job.mark) else 0
        if fruitless >= LOST:
            last = _last_line(log) if run.status().state == "created" and log is not None else run.status().reason
            said = f"{LOST} jobs in a row were lost with nothing saved, the last one {job.id} ({how})"
            return Ended(job.run, f"{said}{f': {last}' if last else ''}" + (f"; see {log}" if log is not None else ""))
        console.warn(f"{run.name}: job {job.id} was lost ({how}); the run goes on in another")
        self.send([job.task], fruitless=fruitless)
        self._gone.pop(job.run, None)
        return None

    def _released(self, run: Run) -> bool:
        """Whether nobody works on a run; one that was, and whose job is gone, was killed."""
        try:
            with run.working():
                if run.status().state == "running":
                    run.write_status(state="killed", reason="its job was lost", ended=time.time())
        except Busy:  # on a node that the cluster has lost
            return False
        return True

    def log(self, job: Job) -> Path | None:
        """What a job has written; None where there is nothing."""
        file = self.folder / f"{job.id}_0_log.out"
        return file if file.exists() and file.stat().st_size else None

    def _recover(self, queue: dict[str, Place]) -> None:
        """Find the jobs that were about to be sent when a command was ended; those that the queue does not know were
        not, or are over: either way the state of their runs says what is left."""
        main = {place.name: id.partition("_")[0] for id, place in queue.items()}
        lost = {key: job for key, job in self._known.items() if job.id is None}
        for key, job in lost.items():
            if job.name in main:
                id = main[job.name] if job.many == 1 else f"{main[job.name]}_{job.index}"
                self._known[key] = replace(job, id=id)
            else:
                del self._known[key]
        if lost:
            self._write()

    def _forget(self, key: str) -> None:
        del self._known[key]
        self._gone.pop(key, None)
        self.places.pop(key, None)
        self._write()

    def _write(self) -> None:
        others = [job for job in remembered(self.folder.parent) if job.on != self.scheduler.name]
        every = [*others, *self._known.values()]
        write_text(self.folder / "jobs.json", json.dumps([asdict(job) for job in every], indent=1))


def remembered(folder: Path) -> list[Job]:
    """The jobs that are written down in the folder of a study or run."""
    try:
        rows = json.loads((folder / FOLDER / "jobs.json").read_text(encoding="utf-8"))
        return [Job(**{**row, "words": tuple(row["words"]), "mark": tuple(row["mark"])}) for row in rows]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError):
        raise RunError(
            f"{folder / FOLDER / 'jobs.json'} is damaged", "remove it once none of its jobs is in the queue"
        ) from None


def in_words(job: Job, place: Place | None) -> str:
    """Where a job is: `job 17_3 waits (Priority)`, `job 17_3 runs on n1 for 12 min`."""
    from hptctl.format import duration

    if place is None:
        return f"job {job.id} was sent" if job.id is not None else "about to be sent"
    if place.waits:
        return f"job {job.id} waits" + (f" ({place.reason})" if place.reason else "")
    return f"job {job.id} runs on {place.node} for {duration(place.seconds)}"


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
