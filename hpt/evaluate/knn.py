"""Weighted nearest neighbours on L2-normalised features (arXiv 1805.01978, section 3.4): no training, no choice."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hpt.config import KnnConfig

QUERIES = 1024
"""Queries compared at once: bounds the memory of the similarity matrix."""


def knn_scores(bank: Tensor, labels: Tensor, queries: Tensor, classes: int, config: KnnConfig) -> Tensor:
    """Votes [n, C] of the k nearest of `bank` [m, d], labelled [m] or [m, C], for `queries` [n, d]; k is at most m.

    A neighbour of cosine similarity s votes exp(s / temperature), scaled so that the neighbours' votes sum to 1; of
    several labels it votes for each, so that each class has a share in [0, 1].
    """
    k = min(config.k, len(bank))
    bank, one_hot = F.normalize(bank, dim=1), F.one_hot(labels, classes).float() if labels.ndim == 1 else labels
    out = []
    for some in F.normalize(queries, dim=1).split(QUERIES):
        similarity, nearest = (some @ bank.T).topk(k, dim=1)  # n x k
        weight = torch.softmax(similarity / config.temperature, dim=1)
        out.append((weight[:, :, None] * one_hot[nearest]).sum(dim=1))
    return torch.cat(out)


def as_logits(votes: Tensor, labels: Tensor) -> Tensor:
    """Scores [n, C] of which a softmax (a sigmoid, where labels are [m, C]) gives the votes back; -inf for none."""
    return votes.log() if labels.ndim == 1 else votes.clamp(0, 1).logit()  # sums of shares round to above 1
