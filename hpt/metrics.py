"""Figures of merit, shares in [0, 1]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating]
Labels = NDArray[np.integer]


def top_k(scores: Scores, labels: Labels, k: int) -> float:
    """Share of images [n, C] whose label [n] is among the k highest scores; of tied classes the lower number wins."""
    ranked = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return float((ranked == labels[:, None]).any(axis=1).mean())


def single_label(scores: Scores, labels: Labels) -> dict[str, float]:
    """top1, top5 (where there are more than five classes), and accuracy averaged over the classes present."""
    present = np.unique(labels)
    predicted = scores.argmax(axis=1)
    out = {"top1": top_k(scores, labels, 1)}
    if scores.shape[1] > 5:
        out["top5"] = top_k(scores, labels, 5)
    hits = predicted == labels
    out["balanced_accuracy"] = float(np.mean([hits[labels == label].mean() for label in present]))
    return out
