"""MoCo-v2 (arXiv 1911.05722 and 2003.04297): the method, in one class.

BatchNorm groups are explicit. A step's batch of B images is B / g groups of g images (the paper: 256 = 4 x 64); each
group goes through the encoder by itself, so BatchNorm sees g images at a time whatever the number of processes. A
query's loss depends on its own key and the queue only, so gradients may accumulate over groups.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpt import encoder
from hpt.config import MocoConfig
from hpt.randomness import generator
from hpt.strategies import Strategy

BN_MOMENTUM = 0.1
"""PyTorch's and the paper's: the share of a step's statistics in the running statistics."""


class Branch(nn.Module):
    """Backbone, projection head, L2 norm: the query encoder, or the key encoder."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """[n, 3, h, w] -> [n, dim], of length 1, fp32."""
        return F.normalize(self.head(self.backbone(images)).float(), dim=1)


class MoCo(nn.Module):
    """Query encoder, key encoder, and the queue of keys."""

    queue: Tensor
    position: Tensor

    def __init__(self, backbone: nn.Module, features: int, config: MocoConfig, *, seed: int) -> None:
        super().__init__()
        self.momentum = config.momentum
        self.temperature = config.temperature
        self.query = Branch(backbone, projection_head(features, config.dim, seed))
        self.key = copy.deepcopy(self.query)
        self.key.requires_grad_(False)
        random = torch.randn(config.queue_size, config.dim, generator=generator(seed, "queue"))
        self.register_buffer("queue", F.normalize(random, dim=1))  # K x dim
        self.register_buffer("position", torch.zeros((), dtype=torch.long))

    def train_only(self, strategy: Strategy) -> None:
        """Give gradients to what the strategy trains: everything, or BatchNorm and the head."""
        if strategy.trains == "batch-norm":
            self.query.backbone.requires_grad_(False)
            for bn in encoder.batch_norms(self.query.backbone):
                bn.requires_grad_(True)

    @torch.no_grad()
    def update_key_encoder(self) -> None:
        """key <- m * key + (1 - m) * query, parameters only: BatchNorm's buffers follow from the key's own batches."""
        keys: list[Tensor] = list(self.key.parameters())
        queries: list[Tensor] = list(self.query.parameters())
        torch._foreach_lerp_(keys, queries, 1 - self.momentum)

    def logits(self, queries: Tensor, keys: Tensor) -> Tensor:
        """[n, 1 + K] similarities of queries [n, dim] to their keys [n, dim] and to the queue, over the temperature."""
        positive = (queries * keys).sum(dim=1, keepdim=True)  # n x 1
        negative = queries @ self.queue.T  # n x K
        return torch.cat([positive, negative], dim=1) / self.temperature

    def loss(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """InfoNCE, the mean over n queries; also how many of them are nearest to their own key, [] int."""
        logits = self.logits(queries, keys)
        target = torch.zeros(len(queries), dtype=torch.long, device=queries.device)
        return F.cross_entropy(logits, target), (logits.detach().argmax(dim=1) == 0).sum()

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Put keys [n, dim] in the place of the oldest ones."""
        size = len(self.queue)
        place = (self.position + torch.arange(len(keys), device=keys.device)) % size
        self.queue[place] = keys
        self.position.add_(len(keys)).remainder_(size)


def projection_head(features: int, dim: int, seed: int) -> nn.Sequential:
    """MoCo-v2's MLP: features -> features -> ReLU -> dim, fresh from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(generator(seed, "head").initial_seed())
        return nn.Sequential(nn.Linear(features, features), nn.ReLU(inplace=True), nn.Linear(features, dim))


def average_statistics(batch_norms: Sequence[nn.BatchNorm2d], group: int, groups: int) -> None:
    """Before the forward pass of group `group` (from 0) of `groups`: make the running statistics average over groups.

    PyTorch folds each forward pass into the running statistics with one momentum. With momentum
    (0.1 / n) / (0.9 + 0.1 * (i + 1) / n) at pass i of n, a step ends at 0.9 * running + 0.1 * mean over its n groups,
    as if n processes had each seen one group and averaged. (Check: pass i leaves a weighted mean of total weight
    0.9 + 0.1 * (i + 1) / n, of which the newest group has 0.1 / n.)
    """
    share = BN_MOMENTUM / groups
    momentum = share / (1 - BN_MOMENTUM + share * (group + 1))
    for bn in batch_norms:
        bn.momentum = momentum
