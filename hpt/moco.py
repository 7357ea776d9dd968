"""MoCo-v2 (arXiv 1911.05722 and 2003.04297): the method, in one class.

BatchNorm groups are explicit. A step's batch of B images is B / g groups of g images (the paper: 256 = 4 x 64), and
BatchNorm normalises each group by itself, whatever the number of processes and however many groups go through the
encoder at once. A query's loss depends on its own key and the queue only, so gradients may accumulate over groups.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpt import encoder
from hpt.config import MocoConfig
from hpt.randomness import generator
from hpt.strategies import Strategy

CHUNK = 4096
"""Keys of the queue that InfoNCE looks at together on a CPU, whose caches hold them and their similarities."""


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

    def loss(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """InfoNCE, the mean over n queries; also how many of them are nearest to their own key, [] int."""
        loss, ranked_first = InfoNCE.apply(queries, keys, self.queue, self.temperature)
        return loss, ranked_first

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Put keys [n, dim] in the place of the oldest ones."""
        size = len(self.queue)
        place = (self.position + torch.arange(len(keys), device=keys.device)) % size
        self.queue[place] = keys
        self.position.add_(len(keys)).remainder_(size)


class InfoNCE(torch.autograd.Function):
    """Cross entropy of each query's similarities to its own key and to the queue, where its own key is right.

    The gradient of the queries, (sum over keys of p(key) * key - own key) / temperature / n, comes with the forward
    pass, chunk by chunk of the queue, so the n x K similarities are never kept: a quarter less time than cross_entropy
    over them on a CPU, and no memory.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """queries, keys [n, dim], queue [K, dim] -> mean loss [], queries nearest to their own key [] int."""
        scaled = queries / temperature
        own = (scaled * keys).sum(dim=1)  # n
        top, total = own.clone(), torch.ones_like(own)  # largest logit so far; sum of exp(logit - top)
        mean = keys.clone()  # sum of exp(logit - top) * key
        nearest = torch.full_like(own, -torch.inf)
        for chunk in queue.split(CHUNK if queue.device.type == "cpu" else len(queue)):
            logits = scaled @ chunk.T  # n x chunk
            highest = logits.amax(dim=1)
            nearest = torch.maximum(nearest, highest)
            new = torch.maximum(top, highest)
            shrink = (top - new).exp_()
            weights = logits.sub_(new[:, None]).exp_()
            total = total * shrink + weights.sum(dim=1)
            mean = torch.addmm(mean * shrink[:, None], weights, chunk)
            top = new
        gradient = (mean / total[:, None] - keys) / (temperature * len(queries))
        ctx.save_for_backward(gradient)
        ranked_first = (nearest <= own).sum()
        ctx.mark_non_differentiable(ranked_first)
        return (top + total.log() - own).mean(), ranked_first

    @staticmethod
    def backward(ctx: Any, of_loss: Tensor, of_count: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * of_loss, None, None, None


def projection_head(features: int, dim: int, seed: int) -> nn.Sequential:
    """MoCo-v2's MLP: features -> features -> ReLU -> dim, fresh from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(generator(seed, "head").initial_seed())
        return nn.Sequential(nn.Linear(features, features), nn.ReLU(inplace=True), nn.Linear(features, dim))
