"""`hptctl evaluate linear|knn|finetune`"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hptctl import options
from hptctl.commands.evaluate.show import print_figures

if TYPE_CHECKING:
    from hpt.config import EvaluateConfig


Labels = Annotated[str | None, typer.Option("--labels", help="Training labels used: all, 1000, 10% or 5-per-class.")]
Lr = Annotated[float | None, typer.Option("--lr", help="Learning rate of the backbone; the head's is 100 times it.")]
AllCheckpoints = Annotated[
    bool,
    typer.Option("--all-checkpoints", help="Every backbone that the run kept by --save-at, and the last: its curve."),
]
Schedule = Annotated[
    str | None, typer.Option("--schedule", help="Length: 2500-steps, 90-epochs; lr drops at 1/3 and 2/3.")
]


def _on_frozen_features(kind: str, doc: str) -> Callable[..., None]:
    """The command of an evaluation that trains nothing in the backbone."""

    def command(
        run: options.RunArgument = None,
        dataset: options.Dataset = None,
        labels: Labels = None,
        metric: options.Metric = None,
        seed: options.Seed = None,
        image_size: options.ImageSize = None,
        device: options.Device = None,
        precision: options.Precision = None,
        preset: options.Preset = None,
        name: options.Name = None,
        sets: options.Sets = None,
        config: options.ConfigFile = None,
        dry_run: options.DryRun = False,
        resume: options.Resume = None,
        all_checkpoints: AllCheckpoints = False,
        allow_partial: options.AllowPartial = False,
        experiment: options.Experiment = "hptctl",
        as_json: options.Json = False,
    ) -> None:
        flags = {"dataset": dataset, "labels": labels, "seed": seed, "image_size": image_size, "device": device}
        flags |= {"precision": precision, "preset": preset, "metric": metric}
        flags |= {"allow_partial": allow_partial or None}
        if resume is not None:
            aside = {"run": run, "name": name, "set": sets, "config": config}
            options.refuse_beside_resume(flags | aside | {"all_checkpoints": all_checkpoints or None})
            _go_on(kind, resume, as_json)
            return
        given = Given(kind, run, flags, name, sets, config, experiment, as_json)
        _evaluate_all(given) if all_checkpoints else _evaluate(given, dry_run=dry_run)

    command.__doc__ = doc
    return command


linear = _on_frozen_features(
    "linear",
    """Linear probe: one linear layer on the frozen backbone; several learning rates and reruns in one pass.

    The learning rate and the step are chosen on val; test is computed once, for the choice.

    Examples:

        hptctl evaluate linear

        hptctl evaluate linear my-base --dataset digits --set linear.steps=200

        hptctl evaluate linear weights.pth --dataset my-images/ --metric balanced_accuracy

        hptctl evaluate linear my-base --all-checkpoints

        hptctl evaluate linear my-base@500

        hptctl evaluate linear --resume linear-my-base
    """,
)
knn = _on_frozen_features(
    "knn",
    """Weighted nearest neighbours in the frozen backbone's features: quick, with nothing to train.

    Examples:

        hptctl evaluate knn

        hptctl evaluate knn my-base --dataset digits --set knn.k=5
    """,
)


def finetune(
    run: options.RunArgument = None,
    dataset: options.Dataset = None,
    labels: Labels = None,
    lr: Lr = None,
    schedule: Schedule = None,
    metric: options.Metric = None,
    seed: options.Seed = None,
    image_size: options.ImageSize = None,
    device: options.Device = None,
    precision: options.Precision = None,
    preset: options.Preset = None,
    name: options.Name = None,
    sets: options.Sets = None,
    config: options.ConfigFile = None,
    dry_run: options.DryRun = False,
    resume: options.Resume = None,
    all_checkpoints: AllCheckpoints = False,
    allow_partial: options.AllowPartial = False,
    experiment: options.Experiment = "hptctl",
    as_json: options.Json = False,
) -> None:
    """Finetune all weights on few labels (1,000 by default, all where there are fewer).

    Examples:

        hptctl evaluate finetune my-base --lr 0.01 --schedule 2500-steps

        hptctl evaluate finetune my-base -d digits --labels 100
    """
    tune = {key: value for key, value in {"lr": lr, "schedule": schedule}.items() if value is not None}
    flags = {"dataset": dataset, "labels": labels, "seed": seed, "image_size": image_size, "device": device}
    flags |= {"precision": precision, "preset": preset, "metric": metric, "allow_partial": allow_partial or None}
    if resume is not None:
        aside = {"run": run, "name": name, "set": sets, "config": config}
        options.refuse_beside_resume(flags | tune | aside | {"all_checkpoints": all_checkpoints or None})
        _go_on("finetune", resume, as_json)
        return
    given = Given("finetune", run, flags | {"finetune": tune or None}, name, sets, config, experiment, as_json)
    _evaluate_all(given) if all_checkpoints else _evaluate(given, dry_run=dry_run)


@dataclass(frozen=True)
class Given:
    """What the command line of an evaluation says."""

    kind: str
    run: str | None
    flags: dict[str, Any]
    name: str | None
    sets: list[str] | None
    config: Path | None
    experiment: str
    as_json: bool

    def settings(self, weights: str) -> EvaluateConfig:
        """The configuration for some weights."""
        from hpt.config import EvaluateConfig, resolve
        from hptctl.runs.weights import evaluated_defaults

        return resolve(
            EvaluateConfig,
            inherited=evaluated_defaults(weights),
            file=self.config,
            sets=self.sets or (),
            flags=self.flags | {"kind": self.kind, "weights": weights},
        )


def _evaluate(given: Given, *, dry_run: bool) -> None:
    from hpt.config import flatten
    from hptctl import console, runs
    from hptctl.runs import launch

    settings = given.settings(given.run or runs.newest().name)
    if dry_run:
        values = flatten(settings.model_dump(mode="json"))
        if given.as_json:
            console.print_json({"config": values})
        else:
            console.table("Configuration", ("field", "value"), [(key, str(value)) for key, value in values.items()])
        return
    made = launch.create_evaluation(settings, name=given.name, experiment=given.experiment)
    console.note(f"run '{made.name}' in {made.path}")
    launch.execute(made)
    print_figures(made, given.as_json)


def _evaluate_all(given: Given) -> None:
    """Every backbone that a pretraining kept, as a table and a curve; what is there already is not done again."""
    from hpt.errors import ConfigError
    from hptctl import console, runs
    from hptctl.study import curve

    if given.name is not None:
        raise ConfigError("--name names one evaluation, and --all-checkpoints makes several", "drop one of them")
    source = runs.get(given.run) if given.run else runs.newest()
    settings = {step: given.settings(weights) for step, weights in curve.backbones(source).items()}
    points = [curve.Point(step, curve.evaluate(each, given.experiment)) for step, each in settings.items()]
    drawn = curve.draw(source, given.kind, points)
    metric = points[0].run.status().facts.metric
    if given.as_json:
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

    def cell(point: curve.Point, split: str) -> str:
        spread = point.spread(split)
        return console.percent(point.figure(split)) + (f" ± {100 * spread:.1f}" if spread is not None else "")

    console.table(
        f"{given.kind} of {source.name} on {points[0].run.spec().tags.dataset}, {metric}",
        (">steps", ">val", ">test", "run"),
        [(f"{p.step:,}", cell(p, "val"), cell(p, "test"), p.run.name) for p in points],
    )
    best = max(points, key=lambda p: p.figure("val"))
    console.say(f"val is best after {best.step:,} steps: test {metric} {cell(best, 'test')}")
    console.say(f"curve: {drawn}")


def _go_on(kind: str, name: str, as_json: bool) -> None:
    from hpt.errors import ConfigError
    from hptctl import console, runs
    from hptctl.runs import launch

    run = runs.get(name)
    spec = run.spec()
    if spec.kind != kind:
        raise ConfigError(f"run '{run.name}' is a {spec.kind} run, not a {kind} run", "name another one")
    if run.status().state == "finished":
        console.note(f"run '{run.name}' is finished already")
    else:
        console.note(f"run '{run.name}' in {run.path}")
        launch.execute(run)
    print_figures(run, as_json)
