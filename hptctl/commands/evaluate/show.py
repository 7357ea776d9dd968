"""`hptctl evaluate show`"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hptctl.runs import Run

from hptctl import options

if TYPE_CHECKING:
    pass


def show(
    run: Annotated[str, typer.Argument(help="Name of a linear, knn or finetune run.")],
    split: Annotated[str, typer.Option("--split", help="test or val.")] = "test",
    as_json: options.Json = False,
) -> None:
    """Show an evaluation class by class, the weakest first, and which classes are taken for which.

    Examples:

        hptctl evaluate show linear-my-base

        hptctl evaluate show linear-my-base --split val --json
    """
    from hpt.errors import RunError
    from hptctl import console, runs
    from hptctl.runs import class_tables

    found = runs.get(run)
    if found.spec().kind not in {"linear", "knn", "finetune"}:
        raise RunError(f"run '{found.name}' is a {found.spec().kind} run", "name an evaluation: `hptctl runs list`")
    classes = class_tables.per_class(found, split)
    confused = class_tables.confused(found, split)
    if as_json:
        console.print_json(
            {"name": found.name, "split": split, "classes": classes, "confused": [vars(each) for each in confused]}
        )
        return
    print_figures(found, as_json=False)
    columns = ("recall", "precision", "f1", "auroc", "average_precision")
    console.table(
        f"\nClasses on {split}, the weakest first",
        ("class", ">images", *(f">{'AP' if key == 'average_precision' else key}" for key in columns)),
        [
            (row["class"], f"{row['support']:g}", *(_percent(row[key]) for key in columns))
            for row in sorted(classes, key=lambda row: (row["f1"] is None, row["f1"]))
        ],
    )
    if confused:
        console.table(
            "\nTaken for each other most often",
            ("class", "taken for", ">images", ">of the class"),
            [(e.actual, e.predicted, f"{e.images:.4g}", console.percent(e.share)) for e in confused[:10]],
        )


def _percent(value: float | None) -> str:
    from hptctl import console

    return "" if value is None else console.percent(value)


def print_figures(run: Run, as_json: bool) -> None:
    """The figures of a finished evaluation."""
    from hptctl import console

    spec, status = run.spec(), run.status()
    if as_json:
        console.print_json(
            {
                "name": run.name,
                "folder": str(run.path.resolve()),
                "source": spec.source,
                "dataset": spec.tags.dataset,
            }
            | {"results": status.results, "facts": status.facts.text()}
        )
        return
    results, facts = status.results, status.facts
    parts = [part for part in ("val", "test") if facts.images_of(part) is not None]

    def cell(part: str, metric: str) -> str:
        spread = results.get(f"{part}/{metric}_std")
        if f"{part}/{metric}" not in results:
            return ""
        return console.percent(results[f"{part}/{metric}"]) + (f" ± {100 * spread:.1f}" if spread is not None else "")

    metrics = [key.removeprefix("val/") for key in results if key.startswith("val/") and not key.endswith("_std")]
    metrics.sort(key=lambda key: key != facts.metric)  # the one that chose leads
    console.table(
        f"{spec.kind} of {spec.source or spec.tags.weights} on {spec.tags.dataset}",
        ("metric", *(f">{part}" for part in parts)),
        [(metric, *(cell(part, metric) for part in parts)) for metric in metrics],
    )
    images = " and ".join(f"{facts.images_of(part)} {part}" for part in parts)
    chose = "" if spec.kind == "knn" else f"; {facts.metric} on val chose {facts.chosen}"
    console.say(f"{facts.labels_used} training labels, {images} images{chose}")
    for part in parts:
        if left_out := facts.left_out(part):
            console.say(f"classes that {part} leaves out, for want of images with and without them: {left_out}")
    console.say(f"class by class: hptctl evaluate show {shlex.quote(run.name)}")
