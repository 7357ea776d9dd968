"""Linear probe: how separable the classes are in a frozen backbone's features.

All learning rates and reruns train in one pass, as a bank of heads that sees the same features; the backbone, which
is nearly all of the cost, runs once. A probe that was stopped goes on from its checkpoint and ends in the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpt import augment, checkpoint
from hpt.callbacks import Log, Progress, Stop
from hpt.config import EvaluateConfig
from hpt.data.images import Images
from hpt.errors import HptError, Interrupted
from hpt.evaluate.features import embed, embed_views
from hpt.evaluate.objective import NONE, figures, loss_of
from hpt.randomness import generator
from hpt.schedule import thirds


class HeadBank:
    """H linear heads with a learning rate each, trained together: SGD with momentum, no weight decay."""

    def __init__(self, features: int, classes: int, lrs: list[float], seeds: list[int], momentum: float) -> None:
        # N(0, 0.01) and zero bias, as MoCo's linear classifier
        draws = [torch.randn(classes, features, generator=generator(seed, "probe")) * 0.01 for seed in seeds]
        self.weight = torch.stack(draws)  # H x C x d
        self.bias = torch.zeros(len(lrs), classes)  # H x C
        self.lr = torch.tensor(lrs)
        self.momentum = momentum
        self._velocity = [torch.zeros_like(self.weight), torch.zeros_like(self.bias)]

    def to(self, device: torch.device) -> HeadBank:
        """Move to a device, in place."""
        self.weight, self.bias, self.lr = (t.to(device) for t in (self.weight, self.bias, self.lr))
        self._velocity = [t.to(device) for t in self._velocity]
        return self

    def logits(self, features: Tensor) -> Tensor:
        """[n, d] -> [H, n, C]."""
        heads, classes, width = self.weight.shape
        flat = F.linear(features, self.weight.view(heads * classes, width), self.bias.view(-1))
        return flat.view(len(features), heads, classes).transpose(0, 1)

    def step(self, features: Tensor, labels: Tensor, lr_factor: float) -> Tensor:
        """One step of every head on features [n, d] and labels [n] or [n, C]; the losses before it, [H]."""
        with torch.enable_grad():
            parameters = [self.weight.requires_grad_(), self.bias.requires_grad_()]
            losses = loss_of(self.logits(features), labels)  # H x n
            gradients = torch.autograd.grad(losses.mean(dim=1).sum(), parameters)
        with torch.no_grad():
            for parameter, velocity, gradient in zip(parameters, self._velocity, gradients, strict=True):
                velocity.mul_(self.momentum).add_(gradient)
                lr = (self.lr * lr_factor).view(-1, *[1] * (parameter.dim() - 1))
                parameter.requires_grad_(False).sub_(lr * velocity)
        return losses.detach().mean(dim=1)

    def state_dict(self) -> dict[str, Tensor | list[Tensor]]:
        """Weights and velocities."""
        return {"weight": self.weight, "bias": self.bias, "velocity": self._velocity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`, on this bank's device."""
        device = self.weight.device
        self.weight, self.bias = state["weight"].to(device), state["bias"].to(device)
        self._velocity = [each.to(device) for each in state["velocity"]]


@dataclass(frozen=True)
class Probe:
    """A trained probe: the heads of the chosen learning rate, each at its best on val."""

    lr: float
    weight: Tensor
    """[R, C, d] one head a rerun."""
    bias: Tensor
    """[R, C]"""
    val: list[float]
    """[R] the best figure on val, at which the head was kept."""
    steps: list[int]
    """[R] the step of it."""
    by_lr: dict[float, float]
    """Mean over reruns of the best figure on val, for each learning rate tried."""

    def scores(self, features: Tensor) -> Tensor:
        """[n, d] -> [R, n, C] logits."""
        return torch.einsum("nd,rcd->rnc", features, self.weight) + self.bias[:, None]


def train_probe(
    config: EvaluateConfig,
    backbone: nn.Module,
    train: tuple[Images, Tensor],
    val: tuple[Images, Tensor],
    classes: int,
    metric: str,
    *,
    device: torch.device,
    bf16: bool,
    log: Log,
    progress: Progress,
    checkpoints: Path | None = None,
    stop: Stop = lambda: 0,
) -> Probe:
    """Train the bank on `train`, keep each head at its best on `val` by `metric`, choose the learning rate by val.

    Of learning rates that tie, the first listed wins; of equal evaluations the earliest. Goes on from the newest of
    `checkpoints`.

    Raises:
        Interrupted: `stop` said so; a checkpoint of that step is saved. HptError: every learning rate diverged.
    """
    linear = config.linear
    images, labels = train
    labels, val_labels = labels.to(device), val[1].to(device)
    val_features = embed(backbone, val[0], config.image_size, device, bf16=bf16, progress=progress, what="val features")
    lrs = [lr for lr in linear.lrs for _ in range(linear.reruns)]
    seeds = [config.seed * 1000 + rerun for _ in linear.lrs for rerun in range(linear.reruns)]
    bank = HeadBank(val_features.shape[1], classes, lrs, seeds, linear.momentum).to(device)
    best = torch.full((len(lrs),), NONE, device=device)
    best_step = torch.zeros(len(lrs), dtype=torch.int64, device=device)
    best_weight, best_bias = bank.weight.clone(), bank.bias.clone()
    batch = min(linear.batch_size, len(images))
    per_pass = -(-len(images) // batch)

    first = 0
    saved = checkpoint.newest(checkpoints) if checkpoints is not None else None
    if saved is not None:
        first = int(saved["step"])
        bank.load_state_dict(saved["bank"])
        best, best_step, best_weight, best_bias = (each.to(device) for each in saved["best"])
    source = _Features(config, backbone, images, device, bf16, progress)
    for step in range(first, linear.steps):
        number, at = divmod(step, per_pass)
        order = torch.randperm(len(images), generator=generator(config.seed, "probe order", number))
        rows = order[at * batch : (at + 1) * batch]
        losses = bank.step(source(rows, step), labels[rows.to(device)], thirds(step, linear.steps, 1.0))
        done = step + 1
        if done % linear.eval_every == 0 or done == linear.steps:
            found = figures(metric, bank.logits(val_features), val_labels)  # H
            better = found > best
            best, best_step = torch.where(better, found, best), torch.where(better, done, best_step)
            best_weight[better], best_bias[better] = bank.weight[better], bank.bias[better]
            by_lr = found.view(len(linear.lrs), -1).mean(dim=1).tolist()
            loss_by_lr = losses.view(len(linear.lrs), -1).mean(dim=1).tolist()
            curve = {f"val_curve/lr_{lr:g}": v for lr, v in zip(linear.lrs, by_lr, strict=True) if v >= 0}
            finite = {f"loss/lr_{lr:g}": v for lr, v in zip(linear.lrs, loss_by_lr, strict=True) if v < float("inf")}
            log(curve | finite, done)
        progress(done, linear.steps, "probing")
        signum = stop() if done < linear.steps else 0
        if checkpoints is not None and (signum or done % config.checkpoint_every == 0):
            kept = [best, best_step, best_weight, best_bias]
            checkpoint.save(checkpoints, done, {"bank": bank.state_dict(), "best": kept})
        if signum:
            raise Interrupted(signum, f"stopped at step {done} of {linear.steps}; its checkpoint is saved")

    per_lr = best.view(len(linear.lrs), linear.reruns)
    chosen = int(per_lr.mean(dim=1).argmax())
    if bool((per_lr[chosen] == NONE).any()):
        raise HptError(
            f"no learning rate of {', '.join(f'{lr:g}' for lr in linear.lrs)} gave finite scores on val",
            "lower linear.lrs, or look at the weights: `hptctl evaluate knn` needs no learning rate",
        )
    heads = slice(chosen * linear.reruns, (chosen + 1) * linear.reruns)
    return Probe(
        lr=linear.lrs[chosen],
        weight=best_weight[heads],
        bias=best_bias[heads],
        val=per_lr[chosen].tolist(),
        steps=best_step[heads].tolist(),
        by_lr=dict(zip(linear.lrs, per_lr.mean(dim=1).tolist(), strict=True)),
    )


class _Features:
    """Training features of a step: fresh views (the protocol), or drawn from a few views embedded once."""

    def __init__(
        self,
        config: EvaluateConfig,
        backbone: nn.Module,
        images: Images,
        device: torch.device,
        bf16: bool,
        progress: Progress,
    ) -> None:
        self.config, self.backbone, self.images, self.device, self.bf16 = (
            config,
            backbone,
            images,
            device,
            bf16,
        )
        self.stored: list[Tensor] = []
        everything = torch.arange(len(images))
        for number in range(config.linear.views):
            self.stored.append(self._embed(everything, "probe views", number))
            progress(number + 1, config.linear.views, "training views")

    def __call__(self, rows: Tensor, step: int) -> Tensor:
        if not self.stored:
            return self._embed(rows, "probe view", step)
        random = generator(self.config.seed, "probe choice", step)
        choice = torch.randint(len(self.stored), (len(rows),), generator=random)
        features = torch.empty(len(rows), self.stored[0].shape[1], device=self.device)
        for number, stored in enumerate(self.stored):
            mine = (choice == number).nonzero()[:, 0]
            features[mine.to(self.device)] = stored[rows[mine].to(self.device)]
        return features

    def _embed(self, rows: Tensor, purpose: str, step: int) -> Tensor:
        uniform = augment.draw(len(rows), generator(self.config.seed, purpose, step))
        policy, size = augment.crop_policy(self.config.linear.min_scale), self.config.image_size
        return embed_views(self.backbone, self.images, rows, uniform, policy, size, self.device, bf16=self.bf16)
