"""The linear probe's heads."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import SGD

from hpt import remarks
from hpt.evaluate.linear import HeadBank, Heads, Probe
from hpt.randomness import generator
from hpt.schedule import thirds


def test_a_bank_of_heads_equals_heads_trained_one_by_one() -> None:
    features = torch.randn(200, 16, generator=generator(0, "x"))
    labels = torch.randint(0, 5, (200,), generator=generator(0, "y"))
    lrs, seeds = [0.1, 0.1, 10.0], [0, 1, 0]
    bank = HeadBank(16, 5, lrs, seeds, momentum=0.9)
    singles, optimizers = [], []
    for lr, seed in zip(lrs, seeds, strict=True):
        head = nn.Linear(16, 5)
        with torch.no_grad():
            head.weight.copy_(torch.randn(5, 16, generator=generator(seed, "probe")) * 0.01)
            head.bias.zero_()
        singles.append(head)
        optimizers.append(SGD(head.parameters(), lr=lr, momentum=0.9))
    for step in range(30):
        rows = torch.randperm(200, generator=generator(0, "order", step))[:64]
        losses = bank.step(features[rows], labels[rows], thirds(step, 30, 1.0))
        for number, (head, optimizer) in enumerate(zip(singles, optimizers, strict=True)):
            optimizer.param_groups[0]["lr"] = thirds(step, 30, lrs[number])
            loss = nn.functional.cross_entropy(head(features[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            torch.testing.assert_close(losses[number], loss.detach(), atol=1e-4, rtol=1e-4)
    for number, head in enumerate(singles):
        torch.testing.assert_close(bank.weight[number], head.weight.detach(), atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(bank.logits(features)[number], head(features).detach(), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("by_lr", "edge"),
    [
        ({0.3: 0.5, 3.0: 0.6, 30.0: 0.4}, None),
        ({3.0: 0.4, 0.3: 0.5}, "low"),
        ({0.3: 0.5, 3.0: 0.6, 30.0: 0.7}, "high"),
        ({0.3: 0.7}, None),
        ({0.3: 0.7, 3.0: 0.7, 30.0: 0.4}, None),  # a tie says nothing of what lies beyond
    ],
)
def test_a_probe_says_that_its_best_learning_rate_lies_at_an_end_of_the_grid(
    by_lr: dict[float, float], edge: str | None
) -> None:
    heads = Heads(torch.zeros(1, 2, 3), torch.zeros(1, 2))
    assert Probe(max(by_lr, key=lambda lr: by_lr[lr]), heads, [], [], by_lr).edge() == edge


def test_what_to_try_beyond_an_end_keeps_the_grids_spacing() -> None:
    assert "0.003, is the smallest of the grid" in remarks.lr_at_edge((3, 0.003, 0.03), "low")
    assert "--set linear.lrs=0.0003,0.003,0.03,3 tries" in remarks.lr_at_edge((3, 0.003, 0.03), "low")
    assert "a larger one may do better, --set linear.lrs=0.3,3,30,300" in remarks.lr_at_edge((0.3, 3, 30), "high")
