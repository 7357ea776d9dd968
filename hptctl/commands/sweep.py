"""`hptctl sweep finetune|show|export`"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hptctl import options

if TYPE_CHECKING:
    from hptctl.runs import Run

app = typer.Typer(no_args_is_help=True, help="Sweep finetuning over learning rates and schedules with Optuna.")


@app.command()
def finetune(
    run: options.RunArgument = None,
    lr: Annotated[
        str | None, typer.Option("--lr", help="Learning rates, comma-separated.", show_default="0.01,0.001")
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option("--schedule", help="Schedules, comma-separated.", show_default="2500-steps,90-epochs"),
    ] = None,
    labels: Annotated[
        str | None, typer.Option("--labels", help="Training labels: all, 1000, 10%, 5-per-class.")
    ] = None,
    dataset: options.Dataset = None,
    seed: options.Seed = None,
    device: options.Device = None,
    precision: options.Precision = None,
    preset: options.Preset = None,
    name: options.Name = None,
    sets: options.Sets = None,
    config: options.ConfigFile = None,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="SWEEP", help="Go on with a sweep that stopped.")
    ] = None,
    experiment: options.Experiment = "hptctl",
    as_json: options.Json = False,
) -> None:
    """Finetune at every learning rate and schedule; val chooses, the winner alone is tested, once.

    Examples:

        hptctl sweep finetune

        hptctl sweep finetune my-base -d digits --schedule 60-steps --labels 100

        hptctl sweep finetune --resume sweep-my-base
    """
    from hpt.config import EvaluateConfig, resolve
    from hptctl import console, launch, runs, search

    flags: dict[str, Any] = {
        "labels": labels,
        "dataset": dataset,
        "seed": seed,
        "device": device,
        "precision": precision,
    }
    if resume is not None:
        others = {
            "run": run,
            "lr": lr,
            "schedule": schedule,
            "preset": preset,
            "name": name,
            "set": sets,
            "config": config,
        }
        options.refuse_beside_resume(flags | others)
        sweep = search.get(resume)
    else:
        weights = run or runs.newest().name
        settings = resolve(
            EvaluateConfig,
            inherited=launch.evaluated_defaults(weights),
            file=config,
            sets=sets or (),
            flags=flags | {"preset": preset, "kind": "finetune", "weights": weights},
        )
        default = search.SPACES[settings.preset]
        space = search.Space(
            lr=_numbers(lr) if lr else default.lr,
            schedule=tuple(dict.fromkeys(part.strip() for part in schedule.split(",") if part.strip()))
            if schedule
            else default.schedule,
        )
        sweep = search.create(settings, space, name=name, experiment=experiment)
    console.note(f"sweep '{sweep.name}' in {sweep.path}")
    search.run_sweep(sweep)
    _show(sweep, as_json)


@app.command()
def show(
    sweep: Annotated[str, typer.Argument(help="Name of a sweep.")],
    as_json: options.Json = False,
) -> None:
    """Show a sweep's trials, the best first.

    Example:

        hptctl sweep show sweep-my-base
    """
    from hptctl import search

    _show(search.get(sweep), as_json)


def _show(run: Run, as_json: bool) -> None:
    from hptctl import console, search

    rows = search.trials(run)
    if as_json:
        console.print_json([asdict(row) for row in rows])
        return
    status = run.status()
    ordered = sorted(rows, key=lambda t: (t.value is None, -(t.value or 0)))
    console.table(
        f"{run.name} ({status.state})",
        (">lr", "schedule", ">val", "state", "run"),
        [
            (
                f"{t.params['lr']:g}",
                t.params["schedule"],
                console.percent(t.value) if t.value is not None else "",
                t.state + (f": {t.reason}" if t.reason else ""),
                (t.run or "") + (" *" if t.run and t.run == status.facts.get("winner") else ""),
            )
            for t in ordered
        ],
    )
    if status.state == "finished":
        metric = status.facts["metric"]
        test = console.percent(status.results[f"test/{metric}"])
        console.say(
            f"* val chose {status.facts['chosen']}: test {metric} {test} on {status.facts['test_images']} images,"
            " computed once"
        )


@app.command()
def export(
    sweep: Annotated[str, typer.Argument(help="Name of a sweep.")],
    file_format: Annotated[str, typer.Option("--format", help="json or csv.")] = "json",
) -> None:
    """Print a sweep's trials for scripts.

    Example:

        hptctl sweep export sweep-my-base --format csv
    """
    import csv
    import io

    from hpt.errors import ConfigError
    from hptctl import console, search

    rows = [asdict(row) for row in search.trials(search.get(sweep))]
    if file_format == "json":
        console.print_json(rows)
    elif file_format == "csv":
        flat = [{**{k: v for k, v in row.items() if k != "params"}, **row["params"]} for row in rows]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(flat[0]) if flat else ["number"])
        writer.writeheader()
        writer.writerows(flat)
        console.print_text(text.getvalue())
    else:
        raise ConfigError(f"unknown --format '{file_format}'", "choose json or csv")


def _numbers(text: str) -> tuple[float, ...]:
    from hpt.errors import ConfigError

    try:
        return tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        raise ConfigError(f"--lr {text!r} is not a list of numbers", "for example --lr 0.01,0.001") from None
