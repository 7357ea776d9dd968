"""Our AdamW is torch.optim's, which is slow to import."""

from __future__ import annotations

import torch
from torch import nn

from hpt.adamw import AdamW


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))


def train(network: nn.Module, optimizer: AdamW, steps: range) -> None:
    for step in steps:
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
        network(x).square().mean().backward()
        optimizer.step(0.1 / (step + 1))
        assert all(p.grad is None for p in network.parameters())


def test_five_steps_end_in_the_bits_of_torch_optim_with_a_factor_for_some_parameters() -> None:
    ours, theirs = model(), model()
    train(
        ours,
        AdamW(list(ours.parameters()), weight_decay=0.1, scales=dict.fromkeys(ours[0].parameters(), 0.5)),
        range(5),
    )
    groups = [{"params": theirs[0].parameters(), "lr": 0.0}, {"params": theirs[2].parameters(), "lr": 0.0}]
    reference = torch.optim.AdamW(groups, weight_decay=0.1)
    for step in range(5):
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
        for group, scale in zip(reference.param_groups, (0.5, 1.0), strict=True):
            group["lr"] = 0.1 / (step + 1) * scale
        reference.zero_grad()
        theirs(x).square().mean().backward()
        reference.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_a_saved_state_goes_on_as_if_unbroken() -> None:
    unbroken, broken = model(), model()
    train(unbroken, AdamW(list(unbroken.parameters()), weight_decay=0.1), range(4))
    first, second = (AdamW(list(broken.parameters()), weight_decay=0.1) for _ in range(2))
    second.load_state_dict(first.state_dict())  # from before the first step
    train(broken, first, range(2))
    second.load_state_dict(first.state_dict())
    train(broken, second, range(2, 4))
    assert all(torch.equal(a, b) for a, b in zip(unbroken.parameters(), broken.parameters(), strict=True))
