"""What the searches share, whatever their trials do: their options, the plan, starting or going on, and the result."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from hptctl import options
from hptctl.commands.elsewhere import Detach, Elsewhere, On, Settings
from hptctl.commands.sweep.results import print_trials

if TYPE_CHECKING:
    from hpt.config import EvaluateConfig, PretrainConfig
    from hptctl.runs import Run
    from hptctl.sweep.plan import Plan
    from hptctl.sweep.space import Space, Target

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


@dataclass(frozen=True)
class SearchOptions:
    """The options of every search, in the order of their help."""

    sets: Sets = None
    space: SpaceFile = None
    sampler: SamplerName = None
    pruner: PrunerName = None
    trials: Trials = None
    timeout: Timeout = None
    time_limit: options.For = None
    on: On = None
    cluster: Settings = None
    detach: Detach = False
    repeats: Repeats = None
    workers: Workers = None
    storage: Storage = None
    seed: options.Seed = None
    device: options.Device = None
    precision: options.Precision = None
    preset: options.Preset = None
    name: options.Name = None
    config: options.ConfigFile = None
    resume: Resume = None
    experiment: options.Experiment = "hptctl"
    as_json: options.Json = False


def over_learning_rates(declared: Callable[[], None]) -> Callable[..., None]:
    """The command of a sweep whose short option is the learning rate, made of a function that declares it and has no
    body: its name is the target, its docstring the command's help."""

    def command(
        run: options.RunArgument = None,
        lr: Lr = None,
        labels: Labels = None,
        dataset: options.Dataset = None,
        metric: options.Metric = None,
        *,
        search: SearchOptions,
    ) -> None:
        fields = {"labels": labels, "dataset": dataset, "metric": metric}
        Search(cast("Target", declared.__name__), search, fields, {"lr": lr}, run=run).answer()

    command.__name__, command.__doc__ = declared.__name__, declared.__doc__
    return options.gathered(command)


@dataclass(frozen=True)
class Search:
    """A sweep as the command line asks for it."""

    target: Target
    shared: SearchOptions
    own: dict[str, str | None]
    """The command's own options that are fields of the configuration; None for one that was not given."""
    dimensions: dict[str, str | None]
    """Those that give a field several values, or a range."""
    run: str | None = None
    """The run whose backbone is evaluated."""
    objective: str | None = None

    def answer(self) -> None:
        """Start the sweep, or go on with it, and show what came of it."""
        from hptctl import console
        from hptctl.sweep import conductor
        from hptctl.sweep import folder as sweeps
        from hptctl.sweep.storage import STORAGE_VARIABLE

        shared = self.shared
        elsewhere = Elsewhere(shared.on, shared.cluster, shared.detach)
        cluster = elsewhere.check()
        workers, timeout = positive_workers(shared.workers), seconds(shared.timeout)
        sweep = self._create() if shared.resume is None else self._resumed(shared.resume)
        if shared.resume is not None and sweep.status().state == "finished" and not _left(sweep, shared.storage):
            console.note(f"sweep '{sweep.name}' is finished already")
        else:
            console.note(f"sweep '{sweep.name}' in {sweep.path}: {_in_words(sweeps.plan_of(sweep))}")
            if cluster is None:
                conductor.run_sweep(sweep, workers=workers, timeout=timeout, url=shared.storage)
            else:
                if shared.storage is not None:  # not among the arguments, which everybody can read
                    os.environ[STORAGE_VARIABLE] = shared.storage
                more = [f"--{name}={value}" for name in ("workers", "timeout") if (value := getattr(shared, name))]
                if not elsewhere.execute(sweep, cluster, *more):
                    return
        print_trials(sweep, shared.as_json)

    def _resumed(self, name: str) -> Run:
        """The sweep of that name, which the other options must leave as it is."""
        from hpt.errors import RunError
        from hptctl.sweep import folder as sweeps

        shared = self.shared
        aside = {
            "run": self.run,
            "name": shared.name,
            "space": shared.space,
            "set": shared.sets,
            "config": shared.config,
        }
        options.refuse_beside_resume(self._flags() | self.dimensions | self._choices() | aside)
        sweep = sweeps.get(name)
        if (other := sweeps.plan_of(sweep).target) != self.target:
            raise RunError(f"'{name}' sweeps {other}", f"go on with `hptctl sweep {other} --resume {name}`")
        return sweep

    def _create(self) -> Run:
        from hpt.errors import ConfigError
        from hptctl.runs.launch import Origin
        from hptctl.sweep import folder as sweeps
        from hptctl.sweep.plan import PlanOptions, make
        from hptctl.sweep.storage import shown

        shared = self.shared
        if shared.storage is not None and shared.name is None:
            raise ConfigError("--storage needs a name that all machines share", "give --name")
        base, space = self._base()
        storage = shown(shared.storage) if shared.storage is not None else None
        plan = make(self.target, base, space, PlanOptions(**self._choices(), storage=storage, workers=shared.workers))
        origin = Origin(options.command_line(), shared.experiment)
        return sweeps.create(plan, origin, name=shared.name, url=shared.storage, look=shared.on is None)

    def _base(self) -> tuple[EvaluateConfig | PretrainConfig, Space]:
        """The configuration whose fields are varied, and how."""
        from hpt.config import EvaluateConfig, PretrainConfig, resolve
        from hptctl import runs
        from hptctl.runs.weights import backbone_of, evaluated_defaults
        from hptctl.sweep.space import parse

        shared = self.shared

        def settings(model: Any, inherited: dict[str, Any] | None, flags: dict[str, Any]) -> tuple[Any, Space]:
            # The preset decides the space, and the space which of the sets are fixed.
            preset = resolve(model, inherited=inherited, file=shared.config, flags=flags).preset
            space, fixed = parse(self.target, preset, file=shared.space, sets=shared.sets or (), flags=self.dimensions)
            return resolve(model, inherited=inherited, file=shared.config, sets=fixed, flags=flags), space

        if self.target == "pretrain":
            found, space = settings(PretrainConfig, None, self._flags())
            if found.weights is not None:  # the preset's backbone gives way to that of the weights
                return settings(PretrainConfig, {"backbone": backbone_of(found.weights)}, self._flags())
            return found, space
        weights = self.run or runs.newest().name
        flags = self._flags() | {"kind": self.target, "weights": weights}
        return settings(EvaluateConfig, evaluated_defaults(weights), flags)

    def _flags(self) -> dict[str, Any]:
        """The options that are fields of the configuration."""
        fields = ("seed", "device", "precision", "preset")
        return self.own | {field: getattr(self.shared, field) for field in fields}

    def _choices(self) -> dict[str, Any]:
        """The options that say how the space is searched."""
        choices = ("sampler", "pruner", "trials", "repeats")
        return {choice: getattr(self.shared, choice) for choice in choices} | {"objective": self.objective}


def positive_workers(count: int | None) -> int | None:
    """`--workers`, checked.

    Raises:
        ConfigError: fewer than one.
    """
    from hpt.errors import ConfigError

    if count is not None and count < 1:
        raise ConfigError(f"--workers {count} would do nothing", "give 1 or more")
    return count


def seconds(text: str | None) -> float | None:
    """`--timeout` in seconds.

    Raises:
        ConfigError: it is not a length of time.
    """
    from hptctl import deadline

    return deadline.seconds(text, "--timeout") if text is not None else None


def _in_words(plan: Plan) -> str:
    points = " x ".join(f"{name} {dimension.in_words()}" for name, dimension in plan.space.dimensions.items())
    seeds = f", {plan.repeats} seeds each" if plan.repeats > 1 else ""
    pruner = f", {plan.pruner} pruning" if plan.pruner != "none" else ""
    objective = f"; {plan.objective} on val is the objective" if plan.target == "pretrain" else ""
    return f"{plan.trials} trials ({plan.sampler}) of {points}{seeds}{pruner}{objective}"


def _left(sweep: Run, storage: str | None) -> bool:
    from hptctl.sweep import folder as sweeps

    return any(trial.state in {"waiting", "running"} for trial in sweeps.trials(sweep, storage))
