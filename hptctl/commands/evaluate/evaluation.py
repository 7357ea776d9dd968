"""What the commands of all kinds of evaluation share: their options, starting or resuming a run, and printing it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hptctl import options
from hptctl.commands.elsewhere import Detach, Elsewhere, On, Settings
from hptctl.commands.evaluate.figures import print_figures
from hptctl.format import count, thousands, with_spread

if TYPE_CHECKING:
    from hpt.config import EvaluateConfig

Labels = Annotated[str | None, typer.Option("--labels", help="Training labels used: all, 1000, 10% or 5-per-class.")]
EvaluatedBackbone = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        help="Of `untrained`, and of weights that do not say: a ResNet, or timm's name of an image model.",
        show_default="the preset's",
    ),
]
AllCheckpoints = Annotated[
    bool,
    typer.Option("--all-checkpoints", help="Every backbone that the run kept by --save-at, and the last: its curve."),
]


@dataclass(frozen=True)
class Shared:
    """The options that all kinds have, in the order of their help; a kind's own come before `metric`."""

    run: options.RunArgument = None
    dataset: options.Dataset = None
    labels: Labels = None
    backbone: EvaluatedBackbone = None
    metric: options.Metric = None
    seed: options.Seed = None
    image_size: options.ImageSize = None
    processes: options.Processes = None
    device: options.Device = None
    precision: options.Precision = None
    preset: options.Preset = None
    name: options.Name = None
    sets: options.Sets = None
    config: options.ConfigFile = None
    dry_run: options.DryRun = False
    time_limit: options.For = None
    on: On = None
    cluster: Settings = None
    detach: Detach = False
    resume: options.Resume = None
    all_checkpoints: AllCheckpoints = False
    allow_partial: options.AllowPartial = False
    experiment: options.Experiment = "hptctl"
    as_json: options.Json = False

    def flags(self) -> dict[str, Any]:
        """Those that are fields of the configuration; None for one that was not given."""
        fields = ("dataset", "labels", "backbone", "metric", "seed", "image_size")
        machine = ("processes", "device", "precision", "preset")
        given = {field: getattr(self, field) for field in (*fields, *machine)}
        return given | {"allow_partial": self.allow_partial or None}

    @property
    def elsewhere(self) -> Elsewhere:
        return Elsewhere(self.on, self.cluster, self.detach)


@dataclass(frozen=True)
class Request:
    """An evaluation as the command line asks for it."""

    kind: str
    own: dict[str, Any]
    """The kind's own options, which are fields of its section of the configuration; None for one that was not given."""
    shared: Shared

    def settings(self, weights: str) -> EvaluateConfig:
        """The configuration for some weights."""
        from hpt.config import EvaluateConfig, resolve
        from hptctl.runs.weights import evaluated_defaults

        section = {field: value for field, value in self.own.items() if value is not None}
        return resolve(
            EvaluateConfig,
            inherited=evaluated_defaults(weights, self.shared.backbone),
            file=self.shared.config,
            sets=self.shared.sets or (),
            flags=self.shared.flags() | {self.kind: section or None, "kind": self.kind, "weights": weights},
        )


def evaluation(declared: Callable[..., None]) -> Callable[..., None]:
    """The command of one kind of evaluation, made of a function that declares it and has no body.

    The function has the kind's name; its docstring is the command's help, and its parameters are the options that this
    kind alone has: `lr` of `finetune` sets `finetune.lr`.
    """
    own = list(inspect.signature(declared, eval_str=True).parameters.values())
    shared = list(inspect.signature(Shared, eval_str=True).parameters.values())
    place = [parameter.name for parameter in shared].index("metric")

    def command(**values: Any) -> None:
        mine = {parameter.name: values.pop(parameter.name) for parameter in own}
        _answer(Request(declared.__name__, mine, Shared(**values)))

    command.__name__, command.__doc__ = declared.__name__, declared.__doc__
    # What Typer reads the options from.
    command.__signature__ = inspect.Signature([*shared[:place], *own, *shared[place:]])  # type: ignore[attr-defined]
    return command


def _answer(request: Request) -> None:
    shared = request.shared
    if shared.resume is not None:
        aside = {"run": shared.run, "name": shared.name, "set": shared.sets, "config": shared.config}
        more = {"all_checkpoints": shared.all_checkpoints or None}
        options.refuse_beside_resume(shared.flags() | request.own | aside | more)
        _resume(request.kind, shared.resume, shared.elsewhere, shared.as_json)
    elif shared.all_checkpoints:
        _evaluate_all(request)
    else:
        _evaluate(request)


def _evaluate(request: Request) -> None:
    from hpt.config import flatten
    from hptctl import console, runs
    from hptctl.runs import launch

    shared = request.shared
    cluster = shared.elsewhere.check()
    settings = request.settings(shared.run or runs.newest().name)
    if shared.dry_run:
        values = flatten(settings.model_dump(mode="json"))
        if shared.as_json:
            console.print_json({"config": values})
        else:
            console.table("Configuration", ("field", "value"), [(key, str(value)) for key, value in values.items()])
        return
    origin = launch.Origin(options.command_line(), shared.experiment)
    made = launch.create_evaluation(settings, origin, name=shared.name, look=cluster is None)
    console.note(f"run '{made.name}' in {made.path}")
    if not shared.elsewhere.execute(made, cluster):
        return
    print_figures(made, shared.as_json)


def _evaluate_all(request: Request) -> None:
    """Evaluate every backbone that a pretraining kept, but none twice, and show them as a table and a curve."""
    from hpt.errors import ConfigError
    from hptctl import console, runs
    from hptctl.runs.launch import Origin
    from hptctl.study import curve

    shared = request.shared
    if shared.name is not None:
        raise ConfigError("--name names one evaluation, and --all-checkpoints makes several", "drop one of them")
    if shared.elsewhere.check() is not None:
        raise ConfigError(
            "--all-checkpoints evaluates here, one after the other, and --on sends one run",
            "name one backbone (RUN@STEP), or give a study its lengths",
        )
    source = runs.get(shared.run) if shared.run else runs.newest()
    settings = {step: request.settings(weights) for step, weights in curve.backbones(source).items()}
    origin = Origin(options.command_line(), shared.experiment)
    points = [curve.CurvePoint(step, curve.evaluate(each, origin)) for step, each in settings.items()]
    drawn = curve.draw(source, request.kind, points)
    metric = points[0].run.status().facts.metric
    if shared.as_json:
        rows = [
            {
                "step": p.step,
                "name": p.run.name,
                "results": p.run.status().results,
                "facts": p.run.status().facts.text(),
            }
            for p in points
        ]
        console.print_json({"source": source.name, "metric": metric, "points": rows, "figure": str(drawn.resolve())})
        return

    def cell(point: curve.CurvePoint, split: str) -> str:
        return with_spread(point.figure(split), point.spread(split))

    console.table(
        f"{request.kind} of {source.name} on {points[0].run.spec().tags.dataset}, {metric}",
        (">steps", ">val", ">test", "run"),
        [(thousands(p.step), cell(p, "val"), cell(p, "test"), p.run.name) for p in points],
    )
    best = max(points, key=lambda p: p.figure("val"))
    console.say(f"val is best after {count(best.step, 'step')}: test {metric} {cell(best, 'test')}")
    console.say(f"curve: {drawn}")


def _resume(kind: str, name: str, elsewhere: Elsewhere, as_json: bool) -> None:
    from hpt.errors import ConfigError
    from hptctl import console, runs

    cluster = elsewhere.check()
    run = runs.get(name)
    spec = run.spec()
    if spec.kind != kind:
        raise ConfigError(f"run '{run.name}' is a {spec.kind} run, not a {kind} run", "name another one")
    if run.status().state == "finished":
        console.note(f"run '{run.name}' is finished already")
    else:
        console.note(f"run '{run.name}' in {run.path}")
        if not elsewhere.execute(run, cluster):
            return
    print_figures(run, as_json)
