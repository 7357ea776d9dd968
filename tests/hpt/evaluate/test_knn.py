"""Nearest neighbours."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier

from hpt.config import KnnConfig
from hpt.evaluate.knn import knn_scores


def test_nearest_neighbours_agree_with_scikit_learn() -> None:
    random = np.random.default_rng(0)
    bank, queries = random.normal(size=(90, 8)), random.normal(size=(40, 8))  # 90: fewer than a hundred
    labels = random.integers(0, 4, 90)

    def weigh(distance: np.ndarray) -> np.ndarray:
        return np.exp((1 - distance) / 0.07)

    theirs = KNeighborsClassifier(20, metric="cosine", weights=weigh, algorithm="brute").fit(bank, labels)
    ours = knn_scores(torch.tensor(bank), torch.tensor(labels), torch.tensor(queries), 4, KnnConfig())
    np.testing.assert_allclose(ours.numpy(), theirs.predict_proba(queries), atol=1e-6)
