"""Our SGD is torch.optim's, which is slow to import."""

import pytest
import torch
from torch import nn

from hpt.sgd import SGD


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))


@pytest.mark.parametrize("weight_decay", [0.0, 1e-2])
def test_five_steps_end_in_the_bits_of_torch_optim(weight_decay: float) -> None:
    ours, theirs = model(), model()
    sgd = SGD(ours.parameters(), momentum=0.9, weight_decay=weight_decay)
    reference = torch.optim.SGD(theirs.parameters(), lr=1.0, momentum=0.9, weight_decay=weight_decay)
    for step in range(5):
        lr = 0.1 / (step + 1)
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
        ours(x).square().mean().backward()
        sgd.step(lr)
        reference.param_groups[0]["lr"] = lr
        reference.zero_grad()
        theirs(x).square().mean().backward()
        reference.step()
        assert all(p.grad is None for p in ours.parameters())
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_a_saved_state_goes_on_as_if_unbroken() -> None:
    unbroken, broken = model(), model()
    first = SGD(unbroken.parameters(), momentum=0.9)
    second = SGD(broken.parameters(), momentum=0.9)
    for step in range(4):
        if step == 2:
            resumed = SGD(broken.parameters(), momentum=0.9)
            resumed.load_state_dict(second.state_dict())
            second = resumed
        for each, sgd in ((unbroken, first), (broken, second)):
            each(torch.ones(2, 5)).sum().backward()
            sgd.step(0.1)
    assert all(torch.equal(a, b) for a, b in zip(unbroken.parameters(), broken.parameters(), strict=True))


def test_a_state_from_before_the_first_step_is_empty() -> None:
    sgd = SGD(model().parameters(), momentum=0.9)
    assert sgd.state_dict() == {"velocity": []}
    sgd.load_state_dict({"velocity": []})
