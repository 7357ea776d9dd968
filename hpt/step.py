"""One optimizer step of a pretraining, the same whatever the number of processes that share it."""

from __future__ import annotations

import torch
from torch import Tensor

from hpt import encoder
from hpt.batch_norm import ungrouped
from hpt.config import PretrainConfig
from hpt.errors import ConfigError
from hpt.methods import METHODS, Method
from hpt.moco import MoCo
from hpt.moco_v3 import MoCoV3
from hpt.processes import Compute, Processes
from hpt.strategies import STRATEGIES
from hpt.views import StepViews


class Step:
    """A method's step on a batch of B images, of which each process has its BatchNorm groups."""

    def __init__(
        self,
        config: PretrainConfig,
        moco: MoCo | MoCoV3,
        processes: Processes,
        method: Method = METHODS["moco-v2"],
    ) -> None:
        """Make `moco` ready to train here: on the device, with BatchNorm's groups, with what the strategy trains.

        Raises:
            ConfigError: a layer normalises a batch of something else than images, or the backbone cannot compute again
                what it does not keep (`gradient_checkpointing`).
        """
        if odd := ungrouped(moco):
            raise ConfigError(
                f"a {config.backbone} normalises over the tokens of a batch ({odd[0]} and {len(odd) - 1} more layers), "
                "which cannot be pretrained in BatchNorm groups",
                "evaluate it as it is, or choose another backbone",
            )
        self.config, self.moco, self.processes = config, moco, processes
        self.compute = Compute.of(config, processes.device)
        if config.gradient_checkpointing:
            encoder.recompute(moco.query.backbone, config.backbone)
        moco.train_only(STRATEGIES[config.strategy])
        moco.to(self.compute.device).to(memory_format=self.compute.memory_format).train()
        self.trained = [p for p in moco.query.parameters() if p.requires_grad]
        self.optimizer = method.optimizer(moco, config)
        self.groups = config.bn_groups // processes.count  # this process's share
        norms = encoder.batch_norms(moco)
        for bn in norms:
            bn.group, bn.groups = config.bn_group, self.groups * moco.passes
        self.running = [b for bn in norms for b in (bn.running_mean, bn.running_var) if b is not None]
        """BatchNorm's running statistics, which differ between processes until they are averaged."""

    def __call__(self, views: StepViews, lr: float) -> tuple[Tensor, Tensor]:
        """Take the step; this process's mean loss [] and share of queries nearest to their own key []."""
        found = self.moco.step(views.query, views.key, views.shuffle, self.processes, self.compute)
        # One message a step. Overlapping it with the backward pass, as DDP does, would win little: it is 45 MB
        # (ResNet-18) or 100 MB (ResNet-50) for a whole step of several groups.
        for parameter in self.trained:
            if parameter.grad is None:  # of a part that the features do not pass through
                parameter.grad = torch.zeros_like(parameter)
        self.processes.average_(p.grad for p in self.trained if p.grad is not None)
        self.optimizer.step(lr)
        return found

    def finish(self, steps: int) -> None:
        """Make the query encoder's buffers those of one process that has seen every group of so many steps."""
        self.processes.average_(self.running)
        for bn in encoder.batch_norms(self.moco.query):
            if bn.num_batches_tracked is not None:
                bn.num_batches_tracked += steps * self.groups * self.moco.passes * (self.processes.count - 1)
