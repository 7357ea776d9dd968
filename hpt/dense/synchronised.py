"""BatchNorm over the images of several processes: a network's statistics are those of the whole batch.

PyTorch's SyncBatchNorm does the same on CUDA devices alone.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpt.processes import Processes


def synchronise(model: nn.Module, processes: Processes, *, counts: bool) -> None:
    """Let each BatchNorm of the model see the batches of all processes; its parameters and their names stay.

    Args:
        counts: whether the images of this process count. One that has none of a step's own goes along with any, since
            all take part in each layer.
    """
    if processes.count == 1:
        return
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, SynchronisedBatchNorm(child, processes, counts))


class SynchronisedBatchNorm(nn.BatchNorm2d):
    """A BatchNorm layer whose training batch is shared out among processes."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, layer: nn.BatchNorm2d, processes: Processes, counts: bool) -> None:
        super().__init__(layer.num_features, layer.eps, layer.momentum, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        assert layer.running_mean is not None and layer.running_var is not None
        self.running_mean, self.running_var = layer.running_mean, layer.running_var
        self.num_batches_tracked = layer.num_batches_tracked
        self.train(layer.training)
        self.processes, self.counts = processes, counts

    def forward(self, x: Tensor) -> Tensor:
        """[n, C, h, w] -> the same."""
        if not self.training:
            return super().forward(x)
        assert self.momentum is not None and self.num_batches_tracked is not None
        mean, var, total = self._statistics(x.detach())
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (total / (total - 1).clamp(min=1)), self.momentum)
            self.num_batches_tracked += 1
        found: Tensor = _Normalised.apply(x, self.weight, self.bias, mean, var, total, self)
        return found

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The mean [C] and variance [C] of all processes' batches, and the number of their positions []."""
        channels, positions = x.shape[1], x.numel() // x.shape[1] if self.counts else 0
        mean, var = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        if positions:
            # PyTorch's own sums, as exact as the running ones; with momentum 0 those given stay as they are
            mean, var = torch.batch_norm_update_stats(x, mean, var, 0.0)
        every = self.processes.gather(torch.cat([mean, var, mean.new_tensor([positions])])[None])
        means, variances, many = every[:, :channels], every[:, channels:-1], every[:, -1:]
        total = many.sum()
        mean = (means * many).sum(dim=0) / total
        var = ((variances + (means - mean) ** 2) * many).sum(dim=0) / total
        return mean, var, total


class _Normalised(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        var: Tensor,
        total: Tensor,
        layer: SynchronisedBatchNorm,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, var, total)
        ctx.layer = layer
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, layer.eps) if x.numel() else x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """With xhat = (x - mean) / std: grad x = weight / std * (grad - mean of grad - xhat * mean of grad * xhat),
        where the means are over the batches of all processes."""
        x, weight, mean, var, total = ctx.saved_tensors
        layer: SynchronisedBatchNorm = ctx.layer
        of_weight, of_bias = torch.zeros_like(mean), torch.zeros_like(mean)
        if x.numel():  # PyTorch's own sums of grad * xhat and grad
            _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
                grad, x, weight, mean, var, None, None, False, layer.eps, [False, True, True]
            )
        both = torch.stack([of_weight, of_bias])
        layer.processes.sum_([both])
        if not layer.counts:
            return torch.zeros_like(x), of_weight, of_bias, None, None, None, None
        by_std = (var + layer.eps).rsqrt()
        slope, offset = by_std * both[0] / total, both[1] / total
        scale, along, constant = (
            values[None, :, None, None]
            for values in (weight * by_std, -weight * by_std * slope, weight * by_std * (mean * slope - offset))
        )
        of_x = torch.addcmul(constant, x, along).addcmul_(grad, scale)
        return of_x.to(x.dtype), of_weight, of_bias, None, None, None, None
