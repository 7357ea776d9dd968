"""`hptctl datasets list|info`"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hptctl import options
from hptctl.format import count, gigabytes, thousands

if TYPE_CHECKING:
    from hpt.config import DataConfig
    from hpt.data.dataset import Dataset
    from hpt.data.pixel_format import PixelFormat
    from hpt.data.row import CatalogRow


def list_datasets(data_root: options.DataRoot = None, as_json: options.Json = False) -> None:
    """List the catalogue, and which of it is on this machine.

    Example:

        hptctl datasets list
    """
    from hpt.data.names import rows
    from hptctl import console

    known = rows().values()
    if as_json:
        console.print_json([row_facts(row) for row in known])
        return
    console.table(
        "",
        ("name", "domain", "task", ">classes", ">ready"),
        [(row.name, row.domain, row.task, _count(row), _readiness(row)) for row in known],
    )
    console.say("not ready: hptctl datasets prepare NAME downloads it, or says what to do by hand")
    console.say("A folder, a zip file or a list (.csv) of images works too: hptctl pretrain --dataset my-images/")
    console.say("and so do shards (.tar) and tables (.parquet), here or at s3://, gs://, hf:// and https://")


def info(
    dataset: options.DatasetArgument,
    image_size: options.ImageSize = 224,
    sets: options.Sets = None,
    data_root: options.DataRoot = None,
    as_json: options.Json = False,
) -> None:
    """Show what is known of a dataset, and read it as a run would: splits, classes, unreadable images, boxes, masks.

    Of a dataset of the catalogue that is not here, only what is published of it; nothing is downloaded.

    Examples:

        hptctl datasets info digits

        hptctl datasets info chexpert

        hptctl datasets info my-boxes.zip --json

        hptctl datasets info s3://bucket/shards/

        hptctl datasets info tables/ --set data.image_column=photo
    """
    from hpt.data.names import find
    from hpt.data.row import CatalogRow
    from hptctl import console
    from hptctl.commands.datasets import targets

    found = find(dataset)
    row = found if isinstance(found, CatalogRow) else None
    here = row is None or row.ready()
    published = row_facts(row) if row else {}
    published["published_classes"] = published.pop("classes", None)  # here `classes` are names
    data = read(dataset, image_size, sets) if here else None
    config = data_config(dataset, sets, image_size)
    annotated = targets.read(dataset, config, config.side(image_size or 224)) if here else targets.Targets()
    if as_json:
        facts = published | (_data_facts(data) if data else {})
        console.print_json(facts | annotated.for_scripts(targets.facts))
        return
    if row:
        _show_row(row)
    if data:
        _show_splits(data)
    for each in annotated.usable:
        targets.show(each)


def _count(row: CatalogRow) -> str:
    return "by folder" if row.classes is None else str(row.classes)


def _readiness(row: CatalogRow) -> str:
    if row.ready():
        return "yes"
    size = gigabytes(row.megabytes) if row.megabytes else ""
    return size if row.downloadable else f"by hand{size and ', '}{size}"


def read(dataset: str, image_size: int | None, sets: list[str] | None) -> Dataset:
    """A dataset as a run would read it for views of that size."""
    from hpt.data.dataset import load
    from hptctl import console

    config = data_config(dataset, sets, image_size)
    with console.Display() as display:
        return load(dataset, config, side=config.side(image_size or 224), progress=display.progress, brief=True)


def data_config(dataset: str, sets: list[str] | None, image_size: int | None = None) -> DataConfig:
    """The settings of a dataset that `--set data.*` gives."""
    from hpt.config import EvaluateConfig, resolve

    flags = {"kind": "knn", "weights": "", "dataset": dataset, "image_size": image_size}
    return resolve(EvaluateConfig, sets=sets or (), flags=flags).data


def pixel_facts(form: PixelFormat) -> dict[str, Any]:
    """How files become pixels, for scripts."""
    return form.model_dump(mode="json") | {"in_words": form.in_words()}


def row_facts(row: CatalogRow) -> dict[str, Any]:
    """What a row says, for scripts."""
    return {
        "name": row.name,
        "task": row.task,
        "classes": row.classes,
        "ready": row.ready(),
        "domain": row.domain,
        "title": row.title,
        "licence": row.licence,
        "page": row.page,
        "downloads": row.downloadable,
        "published_counts": dict(row.counts),
        "published_mean": row.mean and list(row.mean),
        "published_std": row.std and list(row.std),
        "note": row.note,
    }


def _data_facts(data: Dataset) -> dict[str, Any]:
    return {
        "name": data.name,
        "task": data.task,
        "classes": list(data.classes),
        "images": {split: len(rows) for split, rows in data.splits.items()},
        "per_class": {split: data.per_class(split).tolist() for split in data.splits},
        "pixels": pixel_facts(data.images.form),
        "mean": list(data.images.mean),
        "std": list(data.images.std),
        "notes": list(data.notes),
        "quarantined": [list(pair) for pair in data.quarantined],
        "fingerprint": data.fingerprint,
        "split_fingerprint": data.split_fingerprint,
    }


def _show_row(row: CatalogRow) -> None:
    from hpt.data.row import METRICS
    from hptctl import console

    console.say(f"{row.name}: {row.title} ({row.domain})")
    classes = "" if row.classes is None else f", {row.classes} classes"
    console.say(f"{row.task}{classes}, {row.metric or METRICS[row.task]}; {row.note}")
    if row.counts:
        console.say("published: " + ", ".join(f"{splits} {thousands(many)}" for splits, many in row.counts.items()))
    console.say(f"licence: {row.licence}")
    console.say(f"page: {row.page}")
    if not row.ready():
        console.say(f"not here ({row.place}): hptctl datasets prepare {row.name}")


def _show_splits(data: Dataset) -> None:
    from hptctl import console

    counts = {split: data.per_class(split).tolist() for split in data.splits}
    sizes = ", ".join(f"{thousands(len(rows))} {split}" for split, rows in data.splits.items())
    kinds = f"{count(len(data.classes), 'class', 'classes')}, {data.task}" if data.classes else "of no classes"
    console.say(f"{data.name}: {count(len(data.images), 'image')} ({sizes}), {kinds}")
    if words := data.images.form.in_words():
        console.say(words)
    console.say(f"mean {numbers(data.images.mean)}  std {numbers(data.images.std)}")
    if data.classes:
        rows = [(name, *(thousands(counts[split][i]) for split in data.splits)) for i, name in enumerate(data.classes)]
        console.table("", ("class", *(f">{split}" for split in data.splits)), rows)
    for name, reason in data.quarantined:
        console.warn(f"left out {name}: {reason}")


def numbers(values: Sequence[float]) -> str:
    """A figure for each channel: `0.4355 0.3777 0.2880`."""
    return " ".join(f"{value:.4f}" for value in values)
