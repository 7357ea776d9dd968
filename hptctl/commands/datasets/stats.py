"""`hptctl datasets stats`"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hptctl import options
from hptctl.commands.datasets.list_info import numbers, read
from hptctl.format import thousands

if TYPE_CHECKING:
    from hpt.data.measure import SplitMeasure


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
    from hpt.data.measure import measure
    from hptctl import console

    data = read(dataset, image_size, sets)
    found = measure(data)
    if as_json:
        used = {"mean": list(data.images.mean), "std": list(data.images.std)}
        counts = {split: data.per_class(split).tolist() for split in data.splits}
        rows = [_facts(part) for part in found]
        console.print_json({"name": data.name, "runs_use": used, "splits": rows, "per_class": counts})
        return
    console.table(
        "",
        ("split", ">images", ">mean (R G B)", ">std (R G B)", ">height", ">width"),
        [
            (p.split, thousands(p.images), numbers(p.mean), numbers(p.std), _range(p.height), _range(p.width))
            for p in found
        ],
    )
    console.say(f"runs normalise with mean {numbers(data.images.mean)}, std {numbers(data.images.std)}")
    console.say("height and width: smallest, median, largest as decoded for views of this size")
    if data.task == "multi-label":
        console.say("classes per image: " + ", ".join(f"{p.split} {_rounded(p.classes_per_image)}" for p in found))


def _facts(part: SplitMeasure) -> dict[str, Any]:
    return asdict(part) | {
        "mean": [round(value, 4) for value in part.mean],
        "std": [round(value, 4) for value in part.std],
        "classes_per_image": _rounded(part.classes_per_image),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _range(values: tuple[int, int, int]) -> str:
    low, middle, high = values
    return str(low) if low == high else f"{low} {middle} {high}"
