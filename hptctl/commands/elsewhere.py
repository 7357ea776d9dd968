"""The options by which runs are jobs of a cluster, and what they come to."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hptctl.cluster.jobs import Jobs
    from hptctl.cluster.settings import Cluster
    from hptctl.runs import Run

On = Annotated[
    str | None,
    typer.Option("--on", help="slurm: as jobs of this cluster. local: as jobs of this machine, to try settings out."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--cluster",
        metavar="KEY=VALUE",
        help="What a job asks for: partition, time, gpus, cpus, mem, account, qos, array_parallelism, setup,"
        " sbatch.OPTION; or a TOML file of them; repeatable.",
    ),
]
Detach = Annotated[bool, typer.Option("--detach", help="Return once the jobs are in the queue.")]


@dataclass(frozen=True)
class Elsewhere:
    """Whether runs are jobs of a cluster, and of which kind."""

    on: On = None
    cluster: Settings = None
    detach: Detach = False

    def settings(self, table: Cluster | None = None) -> Cluster | None:
        """What jobs ask for, by a study's table and the command line; None where runs are no jobs.

        Raises:
            ConfigError: settings that are none, or of no jobs.
        """
        from hpt.errors import ConfigError
        from hptctl.cluster import settings

        found = settings.read(self.cluster or (), table)
        if self.on is not None:
            return found
        for option, given in (("--cluster", self.cluster), ("--detach", self.detach)):
            if given:
                raise ConfigError(f"{option} is of jobs, and there are none", "give --on slurm, or drop it")
        return None

    def jobs(self, owner: Run, cluster: Cluster) -> Jobs:
        """The jobs of a study or run.

        Raises:
            ConfigError: nobody runs jobs here.
        """
        from hptctl.cluster.jobs import Jobs
        from hptctl.cluster.schedulers import scheduler

        return Jobs(owner.path, scheduler(self.on or ""), cluster)

    def check(self) -> Cluster | None:
        """`settings`, once it is known that somebody runs jobs here: before a run's folder is made.

        Raises:
            ConfigError: settings that are none, or nobody runs jobs here, or answers.
        """
        from hptctl.cluster.schedulers import reached

        if (found := self.settings()) is not None:
            reached(self.on or "")
        return found

    def execute(self, run: Run, cluster: Cluster | None, *more: str) -> bool:
        """Do a run here or, on a cluster, by a job, with `more` options of the command that goes on with it; whether it
        has finished, which it has not when the command does not wait for it.

        Raises:
            Interrupted: by a signal, or the time given is up; the job goes on. HptError: what went wrong.
        """
        from hptctl import console
        from hptctl.runs import launch

        if cluster is None:
            launch.execute(run)
            return True
        from hptctl.cluster.follow import follow
        from hptctl.cluster.jobs import task_of

        asked = [word for given in self.cluster or () for word in ("--cluster", given)]
        again = f"hptctl {shlex.join([*launch.resume_words(run), '--on', self.on or '', *asked])}"
        if follow(task_of(run, *more), self.jobs(run, cluster), detach=self.detach, again=again):
            return True
        console.note(f"wait for it with `{again}`")
        return False


HERE = Elsewhere()
"""Runs are no jobs."""
