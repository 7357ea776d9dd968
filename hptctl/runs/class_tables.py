"""What an evaluation kept of its classes: the tables by class and of confusions, read back."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import Any

from hpt.errors import RunError
from hptctl.runs import Run


@dataclass(frozen=True)
class Confused:
    """One class taken for another."""

    actual: str
    predicted: str
    images: float
    """Mean over the reruns."""
    share: float
    """Of the images of the class."""


def per_class(run: Run, split: str) -> list[dict[str, Any]]:
    """A row a class: `class`, `support`, `recall`, `precision`, `f1`, `auroc`, `average_precision`; None: undefined.

    Raises:
        RunError: the run has no such table.
    """
    (_, *columns), *rows = _rows(run, f"per-class-{split}.csv")
    return [
        {"class": name} | {key: float(cell) if cell else None for key, cell in zip(columns, cells, strict=True)}
        for name, *cells in rows
    ]


def confusion(run: Run, split: str) -> tuple[list[str], list[list[float]]]:
    """Classes, and images of each class (row) by predicted class; both empty where images have several labels."""
    name = f"confusion-{split}.csv"
    if not (run.path / "artifacts" / name).exists():
        return [], []
    (_, *classes), *rows = _rows(run, name)
    return classes, [[float(cell) for cell in cells] for _, *cells in rows]


def confused(run: Run, split: str) -> list[Confused]:
    """Every class that is taken for another, the most frequent first; empty where images have several labels."""
    classes, rows = confusion(run, split)
    out = []
    for actual, counts in zip(classes, rows, strict=True):
        for predicted, images in zip(classes, counts, strict=True):
            if images and predicted != actual:
                out.append(Confused(actual, predicted, images, images / sum(counts)))
    return sorted(out, key=lambda each: -each.images)


def _rows(run: Run, name: str) -> list[list[str]]:
    path = run.path / "artifacts" / name
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.reader(file))
    except FileNotFoundError:
        parts = sorted(each.stem.removeprefix("per-class-") for each in path.parent.glob("per-class-*.csv"))
        have = f"it has those of {' and '.join(parts)}" if parts else f"it is {run.status().state}"
        raise RunError(f"run '{run.name}' has no table {name}", have) from None
