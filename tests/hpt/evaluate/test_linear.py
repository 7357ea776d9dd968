"""The linear probe's heads."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import SGD

from hpt.evaluate.linear import HeadBank
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
