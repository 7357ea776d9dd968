"""Weighted nearest neighbours on L2-normalised features (arXiv 1805.01978, section 3.4): no training, no choice."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hpt.config import KnnConfig
from hpt.evaluate.setup import Setup

QUERIES = 1024
"""Queries compared at a time, which bounds the memory of the similarity matrix."""


class NearestNeighbours:
    """The training features, which vote on each image. There is nothing to save: they are computed again."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup

    def fit(self) -> dict[str, str]:
        images, labels = self.setup.train
        self.bank = self.setup.features(images, "train features")
        self.labels = labels.to(self.bank.device)
        return {"chosen": f"k={min(self.setup.config.knn.k, len(self.bank))}"}

    def scores(self, split: str) -> Tensor:
        queries = self.setup.features(self.setup.images(split), f"{split} features")
        classes = len(self.setup.dataset.classes)
        return knn_logits(self.bank, self.labels, queries, classes, self.setup.config.knn)[None].cpu()

    def save(self, folder: Path) -> None: ...

    def load(self, folder: Path) -> None:
        self.fit()


def knn_scores(bank: Tensor, labels: Tensor, queries: Tensor, classes: int, config: KnnConfig) -> Tensor:
    """Votes [n, C] of the k nearest of `bank` [m, d], labelled [m] or [m, C], for `queries` [n, d]; k is at most m.

    A neighbour of cosine similarity s votes exp(s / temperature), scaled so that the votes of all k sum to 1. A
    neighbour with several labels votes for each of them, so every class has a share in [0, 1].
    """
    k = min(config.k, len(bank))
    bank, one_hot = F.normalize(bank, dim=1), F.one_hot(labels, classes).float() if labels.ndim == 1 else labels
    out = []
    for some in F.normalize(queries, dim=1).split(QUERIES):
        similarity, nearest = (some @ bank.T).topk(k, dim=1)  # n x k
        weight = torch.softmax(similarity / config.temperature, dim=1)
        out.append((weight[:, :, None] * one_hot[nearest]).sum(dim=1))
    return torch.cat(out)


def knn_logits(bank: Tensor, labels: Tensor, queries: Tensor, classes: int, config: KnnConfig) -> Tensor:
    """Logits [n, C] whose softmax (sigmoid for labels [m, C]) gives the votes of `knn_scores`; -inf for no vote."""
    votes = knn_scores(bank, labels, queries, classes, config)
    return votes.log() if labels.ndim == 1 else votes.clamp(0, 1).logit()  # sums of shares round to above 1
