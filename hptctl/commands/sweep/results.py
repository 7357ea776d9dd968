"""`hptctl sweep list|show|best|export`"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hptctl import options
from hptctl.format import percent, with_spread

if TYPE_CHECKING:
    from hptctl.runs import Run
    from hptctl.sweep.queue import Trial

Sweep = Annotated[str, typer.Argument(metavar="SWEEP", help="Name of a sweep.")]


def list_sweeps(as_json: options.Json = False) -> None:
    """List the sweeps of the working folder, the newest last.

    Example:

        hptctl sweep list
    """
    from hpt.errors import RunError
    from hptctl import console, runs
    from hptctl.sweep import folder as sweeps

    found = []
    for sweep in sweeps.all_sweeps():
        try:
            found.append((sweep, sweep.spec(), sweep.status(), sweeps.plan_of(sweep)))
        except RunError as error:
            console.warn(str(error))
    if as_json:
        console.print_json(
            [
                {"name": sweep.name, "target": plan.target, "state": status.state, "results": status.results}
                | {"trials": plan.trials, "sampler": plan.sampler, "source": spec.source, "storage": plan.storage}
                for sweep, spec, status, plan in found
            ]
        )
        return
    if not found:
        console.say(f"no sweeps in {runs.RUNS.resolve()}")
        return
    console.table(
        "",
        ("name", "of", "space", ">trials", "sampler", "state", "chosen"),
        [
            (
                sweep.name,
                plan.target,
                " x ".join(plan.space.dimensions),
                str(plan.trials),
                plan.sampler,
                status.state,
                status.facts.chosen or "",
            )
            for sweep, _, status, plan in found
        ],
    )


def show(sweep: Sweep, as_json: options.Json = False) -> None:
    """Show a sweep's trials, the best first.

    Example:

        hptctl sweep show sweep-my-base
    """
    from hptctl.sweep import folder as sweeps

    print_trials(sweeps.get(sweep), as_json)


def best(sweep: Sweep, as_json: options.Json = False) -> None:
    """Show what won, and the options that do the same again.

    Example:

        hptctl sweep best sweep-my-base
    """
    from hpt.errors import RunError
    from hptctl import console
    from hptctl.sweep import folder as sweeps
    from hptctl.sweep.queue import best as best_of

    found = sweeps.get(sweep)
    plan, status = sweeps.plan_of(found), found.status()
    winner = best_of(sweeps.trials(found))
    if winner is None:
        raise RunError(f"no trial of '{found.name}' is complete", f"see `hptctl sweep show {found.name}`")
    fields = {plan.space.dimensions[name].field: value for name, value in winner.params.items()}
    if as_json:
        console.print_json(asdict(winner) | {"fields": fields, "results": status.results, "facts": status.facts.text()})
        return
    console.say(f"trial {winner.number}: val {winner.metric} {percent(winner.value or 0.0)}")
    console.say("  " + " ".join(f"--set {field}={_text(value)}" for field, value in fields.items()))
    console.say(f"run {winner.run}")
    _say_test(found)


def export(
    sweep: Sweep,
    file_format: Annotated[str, typer.Option("--format", help="json or csv.")] = "json",
) -> None:
    """Print a sweep's trials for scripts.

    Example:

        hptctl sweep export sweep-my-base --format csv
    """
    import csv
    import io

    from hpt.errors import ConfigError
    from hptctl import console
    from hptctl.sweep import folder as sweeps
    from hptctl.sweep.queue import Trial

    if file_format not in {"json", "csv"}:
        raise ConfigError(f"unknown --format '{file_format}'", "choose json or csv")
    found = sweeps.get(sweep)
    rows = [asdict(row) for row in sweeps.trials(found)]
    if file_format == "json":
        console.print_json(rows)
        return
    names = list(sweeps.plan_of(found).space.dimensions)
    aside = {"params", "looks", "runs"}
    columns = [key for key in Trial.__dataclass_fields__ if key not in aside]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*columns, *names], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(row | {name: _text(value) for name, value in row["params"].items()} for row in rows)
    console.print_text(text.getvalue())


def print_trials(run: Run, as_json: bool) -> None:
    """A sweep's trials, the best first, and what val chose."""
    from hptctl import console
    from hptctl.sweep import folder as sweeps
    from hptctl.sweep.space import short

    rows = sweeps.trials(run)
    if as_json:
        console.print_json([asdict(row) for row in rows])
        return
    status, plan = run.status(), sweeps.plan_of(run)
    ordered = sorted(rows, key=lambda t: (t.value is None, -(t.value or 0)))
    names = list(plan.space.dimensions)
    right = {name for name in names if all(isinstance(t.params.get(name, 0), int | float) for t in rows)}
    console.table(
        f"{run.name} ({status.state})",
        (">trial", *(f">{_last(name)}" if name in right else _last(name) for name in names), ">val", "state", "run"),
        [
            (
                f"* {t.number}" if t.run and t.run == status.facts.winner else str(t.number),
                *(short(t.params.get(name, "")) for name in names),
                percent(t.value),
                _state(t, rows),
                t.run or "",
            )
            for t in ordered
        ],
    )
    for reason in dict.fromkeys(t.reason for t in rows if t.state == "fail"):
        failed = ", ".join(str(t.number) for t in rows if t.state == "fail" and t.reason == reason)
        console.say(f"failed: {failed}: {reason}")
    if status.reason and status.state != "finished":
        console.say(status.reason)
    _say_test(run)


def _state(trial: Trial, rows: list[Trial]) -> str:
    again = [other.number for other in rows if other.slot == trial.slot and other.number > trial.number]
    if trial.state == "fail":
        return "failed" + (f", again as {again[0]}" if again else "")
    return f"pruned at {percent(max(trial.looks, default=0) / 10, 0)}" if trial.state == "pruned" else trial.state


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _say_test(run: Run) -> None:
    from hptctl import console

    status = run.status()
    if status.state != "finished" or status.facts.metric is None:
        return
    metric = status.facts.metric
    test = with_spread(status.results[f"test/{metric}"], status.results.get(f"test/{metric}_std"))
    console.say(
        f"* val chose {status.facts.chosen}: test {metric} {test} on {status.facts.test_images} images, computed once"
    )


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
