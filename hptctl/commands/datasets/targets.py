"""What `info`, `check` and `preview` show of boxes and masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hptctl.format import count, percent, thousands

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from hpt.config import DataConfig
    from hpt.dense.dataset import DenseDataset
    from hpt.dense.summary import MaskSummary
    from hpt.dense.targets import DenseTask
    from hpt.errors import DataError

WHAT = {"detection": "boxes", "segmentation": "masks"}
NAMED = 8
"""Images named on the screen; --json has all."""


@dataclass(frozen=True)
class Targets:
    """The boxes and masks of a dataset, one of each."""

    usable: list[DenseDataset] = field(default_factory=list)
    refused: dict[DenseTask, DataError] = field(default_factory=dict)
    """Why there are none that a detection or a segmentation could use."""

    def for_scripts(self, said: Callable[[DenseDataset], dict[str, Any]]) -> dict[str, Any]:
        """`targets`: what is said of each, and the errors of those refused; nothing where there are none."""
        from hpt.dense.annotated_boxes import UnreadableFiles

        found = [said(each) for each in self.usable]
        for task, why in self.refused.items():
            files = {"files": list(why.reasons)} if isinstance(why, UnreadableFiles) else {}
            found.append({"task": task, "error": str(why)} | files)
        return {"targets": found} if found else {}


def read(dataset: str, config: DataConfig, side: int) -> Targets:
    """The boxes and masks of a dataset; those that cannot be read are warned of, since the images can be used."""
    from hpt.dense.dataset import load
    from hpt.dense.find import tasks_of
    from hpt.errors import DataError
    from hptctl import console

    found = Targets()
    for task in tasks_of(dataset):
        try:
            with console.Display() as display:
                data = load(dataset, task, config, side=side, progress=display.progress, brief=True)
            found.usable.append(data)
        except DataError as error:
            console.warn(f"no {task} on it: {error}")
            found.refused[task] = error
    return found


def show(data: DenseDataset) -> None:
    """The classes, objects, sizes or pixels of each split."""
    from hpt.dense.summary import SIZES, MaskSummary, summary
    from hptctl import console

    facts = summary(data)
    splits = list(data.dataset.splits)
    sizes = ", ".join(f"{thousands(len(rows))} {split}" for split, rows in data.dataset.splits.items())
    classes = count(len(data.classes), "class", "classes")
    if isinstance(facts, MaskSummary):
        console.say(f"{data.task}: {classes} of pixels, on {sizes} images")
        columns = ("class", *(f">{split}" for split in splits))
        rows = [(name, *(_of_images(facts, split, i) for split in splits)) for i, name in enumerate(facts.classes)]
        rows.append(("ignored", *(percent(facts.ignored[split]) for split in splits)))
        console.table("share of the pixels, and images that have some", columns, rows)
        return
    total = sum(int(facts.objects[split].sum()) for split in splits)
    console.say(f"{data.task}: {count(total, 'object')} of {classes}, on {sizes} images")
    rows = [
        (name, *(thousands(int(facts.objects[split][i])) for split in splits)) for i, name in enumerate(facts.classes)
    ]
    rows += [
        (f"({size})", *(thousands(int(facts.sizes[split][i])) for split in splits)) for i, size in enumerate(SIZES)
    ]
    if any(facts.difficult.values()):
        rows.append(("(difficult)", *(thousands(facts.difficult[split]) for split in splits)))
    if any(facts.empty.values()):
        rows.append(("(images of none)", *(thousands(facts.empty[split]) for split in splits)))
    console.table("", ("objects", *(f">{split}" for split in splits)), rows)
    console.say("small below 32 x 32 pixels of the file, large from 96 x 96 on")


def _of_images(facts: MaskSummary, split: str, number: int) -> str:
    return f"{percent(float(facts.shares[split][number]))} ({thousands(int(facts.images[split][number]))})"


def facts(data: DenseDataset) -> dict[str, Any]:
    """The same for scripts."""
    from hpt.dense.summary import SIZES, MaskSummary, summary

    found = summary(data)
    same = {
        "task": data.task,
        "classes": list(data.classes),
        "images": {split: len(rows) for split, rows in data.dataset.splits.items()},
        "fingerprint": data.dataset.fingerprint,
        "split_fingerprint": data.dataset.split_fingerprint,
        "notes": list(data.dataset.notes),
        "quarantined": [list(pair) for pair in data.dataset.quarantined],
    }
    if isinstance(found, MaskSummary):
        return same | {
            "images_per_class": {split: counts.tolist() for split, counts in found.images.items()},
            "pixel_shares": {split: shares.tolist() for split, shares in found.shares.items()},
            "ignored_share": dict(found.ignored),
        }
    return same | {
        "objects": {split: counts.tolist() for split, counts in found.objects.items()},
        "sizes": {split: dict(zip(SIZES, counts.tolist(), strict=True)) for split, counts in found.sizes.items()},
        "difficult": dict(found.difficult),
        "images_without_objects": dict(found.empty),
    }


def show_doubts(data: DenseDataset) -> None:
    """What is doubtful, with the first names."""
    from hpt.dense.summary import doubts
    from hptctl import console

    rows = []
    for doubt in doubts(data):
        more = f"; {len(doubt.which) - NAMED} more" if len(doubt.which) > NAMED else ""
        rows.append((doubt.what, thousands(doubt.found), "; ".join(doubt.which[:NAMED]) + more))
    console.table("", (WHAT[data.task], ">found", "which"), rows)


def doubtful(data: DenseDataset) -> dict[str, Any]:
    """The same for scripts."""
    from hpt.dense.summary import doubts

    found = [{"what": doubt.what, "found": doubt.found, "which": list(doubt.which)} for doubt in doubts(data)]
    return {"task": data.task, "doubts": found, "notes": list(data.dataset.notes)}


def drawn(data: DenseDataset, row: int, image: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """[side, side, 3] an image, as the cache holds it, with its boxes or its mask."""
    from hptctl.charts import targets as drawing

    if data.task == "segmentation":
        return drawing.with_mask(image, data.mask(row), data.classes, side)
    its = data.boxes(row)
    return drawing.with_boxes(image, its.boxes, its.labels.tolist(), its.difficult.tolist(), data.classes, side)
