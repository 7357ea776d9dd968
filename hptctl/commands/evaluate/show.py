"""`hptctl evaluate show`"""

from __future__ import annotations

from typing import Annotated, get_args

import typer

from hptctl import options
from hptctl.commands.evaluate.figures import print_figures
from hptctl.format import percent, thousands


def show(
    run: Annotated[str, typer.Argument(help="Name of an evaluation.")],
    split: Annotated[str, typer.Option("--split", help="test or val.")] = "test",
    as_json: options.Json = False,
) -> None:
    """Show an evaluation class by class, the weakest first, and which classes are taken for which.

    Examples:

        hptctl evaluate show linear-my-base

        hptctl evaluate show linear-my-base --split val --json
    """
    from hpt.config import DENSE, EvaluationKind
    from hpt.errors import RunError
    from hptctl import console, runs
    from hptctl.runs import class_tables

    found = runs.get(run)
    if found.spec().kind not in get_args(EvaluationKind):
        raise RunError(f"run '{found.name}' is a {found.spec().kind} run", "name an evaluation: `hptctl runs list`")
    classes = class_tables.per_class(found, split)
    confused = class_tables.confused(found, split)
    if as_json:
        console.print_json(
            {"name": found.name, "split": split, "classes": classes, "confused": [vars(each) for each in confused]}
        )
        return
    print_figures(found, as_json=False)
    if found.spec().kind in DENSE:
        counted, *shares = [key for key in classes[0] if key != "class"]
        console.table(
            f"\nClasses on {split}, the weakest first",
            ("class", f">{counted}", *(f">{key.upper() if key.startswith('ap') else key}" for key in shares)),
            [
                (row["class"], thousands(row[counted]), *(percent(row[key]) for key in shares))
                for row in sorted(classes, key=lambda row: (row[shares[0]] is None, row[shares[0]]))
            ],
        )
        return
    columns = ("recall", "precision", "f1", "auroc", "average_precision")
    console.table(
        f"\nClasses on {split}, the weakest first",
        ("class", ">images", *(f">{'AP' if key == 'average_precision' else key}" for key in columns)),
        [
            (row["class"], f"{row['support']:g}", *(percent(row[key]) for key in columns))
            for row in sorted(classes, key=lambda row: (row["f1"] is None, row["f1"]))
        ],
    )
    if confused:
        console.table(
            "\nTaken for each other most often",
            ("class", "taken for", ">images", ">of the class"),
            [(e.actual, e.predicted, f"{e.images:.4g}", percent(e.share)) for e in confused[:10]],
        )
