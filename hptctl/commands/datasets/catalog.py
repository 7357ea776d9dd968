"""`hptctl datasets list|info|prepare|stats|where`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from hptctl import options

if TYPE_CHECKING:
    from hpt.data.dataset import Dataset
    from hpt.data.row import Row


def list_datasets(data_root: options.DataRoot = None, as_json: options.Json = False) -> None:
    """List the catalogue, and which of it is on this machine.

    Example:

        hptctl datasets list
    """
    from hpt.data import catalog
    from hptctl import console

    rows = catalog.rows().values()
    if as_json:
        console.print_json([_facts(row) for row in rows])
        return
    console.table(
        "",
        ("name", "domain", "task", ">classes", ">ready"),
        [(row.name, row.domain, row.task, _count(row), _readiness(row)) for row in rows],
    )
    console.say("not ready: hptctl datasets prepare NAME downloads it, or says what to do by hand")
    console.say("A folder, a zip file or a list (.csv) of images works too: hptctl pretrain --dataset my-images/")


def info(
    dataset: options.DatasetArgument,
    image_size: options.ImageSize = 224,
    sets: options.Sets = None,
    data_root: options.DataRoot = None,
    as_json: options.Json = False,
) -> None:
    """Show what is known of a dataset, and read it as a run would: splits, classes, unreadable images.

    Of a dataset of the catalogue that is not here, only what is published of it; nothing is downloaded.

    Examples:

        hptctl datasets info digits

        hptctl datasets info chexpert
    """
    from hpt.data.dataset import find
    from hpt.data.row import Row
    from hptctl import console

    found = find(dataset)
    row = found if isinstance(found, Row) else None
    here = row is None or row.ready()
    published = _facts(row) if row else {}
    published["published_classes"] = published.pop("classes", None)  # here `classes` are names
    data = _load(dataset, image_size, sets) if here else None
    if as_json:
        console.print_json(published | (_read(data) if data else {}))
        return
    if row:
        _show_row(row)
    if data:
        _show_splits(data)


def prepare(
    dataset: Annotated[str, typer.Argument(help="A name of the catalogue.")],
    data_root: options.DataRoot = None,
    as_json: options.Json = False,
) -> None:
    """Get a dataset: download what its licence lets a program download, unpack it, and check what came.

    What a person must fetch is said step by step; put it where it says, and run this again. A download that broke off
    goes on where it stopped.

    Examples:

        hptctl datasets prepare flowers

        hptctl datasets prepare chexpert --data-root /data
    """
    from hpt.data.dataset import find
    from hpt.data.row import Row
    from hpt.errors import DataError
    from hptctl import console

    found = find(dataset)
    if not isinstance(found, Row):
        raise DataError(f"{dataset} is no name of the catalogue", "a folder, zip file or list needs no preparing")
    with console.Display() as display:
        found.prepare(display.progress)
        what = found.missing()
        if what is None:
            listing = found.listing(display.progress)
    if what is not None:
        for number, step in enumerate(_steps(found), start=1):
            console.note(f"{number}. {step}")
        raise DataError(f"{found.name} is not here: {what} is missing in {found.place}", "do these steps")
    if as_json:
        console.print_json(_facts(found) | {"path": str(found.place), "images": len(listing.names)})
        return
    lies = found.place if found.archives else "embedded"
    console.say(f"{found.name} is ready: {len(listing.names):,} images of {len(listing.classes)} classes, {lies}")
    console.note(f"next: hptctl datasets check {found.name}")


def stats(
    dataset: options.DatasetArgument,
    image_size: options.ImageSize = 224,
    sets: options.Sets = None,
    data_root: options.DataRoot = None,
    as_json: options.Json = False,
) -> None:
    """Measure a dataset's pixels and classes: mean and std by split, beside those that runs normalise with.

    Example:

        hptctl datasets stats digits
    """
    import numpy as np

    from hptctl import console

    data = _load(dataset, image_size, sets)
    parts = {split: rows for split, rows in data.splits.items() if len(rows)}
    parts["train+val"] = np.sort(np.concatenate([data.splits["train"], data.splits["val"]]))
    rows: list[dict[str, Any]] = []
    for name, indices in parts.items():
        images = data.images.subset(indices)
        mean, std = images.statistics()
        sizes = images.sizes
        labels = data.labels[indices]
        rows.append(
            {
                "split": name,
                "images": len(indices),
                "mean": [round(value, 4) for value in mean],
                "std": [round(value, 4) for value in std],
                "height": [int(value) for value in np.percentile(sizes[:, 0], (0, 50, 100))],
                "width": [int(value) for value in np.percentile(sizes[:, 1], (0, 50, 100))],
                "classes_per_image": round(float((labels > 0).sum(axis=1).mean()), 2) if labels.ndim == 2 else None,
            }
        )
    used = {"mean": list(data.images.mean), "std": list(data.images.std)}
    counts = {split: data.per_class(split).tolist() for split in data.splits}
    if as_json:
        console.print_json({"name": data.name, "runs_use": used, "splits": rows, "per_class": counts})
        return
    console.table(
        "",
        ("split", ">images", ">mean (R G B)", ">std (R G B)", ">height", ">width"),
        [
            (
                row["split"],
                f"{row['images']:,}",
                _numbers(row["mean"]),
                _numbers(row["std"]),
                _range(row["height"]),
                _range(row["width"]),
            )
            for row in rows
        ],
    )
    console.say(f"runs normalise with mean {_numbers(used['mean'])}, std {_numbers(used['std'])}")
    console.say("height and width: smallest, median, largest as decoded for views of this size")
    if rows[0]["classes_per_image"] is not None:
        console.say("classes per image: " + ", ".join(f"{row['split']} {row['classes_per_image']}" for row in rows))


def where(
    dataset: Annotated[str | None, typer.Argument(help="A name of the catalogue.")] = None,
    data_root: options.DataRoot = None,
    as_json: options.Json = False,
) -> None:
    """Say where data lies: the catalogue's datasets, your own rows, decoded images; or one dataset.

    Examples:

        hptctl datasets where

        hptctl datasets where flowers
    """
    from hpt.data import catalog, quarantine
    from hpt.data.dataset import find
    from hpt.data.row import Row
    from hpt.user_folders import cache_folder, data_folder
    from hptctl import console

    if dataset is None:
        places = {"data_root": data_folder(), "own_rows": catalog.own_file(), "cache": cache_folder()}
    else:
        found = find(dataset)
        places = {
            "images": found.place if isinstance(found, Row) else found,
            "quarantine": quarantine.place(found),
        }
    if as_json:
        console.print_json({name: str(path) for name, path in places.items()})
        return
    for name, path in places.items():
        console.say(f"{name.replace('_', ' ')}: {path}{'' if path.exists() else ' (not there)'}")


def _count(row: Row) -> str:
    return "by folder" if row.classes is None else str(row.classes)


def _readiness(row: Row) -> str:
    if row.ready():
        return "yes"
    size = f"{row.megabytes / 1000:.1f} GB" if row.megabytes else ""
    return size if row.fetched else f"by hand{size and ', '}{size}"


def _load(dataset: str, image_size: int | None, sets: list[str] | None) -> Dataset:
    from hpt.config import EvaluateConfig, resolve
    from hpt.data.dataset import load
    from hptctl import console

    flags = {"kind": "knn", "weights": "", "dataset": dataset, "image_size": image_size}
    config = resolve(EvaluateConfig, sets=sets or (), flags=flags).data
    with console.Display() as display:
        return load(dataset, config, side=config.side(image_size or 224), progress=display.progress)


def _facts(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "task": row.task,
        "classes": row.classes,
        "ready": row.ready(),
        "domain": row.domain,
        "title": row.title,
        "licence": row.licence,
        "page": row.page,
        "downloads": row.fetched,
        "published_counts": dict(row.counts),
        "published_mean": row.mean and list(row.mean),
        "published_std": row.std and list(row.std),
        "note": row.note,
    }


def _read(data: Dataset) -> dict[str, Any]:
    return {
        "name": data.name,
        "task": data.task,
        "classes": list(data.classes),
        "images": {split: len(rows) for split, rows in data.splits.items()},
        "per_class": {split: data.per_class(split).tolist() for split in data.splits},
        "mean": list(data.images.mean),
        "std": list(data.images.std),
        "quarantined": [list(pair) for pair in data.quarantined],
        "fingerprint": data.fingerprint,
        "split_fingerprint": data.split_fingerprint,
    }


def _show_row(row: Row) -> None:
    from hpt.data.catalog import METRICS, describe
    from hptctl import console

    console.say(f"{row.name}: {row.title} ({row.domain})")
    classes = "" if row.classes is None else f", {row.classes} classes"
    console.say(f"{row.task}{classes}, {row.metric or METRICS[row.task]}; {row.note}")
    if row.counts:
        console.say(f"published: {describe(row.counts)}")
    console.say(f"licence: {row.licence}")
    console.say(f"page: {row.page}")
    if not row.ready():
        console.say(f"not here ({row.place}): hptctl datasets prepare {row.name}")


def _show_splits(data: Dataset) -> None:
    from hptctl import console

    counts = {split: data.per_class(split).tolist() for split in data.splits}
    sizes = ", ".join(f"{len(rows):,} {split}" for split, rows in data.splits.items())
    console.say(f"{data.name}: {len(data.images):,} images ({sizes}), {len(data.classes)} classes, {data.task}")
    console.say(f"mean {_numbers(data.images.mean)}  std {_numbers(data.images.std)}")
    if data.classes:
        rows = [(name, *(f"{counts[split][i]:,}" for split in data.splits)) for i, name in enumerate(data.classes)]
        console.table("", ("class", *(f">{split}" for split in data.splits)), rows)
    for name, reason in data.quarantined:
        console.warn(f"left out {name}: {reason}")


def _steps(row: Row) -> list[str]:
    """What a person must do for a dataset."""
    packed = [archive for archive in row.archives if archive.missing(row.place) is not None]
    names = ", ".join(archive.name for archive in packed)
    rar = [archive.name for archive in packed if archive.name.endswith(".rar")]
    steps = [
        f"Open {row.page} and accept its terms ({row.licence}).",
        f"Download {names}, or the files there that hold " + ", ".join(p for a in packed for p in a.gives) + ".",
        f"Put them into {row.place}, packed or unpacked.",
    ]
    if rar:
        steps[-1] = f"Unpack it in {row.place} (a .rar, which this program cannot read)."
    return [*steps, f"Run hptctl datasets prepare {row.name} again."]


def _numbers(values: Any) -> str:
    return " ".join(f"{value:.4f}" for value in values)


def _range(values: list[int]) -> str:
    low, middle, high = values
    return str(low) if low == high else f"{low} {middle} {high}"
