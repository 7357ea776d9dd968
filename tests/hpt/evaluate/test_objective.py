"""What heads are trained by and judged by."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hpt.evaluate.objective import figures, loss_of
from hpt.metrics import single_label
from hpt.randomness import generator


def test_several_labels_cost_their_mean_binary_cross_entropy_and_one_label_its_cross_entropy() -> None:
    logits = torch.randn(2, 5, 3, generator=generator(0, "logits"))
    one = torch.tensor([0, 2, 1, 1, 0])
    many = torch.nn.functional.one_hot(one, 3).float()
    for head in range(2):
        torch.testing.assert_close(
            loss_of(logits, one)[head].mean(), nn.functional.cross_entropy(logits[head], one), atol=1e-6, rtol=1e-6
        )
        theirs = nn.BCEWithLogitsLoss()(logits[head], many)
        torch.testing.assert_close(loss_of(logits, many)[head].mean(), theirs, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("metric", ["top1", "balanced_accuracy", "auroc"])
def test_each_head_is_judged_as_its_scores_are_alone_and_one_that_diverged_below_all(metric: str) -> None:
    logits = torch.randn(3, 60, 4, generator=generator(0, "logits"))
    labels = torch.randint(0, 4, (60,), generator=generator(0, "labels"))
    logits[1, 7, 2] = torch.nan
    found = figures(metric, logits, labels)
    alone = [single_label(each.numpy(), labels.numpy())[metric] for each in (logits[0], logits[2])]
    assert found[[0, 2]].tolist() == pytest.approx(alone, abs=1e-6)
    assert found[1] == -1
