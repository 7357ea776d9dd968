"""What an evaluation reports of its scores, and the files that it leaves: predictions, and tables by class."""

from __future__ import annotations

import csv
import io
import statistics
from pathlib import Path

import numpy as np
from torch import Tensor

from hpt import metrics, predictions
from hpt.data.dataset import Dataset
from hpt.data.listing import Labels
from hpt.evaluate.labels import enumerated
from hpt.files import write_text
from hpt.predictions import Predictions


def report(folder: Path, split: str, scores: Tensor, dataset: Dataset) -> tuple[dict[str, float], dict[str, str]]:
    """The metrics of scores [R, n, C] on a split, and facts about them; writes the predictions and the tables."""
    images, labels = dataset.split(split)
    names = np.array(images.names, dtype=np.str_)
    kept = Predictions(names, labels, scores.float().numpy(), np.array(dataset.classes, dtype=np.str_))
    figures = summarise(split, kept.scores, labels)
    predictions.write(folder, split, kept)
    write_per_class(folder, split, kept)
    facts = {f"{split}_images": str(len(names))}
    left_out = metrics.left_out(labels, len(dataset.classes))
    if named := [f"{key}: {enumerated([dataset.classes[c] for c in out])}" for key, out in left_out.items() if out]:
        facts[f"{split}_left_out"] = "; ".join(named)
    return figures, facts


def summarise(split: str, scores: metrics.Scores, labels: Labels) -> dict[str, float]:
    """The mean of each metric over the reruns of scores [R, n, C], and its standard deviation where R > 1."""
    measure = metrics.single_label if labels.ndim == 1 else metrics.multi_label
    rows = [measure(each, labels) for each in scores]
    out = {f"{split}/{key}": statistics.fmean(row[key] for row in rows) for key in rows[0]}
    if len(rows) > 1:
        out |= {f"{split}/{key}_std": statistics.stdev(row[key] for row in rows) for key in rows[0]}
    return out


def write_per_class(folder: Path, split: str, kept: Predictions) -> None:
    """Write the metrics of each class and, for a single-label set, the confusion matrix, as means over the reruns.

    `artifacts/per-class-<split>.csv` has a row for each class, with empty cells where a metric is undefined;
    `artifacts/confusion-<split>.csv` counts the images of each class (row) by predicted class (column).
    """
    tables = [metrics.per_class(each, kept.labels) for each in kept.scores]
    columns = {key: np.mean([getattr(table, key) for table in tables], axis=0) for key in vars(tables[0])}
    rows = [
        [name, *("" if np.isnan(values[c]) else f"{values[c]:.6g}" for values in columns.values())]
        for c, name in enumerate(kept.classes)
    ]
    write_text(folder / "artifacts" / f"per-class-{split}.csv", _csv([["class", *columns], *rows]))
    if kept.labels.ndim == 1:
        counts = np.mean([metrics.confusion(each, kept.labels) for each in kept.scores], axis=0)
        matrix = [[name, *(f"{value:g}" for value in row)] for name, row in zip(kept.classes, counts, strict=True)]
        write_text(folder / "artifacts" / f"confusion-{split}.csv", _csv([["class", *kept.classes], *matrix]))


def _csv(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
