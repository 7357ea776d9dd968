"""`hptctl study list|plan|run|status|retry`"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hptctl import options
from hptctl.commands.elsewhere import HERE, Elsewhere
from hptctl.format import count, gigabytes, hours, thousands, with_spread

if TYPE_CHECKING:
    from hpt.data.row import Absence
    from hptctl.cluster.jobs import Job
    from hptctl.cluster.schedulers import Place
    from hptctl.cluster.settings import Cluster
    from hptctl.runs import Run
    from hptctl.study.at_hand import Choice
    from hptctl.study.conductor import StudyConductor, StudyOutcome
    from hptctl.study.definition import Cell, Study
    from hptctl.study.progress import Found, Missing, Progress

app = typer.Typer(
    no_args_is_help=True, help="Run a grid of pretrainings and evaluations; what is done is not done again."
)

Name = Annotated[str, typer.Argument(metavar="STUDY", help="A TOML file, or a built-in study: `hptctl study list`.")]
Datasets = Annotated[
    list[str] | None, typer.Option("--dataset", "-d", help="Target dataset, in place of the study's; repeatable.")
]
Weights = Annotated[
    list[str] | None, typer.Option("--weights", "-w", help="Base weights, in place of the study's; repeatable.")
]
Steps = Annotated[
    str | None, typer.Option("--steps", help="Lengths of pretraining, in place of the study's: 50,500,5000.")
]
Seeds = Annotated[str | None, typer.Option("--seeds", help="Seeds, in place of the study's: 0,1,2.")]
References = Annotated[
    list[str] | None,
    typer.Option(
        "--reference",
        metavar="WEIGHTS",
        help="Weights that are evaluated as they are, beside the study's own, such as timm:NAME; repeatable.",
    ),
]
Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--task",
        metavar="KIND",
        help="Evaluations, in place of the study's: linear, knn, finetune, sweep, detection, segmentation; repeatable.",
    ),
]
Only = Annotated[
    list[str] | None, typer.Option("--only", metavar="CELL", help="Cells by name or pattern, and what they need.")
]
Jobs = Annotated[
    int, typer.Option("--jobs", min=1, help="Runs at once: on a GPU each in turn, or a share of the cores.")
]


@dataclass(frozen=True)
class Given:
    """The options that say which cells of which study."""

    study: Name
    dataset: Datasets = None
    preset: options.Preset = None
    weights: Weights = None
    reference: References = None
    steps: Steps = None
    seeds: Seeds = None
    task: Tasks = None
    sets: options.Sets = None
    only: Only = None


@app.command("list")
def list_studies(as_json: options.Json = False) -> None:
    """List the built-in studies.

    Example:

        hptctl study list
    """
    from hptctl import console
    from hptctl.study.definition import builtins, load

    found = [load(name) for name in builtins()]
    if as_json:
        console.print_json([study.model_dump(mode="json") for study in found])
        return
    console.table("", ("study", "asks"), [(study.name, study.about) for study in found])


@app.command()
@options.gathered
def plan(given: Given, as_json: options.Json = False) -> None:
    """Print every cell: what is done, shared and left, images to see, and hours by this machine's measured speed.

    Examples:

        hptctl study plan paper-linear

        hptctl study plan quick --dataset digits
    """
    _table(_read(given), measured=True, as_json=as_json)


@app.command()
@options.gathered
def run(
    given: Given,
    jobs: Jobs = 1,
    time_limit: options.For = None,
    elsewhere: Elsewhere = HERE,
    experiment: options.Experiment = "hptctl",
    as_json: options.Json = False,
) -> None:
    """Do what is missing, in the right order; run it again after any stop. A cell that failed waits for `retry`.

    With --on slurm every cell is a job of the cluster, which this command looks after; ended and given again, it finds
    its jobs.

    Examples:

        hptctl study run quick --dataset digits

        hptctl study run quick --dataset cells/ --task detection

        hptctl study run my-study.toml --jobs 2

        hptctl study run my-study.toml --for 2h

        hptctl study run my-study.toml --on slurm
    """
    with _going_on():
        asked = _read(given, fetch=True, elsewhere=elsewhere, experiment=experiment)
        asked.progress.fetch()
        _conduct(asked, jobs=jobs, retry=False, experiment=experiment, as_json=as_json)


@app.command()
@options.gathered
def status(given: Given, as_json: options.Json = False) -> None:
    """Print which cells are done, under way, failed and left; give the study as it was given to `run`.

    Of a study whose cells are jobs, it has what the queue says of each.

    Example:

        hptctl study status quick --dataset digits
    """
    asked = _read(given, of_jobs=True)
    if asked.on_cluster is None:
        _table(asked, measured=False, as_json=as_json)
    else:
        _queue_table(asked, as_json)


@app.command()
@options.gathered
def retry(
    given: Given,
    jobs: Jobs = 1,
    time_limit: options.For = None,
    elsewhere: Elsewhere = HERE,
    experiment: options.Experiment = "hptctl",
    as_json: options.Json = False,
) -> None:
    """Do the cells that failed, and what waited for them; give the study as it was given to `run`.

    Example:

        hptctl study retry quick --dataset digits
    """
    with _going_on():
        asked = _read(given, fetch=True, elsewhere=elsewhere, experiment=experiment)
        asked.progress.fetch()
        again = {cell.id for cell in asked.cells if asked.progress[cell.id].state in {"failed", "waits"}}
        asked = replace(asked, cells=_with_needed(asked.cells, again))
        _conduct(asked, jobs=jobs, retry=True, experiment=experiment, as_json=as_json)


@contextmanager
def _going_on() -> Iterator[None]:
    """What is stopped inside tells how to go on."""
    from hpt.errors import Interrupted

    try:
        yield
    except Interrupted as stop:
        raise Interrupted(stop.signum, stop.what, f"go on with `{options.command_line(whole=True)}`") from None


@dataclass(frozen=True)
class Asked:
    """The study that the command line asks for, its cells, and what there is of them."""

    study: Study
    """As its file has it, and the options."""
    base: Choice | None
    """The base that it takes where it names none."""
    cells: list[Cell]
    progress: Progress
    on_cluster: OnCluster | None = None
    """Where its cells are jobs."""


@dataclass(frozen=True)
class OnCluster:
    """A study whose cells are jobs."""

    run: Run
    """The study's."""
    settings: Cluster
    elsewhere: Elsewhere


def _read(
    given: Given,
    *,
    fetch: bool = False,
    elsewhere: Elsewhere | None = None,
    of_jobs: bool = False,
    experiment: str = "hptctl",
) -> Asked:
    """The study, its base where it takes the best at hand (fetched only if `fetch`), and its cells.

    Where cells are jobs, by `elsewhere` or, to look `of_jobs`, by those that were sent, nothing is read that takes
    PyTorch or a GPU.
    """
    from hpt.errors import ConfigError, did_you_mean
    from hptctl import console
    from hptctl.runs.weights import backbone_of
    from hptctl.study.at_hand import choose, settled
    from hptctl.study.definition import cells as cells_of
    from hptctl.study.definition import load
    from hptctl.study.progress import Progress

    changes: dict[str, Any] = {
        "datasets": given.dataset or None,
        "preset": given.preset,
        "weights": given.weights or None,
        "references": given.reference or None,
        "steps": _numbers("--steps", given.steps),
        "seeds": _numbers("--seeds", given.seeds),
        "evaluations": given.task or None,
    }
    study = load(given.study, changes, given.sets or ())
    settings = elsewhere.settings(study.cluster) if elsewhere is not None else None
    base = choose(study, fetch=fetch, on=("gpu" if settings.gpus else "cpu") if settings is not None else None)
    cells = cells_of(settled(study, base), backbone_of)
    if given.only:
        ids = [cell.id for cell in cells]
        for pattern in given.only:
            if not any(fnmatch(id, pattern) for id in ids):
                raise ConfigError(
                    f"no cell is called '{pattern}'{did_you_mean(pattern, ids)}", "see `hptctl study plan`"
                )
        wanted = {id for id in ids if any(fnmatch(id, pattern) for pattern in given.only)}
        cells = _with_needed(cells, wanted)
    place = _place(study, elsewhere, settings, experiment) if settings is not None or of_jobs else None
    if place is None:
        if elsewhere is not None and study.cluster.model_fields_set:
            console.note("note: the cells run here; --on slurm makes them the jobs that [cluster] says")
        return Asked(study, base, cells, Progress(cells))
    from hptctl.study.materials import Recorded

    return Asked(study, base, cells, Progress(cells, Recorded(place.run.path)), place)


def _place(study: Study, elsewhere: Elsewhere | None, settings: Cluster | None, experiment: str) -> OnCluster | None:
    """Where a study's cells are jobs: it is to send some, or has sent some."""
    from hpt.errors import ConfigError
    from hptctl.cluster.jobs import remembered
    from hptctl.cluster.schedulers import reached, scheduler
    from hptctl.runs.launch import Origin
    from hptctl.study import conductor
    from hptctl.study.materials import Recorded

    if elsewhere is not None and settings is not None:
        reached(elsewhere.on or "")  # before the study has a folder
        run = conductor.parent(study, Origin(options.command_line(), experiment))
        return OnCluster(run, settings, elsewhere)
    if (found := conductor.find_parent(study)) is None:
        return None
    sent = remembered(found.path)
    if not sent and not Recorded(found.path).where:
        return None
    on = sent[0].on if sent else "local"  # of jobs that are over nobody has to be asked
    try:
        scheduler(on)
    except ConfigError:  # they were another machine's
        return None
    return OnCluster(found, study.cluster, Elsewhere(on))


def _with_needed(cells: list[Cell], wanted: set[str]) -> list[Cell]:
    """The cells that are wanted and those that they need, in order."""
    every = set(wanted)
    for cell in reversed(cells):  # each comes after those that it needs
        if cell.id in every:
            every |= {*cell.needs}
    return [cell for cell in cells if cell.id in every]


def _numbers(option: str, text: str | None) -> list[int] | None:
    from hpt.errors import ConfigError

    try:
        return [int(part) for part in text.replace("_", "").split(",")] if text else None
    except ValueError:
        raise ConfigError(f"{option} {text!r} is not a list of whole numbers", f"for example {option} 1,2") from None


def _table(asked: Asked, *, measured: bool, as_json: bool) -> None:
    """What there is of each cell and what is left; hours only where the machine's speed is to be `measured`."""
    from collections import Counter
    from dataclasses import asdict

    from hptctl import console
    from hptctl.study.cost import costs as costs_of

    cells, progress = asked.cells, asked.progress
    costs = costs_of(progress, cells, measured=measured)
    found = {cell.id: progress[cell.id] for cell in cells}
    counts = Counter(each.state for each in found.values())
    total, images = sum(c.seconds for c in costs.values()), sum(c.images + c.forward for c in costs.values())
    missing = progress.missing()
    if as_json:
        rows = [
            {"cell": cell.id, "kind": cell.kind, "feeds": cell.feeds, "config": cell.config.model_dump(mode="json")}
            | {"state": found[cell.id].state, "run": found[cell.id].run or None, "why": found[cell.id].why}
            | {"here": found[cell.id].here, "needed": cell.kind == "pretrain" and progress.needed(cell.id)}
            | (asdict(costs[cell.id]) | {"seconds": _finite(costs[cell.id].seconds)})
            for cell in cells
        ]
        fetch = {"datasets": [asdict(each) for each in missing.datasets], "weights": list(missing.weights)}
        base = {"base": asdict(asked.base) if asked.base is not None else None}
        facts = base | {
            "cells": rows,
            "counts": dict(counts),
            "images": images,
            "seconds": _finite(total),
            "fetch": fetch,
        }
        console.print_json(facts)
        return
    rows_ = []
    for cell in cells:
        each, cost = found[cell.id], costs[cell.id]
        state = each.state + (f" (feeds {cell.feeds})" if cell.feeds > 1 else "")
        state += "" if each.here or cell.kind != "pretrain" else ", weights elsewhere"
        time = [hours(cost.seconds / 3600) if cost.seconds else ""] if measured else []
        seen = cost.images + cost.forward
        rows_.append((cell.id, state, thousands(seen) if seen else "", *time))
    console.table("", ("cell", "state", ">images", *([">time"] if measured else [])), rows_)
    for state in ("failed", "no data"):
        for why in dict.fromkeys(each.why for each in found.values() if each.state == state):
            console.say(f"{state}: {why}")
    if again := {cell.id: each.why for cell, each in zip(cells, found.values(), strict=True) if _is_again(cell, each)}:
        console.say(f"made again: {'; '.join(f'{id}, since {why}' for id, why in again.items())}")
    if undecided := sum(bool(cell.among) and progress.settled(cell).backbone is None for cell in cells):
        console.say(
            f"{count(undecided, 'cell')} of a strategy's best length, which val of its linear probes chooses first"
        )
    for line in _missing_lines(missing):
        console.say(line)
    if asked.base is not None:
        console.say(asked.base.in_words())
    said = ", ".join(f"{many} {state}" for state, many in counts.items())
    cost_ = (
        f"; {count(images, 'image')} to see, {hours(total / 3600)} at this machine's speed"
        if measured and images
        else ""
    )
    console.say(f"{len(cells)} cells: {said}{cost_}")


def _queue_table(asked: Asked, as_json: bool) -> None:
    """What there is of each cell, and where its job is."""
    from collections import Counter

    from hptctl import console, runs
    from hptctl.cluster.jobs import in_words
    from hptctl.study.materials import LOOK, Recorded
    from hptctl.study.on_cluster import summary

    place = asked.on_cluster
    assert place is not None
    sent = place.elsewhere.jobs(place.run, place.settings)
    sent.look(idly=True)
    found = {cell.id: asked.progress[cell.id] for cell in asked.cells}
    states: dict[str, str] = {}
    where: dict[str, tuple[Job, Place | None]] = {}
    for id, each in found.items():
        states[id], key = each.state, (runs.RUNS / each.run).as_posix()
        if each.run and each.state != "done" and key in sent:
            at = sent.places.get(key)
            states[id] = "queued" if at is None or at.waits else "running"
            where[id] = sent[key], at
    counts = Counter(states.values())
    if as_json:
        facts = {id: _job_facts(*at) for id, at in where.items()}
        rows = [
            {"cell": id, "state": states[id], "run": each.run or None, "why": each.why, "job": facts.get(id)}
            for id, each in found.items()
        ]
        console.print_json({"cells": rows, "counts": dict(counts), "on": sent.scheduler.name if where else None})
        return
    rows_ = [(id, state, in_words(*where[id]) if id in where else "") for id, state in states.items()]
    console.table("", ("cell", "state", "where"), rows_)
    for why in dict.fromkeys(each.why for each in found.values() if each.state in {"failed", "no data"}):
        console.say(why)
    if (look := (place.run.path / LOOK).as_posix()) in sent:
        console.say(f"{in_words(sent[look], sent.places.get(look))}; it looks at the images and weights first")
    if node := Recorded(place.run.path).where:
        console.say(f"done is what rests on the images and weights that a job has seen on {node}")
    said = ", ".join(f"{many} {state}" for state, many in counts.items())
    console.say(f"{len(found)} cells: {said}; {f'jobs: {summary(where)}' if where else 'no cell is in the queue'}")


def _job_facts(job: Job, place: Place | None) -> dict[str, Any]:
    if place is None:
        return {"id": job.id, "state": None}
    facts = {"state": place.state, "reason": place.reason, "node": place.node, "seconds": round(place.seconds, 1)}
    return {"id": job.id} | facts


def _is_again(cell: Cell, found: Found) -> bool:
    """Whether a pretraining is done, and is made again for its weights."""
    return cell.kind == "pretrain" and found.state == "left" and bool(found.why)


def _missing_lines(missing: Missing) -> Iterator[str]:
    """What a run would download first, and what has to be there before it begins."""
    by_run = [_with_size(each) for each in missing.datasets if each.by == "run"]
    by_run += [f"the weights {name}" for name in missing.weights]
    if by_run:
        yield f"run downloads first: {', '.join(by_run)}"
    large = [_with_size(each) for each in missing.datasets if each.by == "prepare"]
    by_hand = [each.name for each in missing.datasets if each.by == "person"]
    before = [f"by hptctl datasets prepare: {', '.join(large)}"] if large else []
    before += [f"by hand: {', '.join(by_hand)}"] if by_hand else []
    if before:
        yield f"to get before a run, {'; '.join(before)}"


def _with_size(absence: Absence) -> str:
    return f"{absence.name} ({gigabytes(absence.megabytes)})" if absence.megabytes else absence.name


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 1)


def _conduct(asked: Asked, *, jobs: int, retry: bool, experiment: str, as_json: bool) -> None:
    from hpt.errors import HptError
    from hptctl import console
    from hptctl.runs.launch import Origin
    from hptctl.study import conductor
    from hptctl.study.at_hand import keep

    cells, progress, command = asked.cells, asked.progress, options.command_line()
    if asked.base is not None:
        console.note(asked.base.in_words())
    for base in asked.study.bases:
        if any(cell.id == base.name for cell in cells):
            console.note(f"note: the base '{base.name}' is the study's own, pretrained on {base.dataset}")
    parent = conductor.parent(asked.study, Origin(command, experiment))
    keep(parent, asked.base)
    outcome = _conductor(asked, parent, jobs=jobs, retry=retry, command=command).conduct()
    if outcome.under_way:
        _print_under_way(asked, outcome, as_json)
        return
    rows = [_result(cell, progress) for cell in cells if cell.kind != "pretrain" and progress[cell.id].state == "done"]
    if as_json:
        console.print_json(
            {
                "name": parent.name,
                "done": outcome.done,
                "failed": [{"cell": c, "why": why} for c, why in outcome.failed],
            }
        )
    else:
        console.table(parent.name, ("cell", "metric", ">val", ">test"), rows)
        console.say(f"{len(outcome.done)} of {len(cells)} cells are done")
        if asked.base is not None:
            console.say(asked.base.in_words())
        console.say(f"report: hptctl report --study {parent.name} --out report.html")
    if outcome.failed:
        (cell, why), others = outcome.failed[0], len(outcome.failed) - 1
        more = f" (and {others} more)" if others else ""
        again = options.command_line(whole=True).replace(" study run ", " study retry ", 1)
        raise HptError(f"{cell} is not done: {why}{more}", f"mend that, then `{again}`")


def _conductor(asked: Asked, parent: Run, *, jobs: int, retry: bool, command: str) -> StudyConductor:
    """Who does the cells: this command, or jobs that it sends."""
    from hptctl.study.conductor import StudyConductor
    from hptctl.study.on_cluster import ClusterConductor

    place = asked.on_cluster
    if place is None:
        return StudyConductor(parent, asked.progress, asked.cells, jobs=jobs, retry=retry, command=command)
    sent = place.elsewhere.jobs(parent, place.settings)
    detach = place.elsewhere.detach
    return ClusterConductor(parent, asked.progress, asked.cells, sent=sent, detach=detach, retry=retry, command=command)


def _print_under_way(asked: Asked, outcome: StudyOutcome, as_json: bool) -> None:
    from hptctl import console

    if as_json:
        console.print_json({"name": asked.study.name, "done": outcome.done, "under_way": outcome.under_way})
        return
    console.say(f"{len(outcome.done)} of {count(len(asked.cells), 'cell')} done, {len(outcome.under_way)} in the queue")
    console.say("the same command sends what has become ready, and waits without --detach")


def _result(cell: Cell, progress: Progress) -> tuple[str, ...]:
    from hptctl import runs
    from hptctl.runs.record import recorded

    run: Run | None = runs.find(progress[cell.id].run)
    if run is None:  # another machine's
        return cell.id, "", "", ""
    status = run.status()
    metric = recorded(status.facts.metric, "its metric")

    def figure(split: str) -> str:
        return with_spread(status.results[f"{split}/{metric}"], status.results.get(f"{split}/{metric}_std"))

    return cell.id, metric, figure("val"), figure("test")
