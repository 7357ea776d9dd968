"""`hptctl pretrain`"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hptctl import options
from hptctl.commands.elsewhere import HERE, Elsewhere
from hptctl.format import count, duration, percent

if TYPE_CHECKING:
    from hpt.config import PretrainConfig
    from hptctl.runs import Run
    from hptctl.runs.machines import Place


@options.gathered
def pretrain(
    strategy: Annotated[
        str | None, typer.Option("--strategy", "-s", help="base, target, hpt or hpt-bn; see above.")
    ] = None,
    dataset: options.Dataset = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            "-w",
            help="The base: a known name, a file, an earlier run, timm:NAME or hf-hub:ORG/NAME.",
            show_default="moco-v2-800ep",
        ),
    ] = None,
    allow_partial: options.AllowPartial = False,
    steps: Annotated[int | None, typer.Option("--steps", help="Optimizer steps.", show_default="5000")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Images per step.", show_default="256")] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone", help="resnet18, 34, 50, 101, 152, or timm's name of an image model.", show_default="resnet50"
        ),
    ] = None,
    image_size: options.ImageSize = None,
    policy: options.Policy = None,
    save_at: Annotated[
        str | None, typer.Option("--save-at", metavar="STEPS", help="Keep the backbone after these steps too: 50,500.")
    ] = None,
    probe_every: Annotated[
        int | None,
        typer.Option("--probe-every", help="Steps between looks at the representation: kNN on val, and more."),
    ] = None,
    keep_best: Annotated[
        bool, typer.Option("--keep-best", help="Keep the backbone that the looks favour instead of the last.")
    ] = False,
    stop_when_worse: Annotated[
        bool,
        typer.Option("--stop-when-worse", help="Look on the way, stop when it is worse than its base, keep the best."),
    ] = False,
    seed: options.Seed = None,
    processes: options.Processes = None,
    machines: Annotated[
        int | None,
        typer.Option("--machines", help="Machines that share the processes; give the command on each of them."),
    ] = None,
    machine_rank: Annotated[
        int | None, typer.Option("--machine-rank", help="Which of them this is; 0 holds the run's folder.")
    ] = None,
    main_address: Annotated[
        str | None, typer.Option("--main-address", metavar="HOST:PORT", help="Where the others reach machine 0.")
    ] = None,
    wait: Annotated[
        str | None,
        typer.Option("--wait", metavar="TIME", help="How long to look for the other machines.", show_default="5m"),
    ] = None,
    device: options.Device = None,
    precision: options.Precision = None,
    preset: options.Preset = None,
    name: options.Name = None,
    sets: options.Sets = None,
    config: options.ConfigFile = None,
    dry_run: options.DryRun = False,
    time_limit: options.For = None,
    elsewhere: Elsewhere = HERE,
    resume: options.Resume = None,
    create_only: Annotated[
        bool,
        typer.Option("--create-only", help="Make the run, and print how a launcher of yours starts its processes."),
    ] = False,
    experiment: options.Experiment = "hptctl",
    log_backbone: Annotated[
        bool, typer.Option("--log-backbone", help="Store the backbone in MLflow too; the run's folder has it anyway.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Pretrain a backbone on your images.

    Strategies:

        base     base weights, BatchNorm statistics re-estimated

        target   MoCo-v2 from random weights (MoCo-v3 of transformers)

        hpt      the same, continued from base weights

        hpt-bn   as hpt, but only BatchNorm trains in the backbone, or its other norms where it has none

    Examples:

        hptctl pretrain --strategy hpt-bn --dataset flowers

        hptctl pretrain -s target -d shapes --preset tiny --name my-base

        hptctl pretrain -s hpt -d my-images/ -w my-base --preset small

        hptctl pretrain -s hpt -d digits -w my-base --preset tiny --save-at 10,50 --probe-every 10

        hptctl pretrain -s hpt -d my-images/ -w timm:vit_small_patch14_dinov2.lvd142m --stop-when-worse

        hptctl pretrain -s target -d my-images/ --backbone convnext_tiny

        hptctl pretrain -s hpt -d my-images/ -w my-base --for 8m

        hptctl pretrain --resume my-base

    On two machines, the same command on both but for its rank (1 on the other):

        hptctl pretrain -s hpt -d my-images/ --processes 8 --machines 2 --machine-rank 0 --main-address 10.0.0.5:29500

    As a job of a Slurm cluster:

        hptctl pretrain -s hpt -d my-images/ --on slurm --cluster partition=gpu --cluster gpus=1 --cluster time=4h
    """
    from hpt.config import asked as asked_for
    from hpt.config import flatten
    from hpt.errors import ConfigError
    from hptctl import console, deadline, environment, runs
    from hptctl.runs import launch
    from hptctl.runs.machines import Place

    everyday = {
        "strategy": strategy,
        "dataset": dataset,
        "weights": weights,
        "steps": steps,
        "batch_size": batch_size,
        "backbone": backbone,
        "image_size": image_size,
        "seed": seed,
        "processes": processes,
        "device": device,
        "precision": precision,
        "preset": preset,
        "save_at": save_at,
        "probe_every": probe_every,
        "keep_best": keep_best or None,
        "stop_when_worse": stop_when_worse or None,
        "allow_partial": allow_partial or None,
        "augment": {"policy": policy} if policy is not None else None,
    }
    patience = deadline.seconds(wait, "--wait") if wait is not None else None
    place = Place.of(machines, machine_rank, main_address, patience)
    apart = place is not None and place.rank > 0
    if place is not None:
        environment.quiet_sockets()
    if create_only and (place is not None or resume is not None):
        raise ConfigError(
            "--create-only makes a run for a launcher of yours, which says how many machines there are",
            f"drop it, or {'--machines' if place is not None else '--resume'}",
        )
    cluster = elsewhere.check()
    if cluster is not None and (place is not None or create_only):
        raise ConfigError(
            f"--on {elsewhere.on} sends a whole run away, and "
            f"{'--machines' if place is not None else '--create-only'} is for processes that you start yourself",
            "give one of them; inside a job, srun and --create-only start a run on several machines",
        )
    if resume is not None:
        aside = {"augment": None, "policy": policy, "name": name, "set": sets, "config": config}
        given = everyday | aside | {"dry_run": dry_run or None}
        options.refuse_beside_resume(given | ({"dataset": None} if apart else {}))
        asked = {"resume": resume}

        def make() -> Run:
            run = runs.get(resume)
            if run.spec().kind != "pretrain":
                raise ConfigError(f"run '{run.name}' is a {run.spec().kind} run", "only pretrainings resume this way")
            return run
    else:
        settings = _settings(config, sets, everyday, apart=apart)
        if place is not None:
            launch.check_share(settings.processes, place)
        on_steps = {
            "--steps": steps,
            "--save-at": save_at,
            "--probe-every": probe_every,
            "--keep-best": keep_best or None,
            "--stop-when-worse": stop_when_worse or None,
        }
        idle = [option for option, value in on_steps.items() if value is not None]
        if settings.strategy == "base" and idle:
            console.note(f"note: strategy base takes no gradient step, so {' and '.join(idle)} will do nothing")
        if dry_run:
            _plan(settings, as_json)
            return
        asked = flatten(asked_for(file=config, sets=sets or (), flags=everyday))
        asked.pop("dataset", None)  # which may lie elsewhere on each machine: the images are compared

        def make() -> Run:
            origin = launch.Origin(options.command_line(), experiment)
            return launch.create_pretraining(
                settings, origin, name=name, log_backbone=log_backbone, look=cluster is None
            )

    if place is not None:
        done = launch.execute_on(place, asked, make, dataset=dataset)
        if done is None:
            _show_part(place, as_json)
            return
        _show(done, as_json)
        return
    run = make()
    if create_only:
        _show_start(run, as_json)
        return
    if run.status().state == "finished":
        console.note(f"run '{run.name}' is finished already")
    else:
        console.note(f"run '{run.name}' in {run.path}")
        if not elsewhere.execute(run, cluster):
            return
    _show(run, as_json)


def _settings(config: Path | None, sets: list[str] | None, flags: dict[str, Any], *, apart: bool) -> PretrainConfig:
    """The configuration that was asked for; the preset's backbone gives way to that of the weights.

    On a machine that does not hold the run the weights may be missing, and say nothing then.
    """
    from hpt.config import PretrainConfig, resolve
    from hpt.errors import UserError
    from hptctl.runs.weights import backbone_of

    settings = resolve(PretrainConfig, file=config, sets=sets or (), flags=flags)
    if settings.weights is None:
        return settings
    try:
        inherited = {"backbone": backbone_of(settings.weights, settings.backbone)}
    except UserError:
        if not apart:
            raise
        return settings
    return resolve(PretrainConfig, inherited=inherited, file=config, sets=sets or (), flags=flags)


def _show_start(run: Run, as_json: bool) -> None:
    """How a launcher starts a run that was only created."""
    from hptctl import console
    from hptctl.runs import launch

    start = launch.start_line(run)
    if as_json:
        console.print_json({"name": run.name, "folder": str(run.path.resolve()), "start": start})
        return
    console.say(f"run '{run.name}' in {run.path}")
    console.say(f"start it: {start}")


def _show_part(place: Place, as_json: bool) -> None:
    """The end of a run that another machine holds."""
    from hptctl import console

    if as_json:
        console.print_json({"machine": place.rank, "machines": place.machines, "main_address": place.address})
        return
    console.say(f"machine {place.rank} of {place.machines} is done; the run is on machine 0 ({place.host})")


def _show(run: Run, as_json: bool) -> None:
    from hptctl import console
    from hptctl.runs.weights import absent

    status = run.status()
    seconds = (status.ended or 0) - (status.started or 0)
    if as_json:
        console.print_json(
            {"name": run.name, "folder": str(run.path.resolve()), "backbone": str(run.backbone.resolve())}
            | {"seconds": round(seconds, 1), "results": status.results, "facts": status.facts.text()}
        )
        return
    figures = "".join(
        f", {label} {status.results[key]:.3g}"
        for key, label in (("loss", "loss"), ("contrastive_top1", "contrastive accuracy"))
        if key in status.results
    )
    console.say(f"{run.name}: {status.facts.text().get('images', '?')} images, {duration(seconds)}{figures}")
    for line in _seen_on_the_way(run):
        console.say(line)
    if not run.backbone.exists():
        error = absent(run)
        console.say(f"{error.what}: {error.fix}")
        return
    console.say(f"backbone: {run.backbone}")
    name = shlex.quote(run.name)
    several = " --all-checkpoints" if run.spec().config["save_at"] else ""
    console.say(f"next: hptctl evaluate linear {name}{several}")


def _seen_on_the_way(run: Run) -> Iterator[str]:
    """What the looks at the representation say of the run's length."""

    facts, last = run.status().facts, run.status().results
    if facts.best_step is None or facts.best_by is None or facts.best_figure is None:
        return
    key, step = facts.best_by, facts.best_step
    labelled = key.startswith("probe/knn_")
    what = f"kNN {key.removeprefix('probe/knn_')} on val" if labelled else key.removeprefix("probe/").replace("_", " ")
    best, end = (percent(v) if labelled else f"{v:.1f}" for v in (facts.best_figure, last[key]))
    if facts.worse_at is not None and facts.base_figure is not None and facts.base_noise is not None:
        base, noise = (percent(v) if labelled else f"{v:.1f}" for v in (facts.base_figure, facts.base_noise))
        yield (
            f"stopped after {count(facts.worse_at, 'step')}: {what} had fallen below the base's {base} by more than its"
            f" noise of {noise}"
        )
    elif step == run.spec().tags.steps:
        yield f"{what} was best at the end: {best}"
        return
    kept = "the backbone is that one" if facts.kept_step is not None else "--keep-best would keep that one"
    where = f"after {count(step, 'step')}" if step else "before the first step"
    yield f"{what} was best {where}: {best} (at the end {end}); {kept}"


def _plan(settings: PretrainConfig, as_json: bool) -> None:
    from hpt.config import flatten
    from hpt.data.names import find
    from hpt.timing import step_seconds
    from hptctl import console

    find(settings.dataset)
    steps = settings.steps if settings.strategy != "base" else 0
    seconds = step_seconds(settings) * steps if steps else 0.0
    values = flatten(settings.model_dump(mode="json"))
    if as_json:
        console.print_json({"config": values, "steps": steps, "estimated_seconds": round(seconds, 1)})
        return
    console.table("Configuration", ("field", "value"), [(key, str(value)) for key, value in values.items()])
    if seconds:
        console.say(
            f"{count(steps, 'step')} of {settings.batch_size} images: about {duration(seconds)} on this machine,"
            " by a quick measurement of the model alone"
        )
