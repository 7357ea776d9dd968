"""Finished evaluations whose outcome is known."""

from __future__ import annotations

import numpy as np

from hpt import predictions
from hpt.predictions import Predictions
from hptctl import runs
from hptctl.runs import Run

IMAGES = 400


LABELS = np.arange(IMAGES) % 4


def scores(wrong: int, seed: int = 0) -> np.ndarray:
    """[1, n, 4] logits, confident, that are wrong on the first `wrong` images."""
    predicted = np.where(np.arange(IMAGES) < wrong, (LABELS + 1) % 4, LABELS)
    noise = np.random.default_rng(seed).normal(size=(IMAGES, 4))
    return (10 * np.eye(4)[predicted] + noise).astype(np.float32)[None]


def evaluation(
    name: str, each: np.ndarray, labels: np.ndarray = LABELS, *, metric: str = "top1", kind: str = "knn",
    split_seed: int = 0, source: Run | None = None, **facts: str,
) -> Run:  # fmt: skip
    """A finished evaluation, in a real run folder."""
    config = {"data": {"split_seed": split_seed}, "backbone": "resnet18", "image_size": 32}
    link = {"source": source.name, "source_folder": str(source.path.resolve())} if source else {}
    run = runs.create(
        kind, name, name, experiment="e", command="", config=config, tags={"dataset": "d"}, **link
    )  # fmt: skip
    names = np.array([f"{i:03d}.png" for i in range(len(labels))])
    classes = np.array(["a", "b", "c", "d"])
    predictions.write(run.path, "test", Predictions(names, labels, each, classes))
    known = {"metric": metric, "data_fingerprint": "x", "split_fingerprint": str(split_seed), "labels_used": "10"}
    run.write_status(state="finished", facts=known | facts)
    return run
