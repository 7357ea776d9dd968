"""SGD with momentum: torch.optim's arithmetic through its functional form.

The class `torch.optim.SGD` computes the same, but creating one imports `torch._dynamo`, which costs 4 s at the start of
every run.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd


class SGD:
    """velocity = momentum * velocity + gradient + weight_decay * parameter; parameter -= lr * velocity."""

    def __init__(self, parameters: Iterable[nn.Parameter], *, momentum: float, weight_decay: float = 0.0) -> None:
        self.parameters = list(parameters)
        self.momentum, self.weight_decay = momentum, weight_decay
        self._velocity: list[Tensor | None] = [None] * len(self.parameters)

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Move every parameter by its gradient, which it must have, and drop the gradients."""
        gradients = [parameter.grad for parameter in self.parameters]
        sgd(
            self.parameters,  # type: ignore[arg-type]
            gradients,  # type: ignore[arg-type]
            self._velocity,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            lr=lr,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """The velocities; an empty list before the first step."""
        return {"velocity": [each for each in self._velocity if each is not None]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`; the velocities move to their parameters' device and memory format."""
        loaded: list[Tensor] = state["velocity"]
        if loaded:
            self._velocity = [
                torch.empty_like(parameter).copy_(each) for parameter, each in zip(self.parameters, loaded, strict=True)
            ]
