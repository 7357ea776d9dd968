"""`hptctl runs list|show|sync`: what the folder has, and the store."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Annotated

import typer

from hptctl import options
from hptctl.format import duration, percent

if TYPE_CHECKING:
    from hptctl.runs import Status

NEWEST = 100
"""The runs that are listed where nobody says how many: those that a person looks through."""


def list_runs(
    kind: Annotated[str | None, typer.Option("--kind", help="pretrain, linear, knn, finetune or sweep.")] = None,
    last: Annotated[
        int | None, typer.Option("--last", min=1, help=f"Show so many; {NEWEST} without, and as JSON all.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List the runs of the working folder, the newest last.

    Example:

        hptctl runs list --kind pretrain --last 20
    """
    from hptctl import console, runs

    found, count = runs.last_runs(kind, last or (None if as_json else NEWEST))
    rows = [(run, run.spec(), run.status()) for run in found]
    if as_json:
        console.print_json(
            [
                spec.model_dump(include={"name", "kind", "created", "source", "parent", "tags"})
                | status.model_dump(include={"state", "reason", "results"})
                | {"mlflow_run_id": runs.tracked_id(run)}
                for run, spec, status in rows
            ]
        )
        return
    if not rows:
        console.say(f"no runs in {runs.RUNS.resolve()}")
        return
    console.table(
        "",
        ("name", "kind", "dataset", ">steps", "state", "result", ">age"),
        [
            (
                spec.name,
                spec.kind,
                spec.tags.dataset or "",
                "" if spec.tags.steps is None else str(spec.tags.steps),
                status.state,
                _headline(status),
                duration(time.time() - spec.created),
            )
            for _, spec, status in rows
        ],
    )
    if count > len(found):
        console.note(f"and {count - len(found):,} earlier ones: `hptctl runs list --last {count}` has all")


def show(
    run: Annotated[str, typer.Argument(help="A run's name, MLflow id or folder.")],
    as_json: options.Json = False,
) -> None:
    """Show all that is known of a run.

    Example:

        hptctl runs show my-base
    """
    from hpt.config import flatten
    from hptctl import console, runs

    found = runs.get(run)
    spec, status = found.spec(), found.status()
    if as_json:
        console.print_json(
            spec.model_dump()
            | status.model_dump()
            | {"mlflow_run_id": runs.tracked_id(found), "folder": str(found.path.resolve())}
        )
        return
    about = {
        "state": status.state,
        "reason": status.reason,
        "command": spec.command,
        "folder": str(found.path),
    }
    about |= {
        "source": spec.source or "",
        "parent": spec.parent or "",
        "mlflow_run_id": runs.tracked_id(found) or "",
    }
    about |= spec.tags.text() | status.facts.text()
    unknown = [*spec.unknown, *spec.tags.unknown, *status.unknown, *status.facts.unknown]
    about |= {"of another version of hptctl": ", ".join(unknown)}
    console.table(f"{spec.name} ({spec.kind})", ("", ""), [(key, value) for key, value in about.items() if value])
    console.table("\nResults", ("", ">"), [(key, f"{value:.4g}") for key, value in status.results.items()])
    console.table("\nConfiguration", ("", ""), [(key, str(value)) for key, value in flatten(spec.config).items()])


def sync(
    run: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Runs; all of the folder if left out.")
    ] = None,
) -> None:
    """Send to MLflow what it has not got, after its store was away.

    Example:

        hptctl runs sync
    """
    from hptctl import console, runs, tracking

    for found in [runs.get(name) for name in run] if run else runs.all_runs():
        if not os.access(found.path, os.W_OK):  # else it would be sent anew each time
            console.warn(f"{found.name} is not sent: its folder is another user's, whose `hptctl runs sync` sends it")
            continue
        sent = tracking.sync(found)
        console.say(f"{found.name}: {sent} values sent" if sent else f"{found.name}: nothing was missing")


def _headline(status: Status) -> str:

    results, metric = status.results, status.facts.metric or "top1"
    for split in ("test", "val"):
        if f"{split}/{metric}" in results:
            figure = percent(results[f"{split}/{metric}"])
            return f"{split} {figure}" + ("" if metric == "top1" else f" {metric}")
    return f"loss {results['loss']:.3f}" if "loss" in results else ""
