"""BatchNorm in groups: what the paper's four GPUs normalise apart is explicit, whatever the number of processes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOMENTUM = 0.1
"""The share of a step's statistics in BatchNorm's running statistics; it is PyTorch's and the paper's."""


class BatchNorm(nn.BatchNorm2d):
    """BatchNorm whose training batch may hold several groups, each with statistics of its own.

    The convolutions before and after see all groups at once, which a small image needs to keep a processor busy: on 2
    cores a ResNet-18 takes 20 % less time for 4 groups of 64 at 32 px at once than one by one, and 8 % less at 64 px.
    """

    group: int | None = None
    """Images in a group. None: the whole batch is one group, as in PyTorch."""
    groups = 1
    """Groups that an optimizer step has in this process; a batch holds some of them, in order."""
    seen = 0
    """Groups of the present step that have been normalised."""

    def forward(self, x: Tensor) -> Tensor:
        """[n, C, h, w] -> the same."""
        return self.in_groups(x) if self.by_hand else super().forward(x)

    @property
    def by_hand(self) -> bool:
        """Whether a batch is normalised here instead of by PyTorch's layer: in groups, or a second time."""
        return self.training and (self.group is not None or computes_again())

    def in_groups(self, x: Tensor) -> Tensor:
        """[n, C, ...] -> the same, group by group.

        PyTorch folds each batch into the running statistics with one momentum. With momentum
        (0.1 / n) / (0.9 + 0.1 * (i + 1) / n) at group i of n, a step ends at 0.9 * running + 0.1 * mean over its n
        groups, as if n processes had each seen one group and averaged. (Check: group i leaves a weighted mean of total
        weight 0.9 + 0.1 * (i + 1) / n, of which the newest group has 0.1 / n.) Some networks of timm have another
        momentum than 0.1.

        What a backward pass computes again (`hpt.encoder.recompute`) has been folded in before. With momentum 0 it is
        not once more, and as many tensors are saved as the first time.
        """
        normalised, again = [], computes_again()
        own = MOMENTUM if self.momentum is None else self.momentum
        share = own / self.groups
        for part in x.split(self.group or len(x)):
            momentum = 0.0 if again else share / (1 - own + share * (self.seen + 1))
            self.seen = self.seen if again else (self.seen + 1) % self.groups
            normalised.append(
                F.batch_norm(
                    part, self.running_mean, self.running_var, self.weight, self.bias, True, momentum, self.eps
                )
            )
        if self.num_batches_tracked is not None and not again:
            self.num_batches_tracked.add_(len(normalised))
        # Writing into slices of one tensor, by aten's out variants, was no quicker.
        return normalised[0] if len(normalised) == 1 else torch.cat(normalised)


class BatchNorm1d(BatchNorm):
    """The same of rows [n, C], as in the heads of MoCo-v3."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() != 2:
            raise ValueError(f"expected rows [n, C], got {input.dim()} dimensions")


def computes_again() -> bool:
    """Whether this is a forward pass inside of a backward pass, which wants activations that were not kept."""
    return torch._C._current_graph_task_id() != -1  # as torch.utils.module_tracker asks


def batch_norms(model: nn.Module) -> list[BatchNorm]:
    """Every BatchNorm layer that can normalise in groups, in the order of the modules."""
    return [module for module in model.modules() if isinstance(module, BatchNorm)]


def ungrouped(model: nn.Module) -> list[str]:
    """The names of the layers that normalise over a batch and cannot do so in groups."""
    every = ((name, each) for name, each in model.named_modules() if isinstance(each, nn.modules.batchnorm._BatchNorm))
    return [name for name, each in every if not isinstance(each, BatchNorm)]
