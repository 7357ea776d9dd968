"""MoCo-v2 (arXiv 1911.05722 and 2003.04297): the method, which `MoCo.step` reads from top to bottom.

BatchNorm groups are explicit. A step's batch of B images is B / g groups of g images (the paper: 256 = 4 x 64), and
BatchNorm normalises each group by itself (`hpt.batch_norm`), whatever the number P of processes and however many
groups, a micro-batch of m images, go through the encoder at once. A query's loss depends on its own key and the queue
only, so gradients accumulate over micro-batches.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpt import encoder
from hpt.config import MocoConfig
from hpt.processes import Compute, Processes
from hpt.randomness import generator
from hpt.strategies import Strategy

CHUNK = 4096
"""Keys of the queue that InfoNCE looks at together on a CPU, whose caches hold them and their similarities."""


class MoCo(nn.Module):
    """The method: a query encoder that learns, a key encoder that follows it, and a queue of keys as negatives."""

    queue: Tensor
    position: Tensor
    passes = 1
    """The times that a step's images go through each encoder."""

    def __init__(self, backbone: nn.Module, features: int, config: MocoConfig, *, seed: int) -> None:
        """`features` is the length of what `backbone` gives."""
        super().__init__()
        self.momentum = config.momentum
        self.temperature = config.temperature
        self.query = Branch(backbone, projection_head(features, config.dim, seed))
        self.key = copy.deepcopy(self.query)
        self.key.requires_grad_(False)
        random = torch.randn(config.queue_size, config.dim, generator=generator(seed, "queue"))
        self.register_buffer("queue", F.normalize(random, dim=1))  # K x dim
        self.register_buffer("position", torch.zeros((), dtype=torch.long))

    def step(
        self,
        query_views: Iterable[Tensor],
        key_views: Iterable[Tensor],
        shuffle: Tensor,
        processes: Processes,
        compute: Compute,
    ) -> tuple[Tensor, Tensor]:
        """Algorithm 1 of arXiv 1911.05722 on a batch of B images, up to the gradients of the query encoder.

        Args:
            query_views: this process's B / P images, a micro-batch [m, 3, h, w] at a time.
            key_views: likewise other views of the images in the order of `shuffle` [B]: a BatchNorm group of keys is
                not one of queries, so that no query finds its key by the statistics that both were normalised with.

        Returns:
            This process's mean loss [], and its share of queries that are nearest to their own key [].
        """
        self.update_key_encoder()

        shuffled = []
        for view in key_views:
            with torch.no_grad(), compute.autocast():
                shuffled.append(self.key(view))  # m x dim
        keys = unshuffle(processes.gather(torch.cat(shuffled)), shuffle)  # B x dim
        mine = processes.share(keys)  # B/P x dim

        mean_loss, ranked_first = torch.zeros((), device=keys.device), torch.zeros((), device=keys.device)
        for view, own in zip(query_views, mine.split([len(part) for part in shuffled]), strict=True):
            with compute.autocast():
                queries = self.query(view)  # m x dim
            loss, correct = self.loss(queries, own)  # of the positives `own` among the negatives of the queue
            loss = loss * (len(view) / len(mine))
            loss.backward()  # gradients add up over the micro-batches
            mean_loss += loss.detach()
            ranked_first += correct / len(mine)

        self.enqueue(keys)
        return mean_loss, ranked_first

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

    def train_only(self, strategy: Strategy) -> None:
        """Give gradients to what the strategy trains: everything, or BatchNorm and the head."""
        if strategy.trains == "batch-norm":
            train_norms_only(self.query.backbone)


def train_norms_only(backbone: nn.Module) -> None:
    """Leave gradients to BatchNorm alone; in a network that has none, to its other norms."""
    backbone.requires_grad_(False)
    for norm in encoder.norms(backbone)[1]:
        norm.requires_grad_(True)


def unshuffle(shuffled: Tensor, shuffle: Tensor) -> Tensor:
    """Rows [B, dim] of which row j belongs to place `shuffle[j]`, put into their places."""
    rows = torch.empty_like(shuffled)
    rows[shuffle.to(shuffled.device)] = shuffled
    return rows


# InfoNCE of a query q with its own key k_0, the queue's keys k_1 ... k_K and temperature t is the cross entropy of the
# logits s_j = q . k_j / t, where 0 is the right answer:
#
#     loss = log sum_j exp(s_j) - s_0                  d loss / d q = (sum_j p_j k_j - k_0) / t,   p_j = softmax(s)_j
#
# Both are sums over keys, so they can be had chunk by chunk (online softmax, arXiv 1805.02867). Of the keys so far:
#
#     top = max_j s_j          total = sum_j exp(s_j - top)          mean = sum_j exp(s_j - top) k_j
#
# A chunk C of further keys raises top to top' = max(top, max_C s_j), and
#
#     total' = total exp(top - top') + sum_C exp(s_j - top')
#     mean'  = mean  exp(top - top') + sum_C exp(s_j - top') k_j
#
# so that after the last one
#
#     loss = top + log total - s_0                     sum_j p_j k_j = mean / total
class InfoNCE(torch.autograd.Function):
    """Cross entropy of each query's similarities to its own key and to the queue, where its own key is right.

    The gradient of the queries comes with the forward pass, chunk by chunk of the queue, so the n x K similarities are
    never kept: a quarter less time than cross_entropy over them on a CPU, and no memory. Keys get no gradient.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """queries, keys [n, dim], queue [K, dim] -> mean loss [], queries nearest to their own key [] int."""
        scaled = queries / temperature  # n x dim
        own = (scaled * keys).sum(dim=1)  # n, the logit s_0
        top, total, mean = own.clone(), torch.ones_like(own), keys.clone()  # n, n, n x dim: of the own key alone
        nearest = torch.full_like(own, -torch.inf)  # n, the largest logit of the queue
        for chunk in queue.split(CHUNK if queue.device.type == "cpu" else len(queue)):
            logits = scaled @ chunk.T  # n x chunk
            highest = logits.amax(dim=1)  # n
            nearest = torch.maximum(nearest, highest)
            new = torch.maximum(top, highest)
            shrink = (top - new).exp_()
            weights = logits.sub_(new[:, None]).exp_()  # n x chunk
            total = total * shrink + weights.sum(dim=1)
            mean = torch.addmm(mean * shrink[:, None], weights, chunk)
            top = new
        gradient = (mean / total[:, None] - keys) / (temperature * len(queries))  # n x dim, of the mean over n
        ctx.save_for_backward(gradient)
        ranked_first = (nearest <= own).sum()
        ctx.mark_non_differentiable(ranked_first)
        return (top + total.log() - own).mean(), ranked_first

    @staticmethod
    def backward(ctx: Any, of_loss: Tensor, of_count: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * of_loss, None, None, None


class Branch(nn.Module):
    """Backbone, projection head, L2 norm: the query encoder, or the key encoder."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """[n, 3, h, w] -> [n, dim], of length 1, fp32."""
        return F.normalize(self.head(self.backbone(images)).float(), dim=1)


def projection_head(features: int, dim: int, seed: int) -> nn.Sequential:
    """MoCo-v2's MLP: features -> features -> ReLU -> dim, fresh from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(generator(seed, "head").initial_seed())
        return nn.Sequential(nn.Linear(features, features), nn.ReLU(inplace=True), nn.Linear(features, dim))
