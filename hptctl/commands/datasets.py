"""`hptctl datasets list|info`"""

from __future__ import annotations

from typing import Annotated

import typer

from hptctl import options

app = typer.Typer(no_args_is_help=True, help="What is known of datasets.")


@app.command("list")
def list_datasets(as_json: options.Json = False) -> None:
    """List the catalogue.

    Example:

        hptctl datasets list
    """
    from hpt.data import catalog
    from hptctl import console

    rows = [(row, row.ready()) for row in catalog.CATALOG.values()]
    if as_json:
        console.print_json(
            [{"name": r.name, "task": r.task, "domain": r.domain, "title": r.title, "ready": here} for r, here in rows]
        )
        return
    console.table(
        "",
        ("name", "domain", "task", "ready", "title"),
        [(row.name, row.domain, row.task, "yes" if here else "no", row.title) for row, here in rows],
    )
    console.say("A folder or a zip file of images works too: hptctl pretrain --dataset my-images/")


@app.command()
def info(
    dataset: Annotated[str, typer.Argument(help="A catalogue name, a folder, or a zip file.")],
    image_size: options.ImageSize = 224,
    sets: options.Sets = None,
    as_json: options.Json = False,
) -> None:
    """Read a dataset as a run would, and show its splits, classes, statistics and unreadable images.

    Example:

        hptctl datasets info digits
    """
    import numpy as np

    from hpt.config import EvaluateConfig, resolve
    from hpt.data.dataset import load
    from hptctl import console

    flags = {"kind": "knn", "weights": "", "dataset": dataset, "image_size": image_size}
    config = resolve(EvaluateConfig, sets=sets or (), flags=flags).data
    with console.Display() as display:
        data = load(dataset, config, side=config.side(image_size or 224), progress=display.progress)
    counts = {
        split: np.bincount(data.labels[rows][data.labels[rows] >= 0], minlength=len(data.classes)).tolist()
        for split, rows in data.splits.items()
    }
    if as_json:
        console.print_json(
            {
                "name": data.name,
                "task": data.task,
                "classes": list(data.classes),
                "images": {split: len(rows) for split, rows in data.splits.items()},
                "per_class": counts,
                "mean": list(data.images.mean),
                "std": list(data.images.std),
                "quarantined": [list(pair) for pair in data.quarantined],
                "fingerprint": data.fingerprint,
                "split_fingerprint": data.split_fingerprint,
            }
        )
        return
    sizes = ", ".join(f"{len(rows):,} {split}" for split, rows in data.splits.items())
    console.say(f"{data.name}: {len(data.images):,} images ({sizes}), {len(data.classes)} classes, {data.task}")
    console.say(
        "mean "
        + " ".join(f"{m:.4f}" for m in data.images.mean)
        + "  std "
        + " ".join(f"{s:.4f}" for s in data.images.std)
    )
    if data.classes:
        rows = [(name, *(f"{counts[split][i]:,}" for split in data.splits)) for i, name in enumerate(data.classes)]
        console.table("", ("class", *(f">{split}" for split in data.splits)), rows)
    for name, reason in data.quarantined:
        console.warn(f"left out {name}: {reason}")
