"""MoCo-v3 (arXiv 2104.02057, Algorithm 1): no queue, the other images of the batch are the negatives.

A step's loss is symmetric: each of an image's two views is a query once, and a key once. Queries go through a predictor
behind the projector, keys do not. BatchNorm, which the heads have even where the backbone has none, normalises a group
of `moco.bn_group` images by itself, as in MoCo-v2 (`hpt.moco`), where the publication has one group over all GPUs; so a
batch may go through in micro-batches, and over several processes, with the same outcome.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpt import encoder
from hpt.batch_norm import BatchNorm1d
from hpt.config import MocoV3Config
from hpt.moco import train_norms_only, unshuffle
from hpt.processes import Compute, Processes
from hpt.randomness import generator
from hpt.strategies import Strategy

PUBLISHED_HIDDEN = 4096


class MoCoV3(nn.Module):
    """The method: a query encoder with a predictor that learns, and a key encoder that follows it."""

    passes = 2
    """The times that a step's images go through each encoder: once as either view."""

    def __init__(self, backbone: nn.Module, name: str, config: MocoV3Config, *, seed: int) -> None:
        """`name` is the backbone's, whose projection of patches may be frozen."""
        super().__init__()
        self.momentum = config.momentum
        """Of the key encoder; the training raises it step by step."""
        self.temperature = config.temperature
        self.frozen = (
            encoder.stems(backbone, name) if config.freeze_patches and encoder.is_transformer(backbone) else []
        )
        width = encoder.width(backbone)
        hidden = config.hidden or min(PUBLISHED_HIDDEN, 8 * width)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(generator(seed, "head").initial_seed())
            projector = mlp(width, hidden, hidden, config.dim)
            predictor = mlp(config.dim, hidden, config.dim)
        self.query = Query(backbone, projector, predictor)
        self.key = Key(copy.deepcopy(backbone), copy.deepcopy(projector))
        self.key.requires_grad_(False)

    def step(
        self,
        query_views: Iterable[Tensor],
        key_views: Iterable[Tensor],
        shuffle: Tensor,
        processes: Processes,
        compute: Compute,
    ) -> tuple[Tensor, Tensor]:
        """Algorithm 1 on a batch of B images, up to the gradients of the query encoder.

        Args:
            query_views: the first views of this process's B / P images, a micro-batch [m, C, h, w] at a time.
            key_views: the second views, likewise, of the images in the order of `shuffle` [B].

        Returns:
            This process's mean loss [], and its share of queries that are nearest to their own key [].
        """
        second, first = list(key_views), list(query_views)  # each view is needed twice
        self.update_key_encoder()
        keys_of_second = unshuffle(self._keys(second, processes, compute), shuffle)  # B x dim
        keys_of_first = self._keys(first, processes, compute)  # B x dim
        device = keys_of_first.device
        places = torch.arange(len(shuffle), device=device)
        mean_loss, ranked_first = torch.zeros((), device=device), torch.zeros((), device=device)
        for views, keys, own in (
            (first, keys_of_second, places),
            (second, keys_of_first, shuffle.to(device)),
        ):
            mine = processes.share(own)
            for view, place in zip(views, mine.split([len(view) for view in views]), strict=True):
                with compute.autocast():
                    queries = self.query(view)  # m x dim
                loss, correct = self.loss(queries, keys, place)
                loss = loss * (len(view) / len(mine))
                loss.backward()  # gradients add up over the micro-batches and the two halves of the loss
                mean_loss += loss.detach()
                ranked_first += correct / (2 * len(mine))
        return mean_loss, ranked_first

    def loss(self, queries: Tensor, keys: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """One half of the loss: the mean over queries [m, dim] of the cross entropy of their similarities to all keys
        [B, dim], where that at `place` [m] is right, times 2 temperatures; and how many are nearest to theirs."""
        logits = queries @ keys.T / self.temperature  # m x B
        return F.cross_entropy(logits, place) * 2 * self.temperature, (logits.argmax(dim=1) == place).sum()

    @torch.no_grad()
    def _keys(self, views: list[Tensor], processes: Processes, compute: Compute) -> Tensor:
        with compute.autocast():
            keys = [self.key(view) for view in views]
        return processes.gather(torch.cat(keys))

    @torch.no_grad()
    def update_key_encoder(self) -> None:
        """key <- m * key + (1 - m) * query, parameters only: BatchNorm's buffers follow from the key's own batches."""
        keys: list[Tensor] = list(self.key.parameters())
        queries: list[Tensor] = [*self.query.backbone.parameters(), *self.query.projector.parameters()]
        torch._foreach_lerp_(keys, queries, 1 - self.momentum)

    def train_only(self, strategy: Strategy) -> None:
        """Give gradients to what the strategy trains, but for the projection of patches where it is frozen."""
        if strategy.trains == "batch-norm":
            train_norms_only(self.query.backbone)
        for parameter in self.frozen:
            parameter.requires_grad_(False)


class Key(nn.Module):
    """Backbone, projector, L2 norm."""

    def __init__(self, backbone: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.projector = backbone, projector

    def forward(self, images: Tensor) -> Tensor:
        """[n, C, h, w] -> [n, dim], of length 1, fp32."""
        return F.normalize(self.projector(self.backbone(images)).float(), dim=1)


class Query(nn.Module):
    """Backbone, projector, predictor, L2 norm."""

    def __init__(self, backbone: nn.Module, projector: nn.Module, predictor: nn.Module) -> None:
        super().__init__()
        self.backbone, self.projector, self.predictor = backbone, projector, predictor

    def forward(self, images: Tensor) -> Tensor:
        """[n, C, h, w] -> [n, dim], of length 1, fp32."""
        return F.normalize(self.predictor(self.projector(self.backbone(images))).float(), dim=1)


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers without biases, BatchNorm and ReLU behind each but the last, which has BatchNorm without weights
    (github.com/facebookresearch/moco-v3, moco/builder.py, for ViTs)."""
    parts: list[nn.Module] = []
    for before, after in pairwise(widths[:-1]):
        parts += [nn.Linear(before, after, bias=False), BatchNorm1d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*parts, nn.Linear(widths[-2], widths[-1], bias=False), BatchNorm1d(widths[-1], affine=False))
