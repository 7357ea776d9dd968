"""`hptctl compare`"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hptctl import options

if TYPE_CHECKING:
    from hptctl.compare.arms import Arm, Pair


def compare(
    run: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN...",
            help="Evaluations, sweeps (their winner), or pretrainings (their newest evaluation); a,b,c pools seeds.",
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
    as_json: options.Json = False,
) -> None:
    """Say whether one run is better than another, and how sure that is.

    The difference has a bootstrap interval over test images, paired, and over reruns; of several pairs each interval
    holds for its pair alone. Runs on other images or another split are refused.

    Examples:

        hptctl compare my-hpt my-base

        hptctl compare linear-hpt linear-target linear-base --metric balanced_accuracy

        hptctl compare hpt-seed0,hpt-seed1 base-seed0,base-seed1
    """
    from hpt.errors import ConfigError, did_you_mean
    from hptctl import console
    from hptctl.compare import arms as comparison

    if len(run) < 2:
        raise ConfigError("one run alone compares with nothing", "name two runs or more")
    if kind is not None and kind not in comparison.KINDS:
        raise ConfigError(
            f"unknown --kind '{kind}'{did_you_mean(kind, comparison.KINDS)}",
            f"choose one of {', '.join(comparison.KINDS)}",
        )
    if split not in ("test", "val"):
        raise ConfigError(f"unknown --split '{split}'{did_you_mean(split, ('test', 'val'))}", "choose test or val")
    found = comparison.arms(run, split, kind)
    metric = metric or comparison.headline(found)
    for line in comparison.unfair(found):
        console.note(f"note: {line}")
    pairs = comparison.compare(found, metric, resamples=resamples, seed=seed, level=level)
    adjusted: list[float | None] = [None] * len(pairs)
    tests = [(i, pair.mcnemar.p_value) for i, pair in enumerate(pairs) if pair.mcnemar is not None]
    for (at, _), value in zip(tests, comparison.holm([p for _, p in tests]), strict=True):
        adjusted[at] = value
    if as_json:
        console.print_json(_document(found, pairs, adjusted, metric, split))
        return
    _say(found, pairs, adjusted, metric, split)


def _document(
    found: list[Arm], pairs: list[Pair], adjusted: list[float | None], metric: str, split: str
) -> dict[str, Any]:
    from hptctl.compare import arms as comparison

    return {
        "metric": metric,
        "split": split,
        "images": len(found[0].predictions.labels),
        "arms": [
            {"name": arm.name, "runs": [each.name for each in arm.runs], "figures": comparison.figures(arm, metric)}
            for arm in found
        ],
        "pairs": [
            {"a": pair.a, "b": pair.b, "verdict": pair.verdict}
            | {key: value for key, value in asdict(pair.interval).items() if key not in {"a", "b"}}
            | {"a_mean": pair.interval.a, "b_mean": pair.interval.b}
            | {"mcnemar": asdict(pair.mcnemar) | {"holm": p} if pair.mcnemar else None}
            for pair, p in zip(pairs, adjusted, strict=True)
        ],
    }


def _say(found: list[Arm], pairs: list[Pair], adjusted: list[float | None], metric: str, split: str) -> None:
    import statistics
    import string

    from hptctl import console
    from hptctl.compare import arms as comparison

    images = len(found[0].predictions.labels)
    for pair in pairs if len(pairs) == 1 else ():
        at = pair.interval
        wide = f"{100 * at.level:g} % interval {100 * at.low:+.1f} to {100 * at.high:+.1f}"
        points = f"{abs(100 * at.difference):.1f} points of {metric}"
        p = f"; McNemar p = {pair.mcnemar.p_value:.2g} (accuracy)" if pair.mcnemar else ""
        if pair.verdict == "tie":
            console.say(f"No difference found between {pair.a} and {pair.b} on {images} {split} images:")
            console.say(f"{100 * at.difference:+.1f} points of {metric}, {wide}{p}")
        else:
            better, worse = (pair.a, pair.b) if pair.verdict == "win" else (pair.b, pair.a)
            console.say(f"{better} is better than {worse} on {images} {split} images:")
            console.say(f"{points}; {pair.a} less {pair.b}: {wide}{p}")
    for arm in found:
        if (by := ", ".join(run.name for run in arm.runs)) != arm.name:
            console.note(f"{arm.name} is compared by {by}")
    # Letters, since names are long and come twice in a pair.
    letters = dict(zip((arm.name for arm in found), string.ascii_lowercase, strict=False))
    rows = []
    for arm in found:
        each = comparison.figures(arm, metric)
        spread = f" ± {100 * statistics.stdev(each):.1f}" if len(each) > 1 else ""
        counts = dict.fromkeys(("win", "loss", "tie"), 0)
        for pair in pairs:
            if arm.name in (pair.a, pair.b):
                flipped = {"win": "loss", "loss": "win", "tie": "tie"}
                counts[pair.verdict if arm.name == pair.a else flipped[pair.verdict]] += 1
        mean = statistics.fmean(each)
        row = (letters.get(arm.name, ""), arm.name, console.percent(mean) + spread, str(len(each)))
        rows.append((mean, (*row, f"{counts['win']}/{counts['tie']}/{counts['loss']}")))
    console.table(
        "",
        ("", "model", f">{metric}", ">reruns", ">win/tie/loss"),
        [row for _, row in sorted(rows, key=lambda pair: -pair[0])],
    )
    if len(pairs) > 1:
        console.table(
            f"\nDifferences in points, {100 * pairs[0].interval.level:g} % intervals, {images} {split} images",
            ("pair", ">points", ">interval", "verdict", ">McNemar p", ">(Holm)"),
            [
                (
                    f"{letters.get(pair.a, pair.a)} - {letters.get(pair.b, pair.b)}",
                    f"{100 * pair.interval.difference:+.1f}",
                    f"{100 * pair.interval.low:+.1f} to {100 * pair.interval.high:+.1f}",
                    pair.verdict,
                    *(("", "") if pair.mcnemar is None else (f"{pair.mcnemar.p_value:.2g}", f"{p:.2g}")),
                )
                for pair, p in zip(pairs, adjusted, strict=True)
            ],
        )
