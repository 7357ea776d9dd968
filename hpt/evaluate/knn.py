"""Weighted nearest neighbours on L2-normalised features (arXiv 1805.01978, section 3.4): no training, no choice."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hpt.config import KnnConfig

QUERIES = 1024
"""Queries compared at once: bounds the memory of the similarity matrix."""


def knn_scores(bank: Tensor, labels: Tensor, queries: Tensor, classes: int, config: KnnConfig) -> Tensor:
    """Votes [n, C] of the k nearest of `bank` [m, d], labelled [m], for `queries` [n, d]; k is at most m.

    A neighbour of cosine similarity s votes exp(s / temperature); votes are scaled so that they sum to 1.
    """
    k = min(config.k, len(bank))
    bank, one_hot = F.normalize(bank, dim=1), F.one_hot(labels, classes).float()
    out = []
    for some in F.normalize(queries, dim=1).split(QUERIES):
        similarity, nearest = (some @ bank.T).topk(k, dim=1)  # n x k
        weight = torch.softmax(similarity / config.temperature, dim=1)
        out.append((weight[:, :, None] * one_hot[nearest]).sum(dim=1))
    return torch.cat(out)
