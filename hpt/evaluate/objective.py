"""The loss that an evaluation minimises and the metric that chooses on val, for one label per image or several.

Labels are class numbers [n] (int64), or 0 and 1 [n, C] (float32) of a multi-label set.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hpt.data.listing import Labels
from hpt.errors import DataError
from hpt.metrics import weighted

NONE = -1.0
"""In place of the metric of logits that are not finite: less than any metric."""


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """The loss [..., n] of each image, from logits [..., n, C].

    It is the cross-entropy; for a multi-label set the mean over the classes of the binary cross-entropy, as the authors
    of HPT have it (github.com/cjrd/self-supervised-pretraining, models/heads/cls_head.py).
    """
    if labels.ndim == 2:
        targets = labels.expand_as(logits)
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=-1)
    flat = logits.reshape(-1, logits.shape[-1])
    repeated = labels.repeat(len(flat) // len(labels))
    return F.cross_entropy(flat, repeated, reduction="none").view(logits.shape[:-1])


def figures(metric: str, logits: Tensor, labels: Tensor) -> Tensor:
    """The metric [H] of each of H models' logits [H, n, C], on their device; `NONE` where they are not finite."""
    if metric == "top1":  # the most frequent, which need not leave the device
        found = (logits.argmax(dim=2) == labels).float().mean(dim=1)
    else:
        truth, once = labels.cpu().numpy(), np.ones((1, len(labels)), dtype=np.float32)
        values = [
            float(weighted(metric, each.numpy(), truth)(once)[0]) if bool(each.isfinite().all()) else NONE
            for each in logits.cpu()
        ]
        found = torch.tensor(values, device=logits.device)
    return torch.where(logits.isfinite().flatten(1).all(dim=1), found, NONE)


def check_metric(metric: str, labels: Labels, classes: Sequence[str], where: str) -> None:
    """Check that the labels of a split define a metric; `where` names the split in messages.

    Raises:
        ConfigError: the metric is not defined for labels of this kind.
        DataError: these labels leave it undefined.
    """
    once = np.ones((1, len(labels)), dtype=np.float32)
    value = weighted(metric, np.zeros((len(labels), len(classes)), dtype=np.float32), labels)(once)[0]
    if np.isnan(value):
        raise DataError(
            f"{metric} is undefined on the {len(labels)} images of {where}: no class has both label values there",
            "add images of other classes, or use another --metric",
        )
