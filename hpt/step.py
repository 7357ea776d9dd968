"""One optimizer step of a pretraining, the same whatever the number of processes that share it."""

from __future__ import annotations

from torch import Tensor

from hpt import encoder
from hpt.config import PretrainConfig
from hpt.moco import MoCo
from hpt.processes import Compute, Processes
from hpt.sgd import SGD
from hpt.strategies import STRATEGIES
from hpt.views import StepViews


class Step:
    """MoCo-v2's step on a batch of B images, of which each process has its BatchNorm groups."""

    def __init__(self, config: PretrainConfig, moco: MoCo, processes: Processes) -> None:
        """Make `moco` ready to train here: on the device, with BatchNorm's groups, with what the strategy trains."""
        self.config, self.moco, self.processes = config, moco, processes
        self.compute = Compute.of(config, processes.device)
        moco.train_only(STRATEGIES[config.strategy])
        moco.to(self.compute.device).to(memory_format=self.compute.memory_format).train()
        self.trained = [p for p in moco.query.parameters() if p.requires_grad]
        sgd = config.optimizer
        self.optimizer = SGD(self.trained, momentum=sgd.momentum, weight_decay=sgd.weight_decay)
        self.groups = config.bn_groups // processes.count  # this process's share
        norms = encoder.batch_norms(moco)
        for bn in norms:
            bn.group, bn.groups = config.bn_group, self.groups
        self.running = [b for bn in norms for b in (bn.running_mean, bn.running_var) if b is not None]
        """BatchNorm's running statistics, which differ between processes until they are averaged."""

    def __call__(self, views: StepViews, lr: float) -> tuple[Tensor, Tensor]:
        """Take the step; this process's mean loss [] and share of queries nearest to their own key []."""
        found = self.moco.step(views.query, views.key, views.shuffle, self.processes, self.compute)
        # One message a step. Overlapping it with the backward pass, as DDP does, would win little: it is 45 MB
        # (ResNet-18) or 100 MB (ResNet-50) for a whole step of several groups.
        self.processes.average_(p.grad for p in self.trained if p.grad is not None)
        self.optimizer.step(lr)
        return found

    def finish(self) -> None:
        """Make the query encoder's buffers those of one process that has seen every group."""
        self.processes.average_(self.running)
        for bn in encoder.batch_norms(self.moco.query):
            if bn.num_batches_tracked is not None:
                bn.num_batches_tracked += self.config.steps * self.groups * (self.processes.count - 1)
