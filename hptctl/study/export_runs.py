"""What leaves for another machine: runs, and with them all that goes on from there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from hpt.errors import HptError, RunError
from hptctl import console, runs
from hptctl.cluster import jobs
from hptctl.runs import Run, archive
from hptctl.runs.archive import Manifest, Progress
from hptctl.study.materials import LOOK
from hptctl.study.progress import of_run
from hptctl.sweep.folder import plan_of
from hptctl.sweep.plan import COMMON


def export_runs(
    names: Sequence[str], out: Path, *, split: int | None, weights: bool, alone: bool, progress: Progress
) -> Manifest:
    """Write an archive of runs, sweeps and studies, with what they rest on and consist of unless they go `alone`, and
    with their `weights` or without.

    Raises:
        RunError: there is no such run, or one is being worked on. ConfigError: `out` or `split` will not do.
    """
    asked = [runs.get(name) for name in dict.fromkeys(names)]
    found = _named(asked) if alone else belonging(asked)
    for run in found:
        if run.spec().kind == "sweep" and (storage := plan_of(run).storage) is not None:
            console.warn(f"sweep '{run.name}' has its trials in {storage}, which stays where it is")
    return archive.write(out, found, names, split=split, without=_aside, weights=weights, progress=progress)


def belonging(asked: Sequence[Run]) -> list[Run]:
    """The runs that travel with those that are asked for: the trials of sweeps, the cells of studies, and the
    pretrainings that any of them started from or evaluate.

    Raises:
        RunError: two of them have one name, as where one started from a run of another working folder.
    """
    every = runs.all_runs()
    found: dict[Path, Run] = {}
    left = list(asked)
    while left:
        run = left.pop()
        place = run.path.resolve()
        if place in found:
            continue
        found[place] = run
        left += runs.ancestry(run)
        if run.spec().kind in {"sweep", "study"}:
            left += [each for each in every if each.spec().parent == run.name]
        if run.spec().kind == "study":
            left += _cells_of(run)
    return _named(found.values())


def _named(found: Iterable[Run]) -> list[Run]:
    """Runs that can be in one archive.

    Raises:
        RunError: two of them have one name.
    """
    by_name: dict[str, Run] = {}
    for run in {run.path.resolve(): run for run in found}.values():
        if (other := by_name.setdefault(run.name, run)) is not run:
            raise RunError(
                f"{other.path} and {run.path} have one name, and one of them started from another folder's run",
                "export them from their own folders",
            )
    return list(by_name.values())


def _cells_of(study: Run) -> Iterator[Run]:
    """The runs of a study's cells, whoever made them, as far as the images and weights here tell."""
    try:
        progress = of_run(study)
    except HptError:  # its base is not here, or it is of another version: its own runs travel
        return
    for id in progress.cells:
        found = progress[id]
        if found.mlflow_id is None and (run := runs.find(found.run)) is not None:
            yield run


def _aside(run: Run) -> Collection[str]:
    """Training states that a sweep's trials share while it goes on, which are made again, and what is of this machine's
    cluster."""
    return (*((COMMON,) if run.spec().kind == "sweep" else ()), jobs.FOLDER, LOOK)
