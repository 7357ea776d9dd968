"""`hptctl compare`"""

from __future__ import annotations

from typing import Annotated

import typer

from hptctl import options


def compare(
    run: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN...",
            help="Evaluations, sweeps (their winner), pretrainings (their newest evaluation), or weights, such as "
            "timm:NAME; a,b,c pools seeds.",
        ),
    ],
    metric: Annotated[
        str | None,
        typer.Option("--metric", help="top1, top5, balanced_accuracy, auroc or map.", show_default="that which chose"),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option("--kind", help="Which evaluation of a pretraining: linear, finetune or knn."),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="test; or val, which chose and therefore flatters.")] = "test",
    resamples: Annotated[int, typer.Option("--resamples", min=100, help="Of the bootstrap.")] = 2000,
    level: Annotated[float, typer.Option("--level", min=0.5, max=0.999, help="Coverage of the interval.")] = 0.95,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the bootstrap.")] = 0,
    image_size: Annotated[
        int | None,
        typer.Option("--image-size", help="Pixels, of evaluations that are made now.", show_default="the others'"),
    ] = None,
    no_evaluate: Annotated[bool, typer.Option("--no-evaluate", help="Refuse what was not evaluated yet.")] = False,
    experiment: options.Experiment = "hptctl",
    as_json: options.Json = False,
) -> None:
    """Say whether one run is better than another, and how sure that is.

    The difference has an interval that covers the chance in the test images (a paired bootstrap) and in the seeds
    (Student's t). Of several pairs each interval holds for its pair alone, and the verdicts hold together (Holm). Runs
    on other images or another split are refused. Weights and pretrainings that lack an evaluation are evaluated first,
    with the settings of the others.

    Examples:

        hptctl compare my-hpt my-base

        hptctl compare linear-hpt linear-target linear-base --metric balanced_accuracy

        hptctl compare hpt-seed0,hpt-seed1 base-seed0,base-seed1

        hptctl compare my-hpt timm:resnet26d.bt_in1k untrained
    """
    from hpt.errors import ConfigError, did_you_mean
    from hptctl import console
    from hptctl.commands.missing import EvaluatedNow
    from hptctl.compare import arms, comparison
    from hptctl.format import round_percent

    if len(run) < 2:
        raise ConfigError("one run alone compares with nothing", "name two runs or more")
    if kind is not None and kind not in arms.KINDS:
        raise ConfigError(
            f"unknown --kind '{kind}'{did_you_mean(kind, arms.KINDS)}", f"choose one of {', '.join(arms.KINDS)}"
        )
    if split not in ("test", "val"):
        raise ConfigError(f"unknown --split '{split}'{did_you_mean(split, ('test', 'val'))}", "choose test or val")
    missing = None if no_evaluate else EvaluatedNow(experiment, image_size)
    found = arms.arms(run, split, kind, missing)
    metric = metric or arms.headline(found)
    for line in arms.unfair(found):
        console.note(f"note: {line}")
    compared = comparison.compare(found, metric, split, resamples=resamples, seed=seed, level=level)
    if as_json:
        console.print_json(compared.document())
        return
    if len(compared.pairs) == 1:
        for line in compared.sentences():
            console.say(line)
    for arm in found:
        if (by := ", ".join(each.name for each in arm.runs)) != arm.name:
            console.note(f"{arm.name} is compared by {by}")
    console.table("", ("", "model", f">{metric}", ">reruns", ">win/tie/loss"), compared.standings())
    if len(compared.pairs) > 1:
        on = f"{compared.images} {split} images"
        console.table(
            f"\nDifferences in points, {round_percent(level)} intervals, {on}",
            ("pair", ">points", ">interval", "verdict", ">p (Holm)", ">McNemar p"),
            compared.differences(),
        )
        console.say(
            f"Verdicts hold together: by Holm's method, over {len(compared.pairs)} pairs; an interval is its own."
        )
    for line in compared.caveats():
        console.note(f"note: {line}")
