"""AdamW: torch.optim's arithmetic through its functional form, for the reason that `hpt.sgd` gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

BETAS, EPS = (0.9, 0.999), 1e-8


class AdamW:
    """Adam with decoupled weight decay (arXiv 1711.05101), with PyTorch's betas and epsilon."""

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        *,
        weight_decay: float,
        scales: Mapping[nn.Parameter, float] | None = None,
    ) -> None:
        """`scales` are the factors of the learning rate of some parameters, 1 for the others."""
        self.parameters, self.weight_decay = list(parameters), weight_decay
        by_scale: dict[float, list[int]] = {}
        for number, parameter in enumerate(self.parameters):
            by_scale.setdefault((scales or {}).get(parameter, 1.0), []).append(number)
        self._by_scale = by_scale
        self._steps = [torch.zeros(()) for _ in self.parameters]
        self._mean: list[Tensor] = []
        self._square: list[Tensor] = []

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Move every parameter by its gradient, which it must have, and drop the gradients."""
        if not self._mean:
            self._mean = [torch.zeros_like(each) for each in self.parameters]
            self._square = [torch.zeros_like(each) for each in self.parameters]
        for scale, numbers in self._by_scale.items():
            adamw(
                [self.parameters[n] for n in numbers],
                [self.parameters[n].grad for n in numbers],  # type: ignore[misc]  # it must have one
                [self._mean[n] for n in numbers],
                [self._square[n] for n in numbers],
                [],
                [self._steps[n] for n in numbers],
                amsgrad=False,
                beta1=BETAS[0],
                beta2=BETAS[1],
                lr=lr * scale,
                weight_decay=self.weight_decay,
                eps=EPS,
                maximize=False,
            )
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """The moments and the number of steps; no moments before the first step."""
        return {"mean": self._mean, "square": self._square, "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`; the moments move to their parameters' device and memory format."""
        if not state["mean"]:
            return
        for name in ("mean", "square"):
            pairs = zip(self.parameters, state[name], strict=True)
            setattr(self, f"_{name}", [torch.empty_like(parameter).copy_(each) for parameter, each in pairs])
        self._steps = [each.clone() for each in state["steps"]]
