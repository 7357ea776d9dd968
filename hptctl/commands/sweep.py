"""`hptctl sweep finetune|linear|pretrain|list|show|best|retry|export`"""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hptctl import options
from hptctl.format import percent, with_spread

if TYPE_CHECKING:
    from hpt.config import EvaluateConfig, PretrainConfig
    from hptctl.runs import Run
    from hptctl.sweep.queue import Trial
    from hptctl.sweep.space import Target

app = typer.Typer(
    no_args_is_help=True, help="Search a space of configurations with Optuna, by several processes and machines."
)

Lr = Annotated[
    str | None, typer.Option("--lr", help="Learning rates: 0.01,0.001, or a range 1e-4..1e-1 (logarithmic).")
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUES",
        help="Any field of the configuration: a,b or lo..hi[:log] to sweep it, one value to fix it; repeatable.",
    ),
]
SpaceFile = Annotated[
    Path | None, typer.Option("--space", metavar="FILE", help="A TOML file that is the whole space: field = [a, b].")
]
SamplerName = Annotated[
    str | None, typer.Option("--sampler", help="grid, tpe or random.", show_default="grid; tpe where there is a range")
]
PrunerName = Annotated[
    str | None,
    typer.Option("--pruner", help="none, median, halving or hyperband: stop trials that do badly on the way."),
]
Trials = Annotated[
    int | None, typer.Option("--trials", help="Points to try.", show_default="a grid's cells; 20 otherwise")
]
Timeout = Annotated[
    str | None, typer.Option("--timeout", metavar="TIME", help="Begin no trial after 90s, 45m or 12h; then test.")
]
Repeats = Annotated[int | None, typer.Option("--repeats", help="Seeds per point; their mean counts.", show_default="1")]
Workers = Annotated[
    int | None,
    typer.Option("--workers", help="Processes here, on a GPU each in turn or a share of the cores.", show_default="1"),
]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        envvar="HPTCTL_STORAGE",
        show_envvar=True,
        help="A SQL database, for several machines: each gives the same command with the same --name.",
    ),
]
Resume = Annotated[str | None, typer.Option("--resume", metavar="SWEEP", help="Go on with a sweep that stopped.")]
Labels = Annotated[str | None, typer.Option("--labels", help="Training labels: all, 1000, 10%, 5-per-class.")]
Sweep = Annotated[str, typer.Argument(metavar="SWEEP", help="Name of a sweep.")]


@app.command()
def finetune(
    run: options.RunArgument = None,
    lr: Lr = None,
    schedule: Annotated[
        str | None, typer.Option("--schedule", help="Schedules.", show_default="2500-steps,90-epochs")
    ] = None,
    labels: Labels = None,
    dataset: options.Dataset = None,
    metric: options.Metric = None,
    sets: Sets = None,
    space: SpaceFile = None,
    sampler: SamplerName = None,
    pruner: PrunerName = None,
    trials: Trials = None,
    timeout: Timeout = None,
    repeats: Repeats = None,
    workers: Workers = None,
    storage: Storage = None,
    seed: options.Seed = None,
    device: options.Device = None,
    precision: options.Precision = None,
    preset: options.Preset = None,
    name: options.Name = None,
    config: options.ConfigFile = None,
    resume: Resume = None,
    experiment: options.Experiment = "hptctl",
    as_json: options.Json = False,
) -> None:
    """Finetune at every point of a space; val chooses, the winner alone is tested, once.

    Without a space: the protocol's learning rates x schedules, in the preset's size.

    Examples:

        hptctl sweep finetune

        hptctl sweep finetune my-base -d digits --schedule 60-steps,80-steps --labels 100

        hptctl sweep finetune my-base --lr 1e-4..1e-1 --trials 20 --pruner median --workers 2

        hptctl sweep finetune --resume sweep-my-base
    """
    everyday = {"labels": labels, "dataset": dataset, "metric": metric, "seed": seed, "device": device}
    everyday |= {"precision": precision, "preset": preset}
    search = {"sampler": sampler, "pruner": pruner, "trials": trials, "repeats": repeats}
    _sweep(
        "finetune", run, everyday, {"lr": lr, "schedule": schedule}, sets, space, config, search,
        timeout=timeout, workers=workers, storage=storage, name=name, resume=resume, experiment=experiment,
        as_json=as_json,
    )  # fmt: skip


@app.command()
def linear(
    run: options.RunArgument = None,
    lr: Lr = None,
    labels: Labels = None,
    dataset: options.Dataset = None,
    metric: options.Metric = None,
    sets: Sets = None,
    space: SpaceFile = None,
    sampler: SamplerName = None,
    pruner: PrunerName = None,
    trials: Trials = None,
    timeout: Timeout = None,
    repeats: Repeats = None,
    workers: Workers = None,
    storage: Storage = None,
    seed: options.Seed = None,
    device: options.Device = None,
    precision: options.Precision = None,
    preset: options.Preset = None,
    name: options.Name = None,
    config: options.ConfigFile = None,
    resume: Resume = None,
    experiment: options.Experiment = "hptctl",
    as_json: options.Json = False,
) -> None:
    """Probe at every point of a space; val chooses, the winner alone is tested, once.

    Without a space: learning rates 0.3, 3 and 30, which `hptctl evaluate linear` tries in one pass, and so for less.

    Examples:

        hptctl sweep linear my-base --lr 0.01..100 --trials 10

        hptctl sweep linear my-base --set linear.batch_size=64,256 --set linear.min_scale=0.08,0.3
    """
    everyday = {"labels": labels, "dataset": dataset, "metric": metric, "seed": seed, "device": device}
    everyday |= {"precision": precision, "preset": preset}
    search = {"sampler": sampler, "pruner": pruner, "trials": trials, "repeats": repeats}
    _sweep(
        "linear", run, everyday, {"lr": lr}, sets, space, config, search,
        timeout=timeout, workers=workers, storage=storage, name=name, resume=resume, experiment=experiment,
        as_json=as_json,
    )  # fmt: skip


@app.command()
def pretrain(
    strategy: Annotated[str | None, typer.Option("--strategy", "-s", help="target, hpt or hpt-bn.")] = None,
    dataset: options.Dataset = None,
    weights: Annotated[
        str | None,
        typer.Option("--weights", "-w", help="The base: a known name, a file, or an earlier run."),
    ] = None,
    lr: Lr = None,
    steps: Annotated[
        str | None, typer.Option("--steps", help="Lengths of pretraining.", show_default="50,500,5000,50000")
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option("--objective", help="Whose figure on val counts: knn (cheap) or linear.", show_default="knn"),
    ] = None,
    sets: Sets = None,
    space: SpaceFile = None,
    sampler: SamplerName = None,
    pruner: PrunerName = None,
    trials: Trials = None,
    timeout: Timeout = None,
    repeats: Repeats = None,
    workers: Workers = None,
    storage: Storage = None,
    seed: options.Seed = None,
    device: options.Device = None,
    precision: options.Precision = None,
    preset: options.Preset = None,
    name: options.Name = None,
    config: options.ConfigFile = None,
    resume: Resume = None,
    experiment: options.Experiment = "hptctl",
    as_json: options.Json = False,
) -> None:
    """Pretrain at every point of a space; nearest neighbours on val choose, the winner alone is tested, once.

    kNN on val trains nothing, so it costs seconds beside a pretraining; --objective linear probes instead. Either needs
    labels, which pretraining itself never sees.

    Examples:

        hptctl sweep pretrain -s hpt -d my-images/ -w my-base --lr 0.003..0.1 --steps 500 --trials 10

        hptctl sweep pretrain -s hpt -d my-images/ --set augment.policy=baseline,no-color,crop-only
    """
    everyday = {"strategy": strategy, "dataset": dataset, "weights": weights, "seed": seed, "device": device}
    everyday |= {"precision": precision, "preset": preset}
    search = {"sampler": sampler, "pruner": pruner, "trials": trials, "repeats": repeats, "objective": objective}
    _sweep(
        "pretrain", None, everyday, {"lr": lr, "steps": steps}, sets, space, config, search,
        timeout=timeout, workers=workers, storage=storage, name=name, resume=resume, experiment=experiment,
        as_json=as_json,
    )  # fmt: skip


@app.command()
def retry(
    sweep: Sweep,
    workers: Workers = None,
    timeout: Timeout = None,
    storage: Storage = None,
    as_json: options.Json = False,
) -> None:
    """Do a sweep's failed trials once more, with the values that they had; those that ended well stay.

    Example:

        hptctl sweep retry sweep-my-base
    """
    from hptctl import console
    from hptctl.sweep import conductor
    from hptctl.sweep import folder as sweeps
    from hptctl.sweep.queue import failed

    found = sweeps.get(sweep)
    seconds, workers = _seconds(timeout), _workers(workers)
    if not failed(sweeps.trials(found, storage)):
        console.note(f"no trial of '{found.name}' has failed, or each was done again")
    else:
        conductor.run_sweep(found, workers=workers, timeout=seconds, url=storage, retry=True)
    _show(found, as_json)


@app.command("list")
def list_sweeps(as_json: options.Json = False) -> None:
    """List the sweeps of the working folder, the newest last.

    Example:

        hptctl sweep list
    """
    from hptctl import console, runs
    from hptctl.sweep import folder as sweeps

    found = [(sweep, sweep.spec(), sweep.status(), sweeps.plan_of(sweep)) for sweep in sweeps.all_sweeps()]
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


@app.command()
def show(sweep: Sweep, as_json: options.Json = False) -> None:
    """Show a sweep's trials, the best first.

    Example:

        hptctl sweep show sweep-my-base
    """
    from hptctl.sweep import folder as sweeps

    _show(sweeps.get(sweep), as_json)


@app.command()
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


@app.command()
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


def _sweep(
    target: Target,
    run: str | None,
    everyday: dict[str, Any],
    dimensions: dict[str, str | None],
    sets: list[str] | None,
    space: Path | None,
    config: Path | None,
    search_options: dict[str, Any],
    *,
    timeout: str | None,
    workers: int | None,
    storage: str | None,
    name: str | None,
    resume: str | None,
    experiment: str,
    as_json: bool,
) -> None:
    from hpt.errors import ConfigError, RunError
    from hptctl import console
    from hptctl.sweep import conductor
    from hptctl.sweep import folder as sweeps
    from hptctl.sweep.plan import make
    from hptctl.sweep.storage import shown

    workers, seconds = _workers(workers), _seconds(timeout)
    if resume is not None:
        given = everyday | dimensions | search_options | {"run": run, "name": name, "space": space}
        options.refuse_beside_resume(given | {"set": sets, "config": config})
        sweep = sweeps.get(resume)
        if (other := sweeps.plan_of(sweep).target) != target:
            raise RunError(f"'{resume}' sweeps {other}", f"go on with `hptctl sweep {other} --resume {resume}`")
        if sweep.status().state == "finished" and not _left(sweep, storage):
            console.note(f"sweep '{sweep.name}' is finished already")
            _show(sweep, as_json)
            return
    else:
        if storage is not None and name is None:
            raise ConfigError("--storage needs a name that all machines share", "give --name")
        base, varied = _base(target, run, everyday, dimensions, sets or [], space, config)
        plan = make(
            target,
            base,
            varied,
            **{key: value for key, value in search_options.items() if value is not None},
            storage=shown(storage) if storage is not None else None,
            workers=workers or 1,
        )
        sweep = sweeps.create(plan, name=name, experiment=experiment, url=storage)
    plan = sweeps.plan_of(sweep)
    console.note(f"sweep '{sweep.name}' in {sweep.path}: {_plan_in_words(plan)}")
    conductor.run_sweep(sweep, workers=workers, timeout=seconds, url=storage)
    _show(sweep, as_json)


def _base(
    target: Target,
    run: str | None,
    everyday: dict[str, Any],
    dimensions: dict[str, str | None],
    sets: list[str],
    space: Path | None,
    config: Path | None,
) -> tuple[EvaluateConfig | PretrainConfig, Any]:
    """The configuration whose fields are varied, and how."""
    from hpt.config import EvaluateConfig, PretrainConfig, resolve
    from hptctl import runs
    from hptctl.runs.weights import backbone_of, evaluated_defaults
    from hptctl.sweep.space import parse

    def settings(model: Any, inherited: dict[str, Any] | None, flags: dict[str, Any]) -> tuple[Any, Any]:
        # The preset decides the space, and the space which of the sets are fixed.
        preset = resolve(model, inherited=inherited, file=config, flags=flags).preset
        varied, fixed = parse(target, preset, file=space, sets=sets, flags=dimensions)
        return resolve(model, inherited=inherited, file=config, sets=fixed, flags=flags), varied

    if target == "pretrain":
        found, varied = settings(PretrainConfig, None, everyday)
        if found.weights is not None:  # the preset's backbone gives way to that of the weights
            return settings(PretrainConfig, {"backbone": backbone_of(found.weights)}, everyday)
        return found, varied
    weights = run or runs.newest().name
    flags = everyday | {"kind": target, "weights": weights}
    return settings(EvaluateConfig, evaluated_defaults(weights), flags)


def _plan_in_words(plan: Any) -> str:
    points = " x ".join(f"{name} {dimension.in_words()}" for name, dimension in plan.space.dimensions.items())
    seeds = f", {plan.repeats} seeds each" if plan.repeats > 1 else ""
    pruner = f", {plan.pruner} pruning" if plan.pruner != "none" else ""
    objective = f"; {plan.objective} on val is the objective" if plan.target == "pretrain" else ""
    return f"{plan.trials} trials ({plan.sampler}) of {points}{seeds}{pruner}{objective}"


def _left(sweep: Run, storage: str | None) -> bool:
    from hptctl.sweep import folder as sweeps

    return any(trial.state in {"waiting", "running"} for trial in sweeps.trials(sweep, storage))


def _show(run: Run, as_json: bool) -> None:
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


def _workers(count: int | None) -> int | None:
    from hpt.errors import ConfigError

    if count is not None and count < 1:
        raise ConfigError(f"--workers {count} would do nothing", "give 1 or more")
    return count


def _seconds(text: str | None) -> float | None:
    from hpt.errors import ConfigError

    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", text)
    if match is None or float(match[1]) == 0:
        raise ConfigError(f"--timeout {text!r} is no time", "write 90s, 45m or 12h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
