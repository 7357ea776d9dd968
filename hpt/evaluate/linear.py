"""Linear probe: how separable the classes are in a frozen backbone's features.

All learning rates and reruns train in one pass, as a bank of heads on the same features; the backbone, which is nearly
all of the cost, runs once. Several processes share out the images that it sees, and each of them trains all heads on
what all have found. A probe that was stopped goes on from its checkpoint and ends with the same bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hpt import augment, weights
from hpt.errors import HptError, Interrupted
from hpt.evaluate.features import embed_views
from hpt.evaluate.objective import NONE, figures, loss_of
from hpt.evaluate.setup import MODEL, Setup
from hpt.randomness import generator
from hpt.schedule import thirds
from hpt.timing import Pace


class HeadBank:
    """H linear heads, each with its own learning rate, trained together: SGD with momentum, no weight decay."""

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
        """Take one step of every head on features [n, d] and labels [n] or [n, C]; returns the losses [H] before it."""
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
        """The weights and velocities."""
        return {"weight": self.weight, "bias": self.bias, "velocity": self._velocity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`, on this bank's device."""
        device = self.weight.device
        self.weight, self.bias = state["weight"].to(device), state["bias"].to(device)
        self._velocity = [each.to(device) for each in state["velocity"]]


@dataclass(frozen=True)
class Heads:
    """R linear heads on the same features, one for each rerun."""

    weight: Tensor
    """[R, C, d]"""
    bias: Tensor
    """[R, C]"""

    def logits(self, features: Tensor) -> Tensor:
        """[n, d] -> [R, n, C]."""
        return torch.einsum("nd,rcd->rnc", features, self.weight) + self.bias[:, None]


@dataclass(frozen=True)
class Probe:
    """A trained probe."""

    lr: float
    """The learning rate that val chose."""
    heads: Heads
    """Its heads, each at its best step on val."""
    val: list[float]
    """[R] the metric of each head on val at that step."""
    steps: list[int]
    """[R] that step."""
    by_lr: dict[float, float]
    """The best metric on val for each learning rate tried, averaged over the reruns."""

    def edge(self) -> Literal["low", "high"] | None:
        """The end of the grid at which the chosen learning rate lies, so that the best one may lie beyond it; None
        inside the grid, where one only was tried, and where its neighbour did as well."""
        tried = sorted(self.by_lr)
        if len(tried) < 2:
            return None
        ends: dict[Literal["low", "high"], list[float]] = {"low": tried[:2], "high": tried[:-3:-1]}
        for name, (last, neighbour) in ends.items():
            if self.lr == last and self.by_lr[last] > self.by_lr[neighbour]:
                return name
        return None


class LinearProbe:
    """Linear heads on the frozen features, the learning rate and the step chosen on val."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup

    def fit(self) -> dict[str, str]:
        self.probe = probe = train_probe(self.setup)
        self.heads = probe.heads
        edge = probe.edge()
        return {
            "chosen": f"lr={probe.lr:g}",
            "chosen_steps": " ".join(map(str, probe.steps)),
            "tried": ", ".join(f"lr={lr:g}: {value:.4f}" for lr, value in probe.by_lr.items()),
        } | ({"lr_at_edge": edge} if edge else {})

    def scores(self, split: str) -> Tensor:
        return self.heads.logits(self.setup.features(self.setup.images(split), f"{split} features")).cpu()

    def save(self, folder: Path) -> None:
        if self.setup.config.test:  # nothing will ask for the heads again
            return
        heads = {f"head.{name}": tensor for name, tensor in vars(self.heads).items()}
        metadata = {"dataset": self.setup.dataset.name, "lr": f"{self.probe.lr:g}"}
        weights.save(heads, folder / MODEL, metadata=metadata)

    def load(self, folder: Path) -> None:
        from safetensors.torch import load_file

        heads = load_file(folder / MODEL, device=str(self.setup.compute.device))
        self.heads = Heads(heads["head.weight"], heads["head.bias"])


def train_probe(setup: Setup) -> Probe:
    """Train a bank of heads, keep each at its best step on val, and choose the learning rate by val.

    Of tied learning rates the first listed is chosen, of equal evaluations the earliest. Goes on from the newest of
    the setup's checkpoints.

    Raises:
        Interrupted: a stop was requested; a checkpoint of that step is saved.
        HptError: every learning rate diverged. ProcessLost: another process is gone.
    """
    config, linear, callbacks = setup.config, setup.config.linear, setup.callbacks
    device = setup.compute.device
    images, labels = setup.train
    labels, val_labels = labels.to(device), setup.val.labels.to(device)
    val_features = setup.features(setup.val.images, "val features")
    lrs = [lr for lr in linear.lrs for _ in range(linear.reruns)]
    seeds = [config.seed * 1000 + rerun for _ in linear.lrs for rerun in range(linear.reruns)]
    classes = len(setup.dataset.classes)
    bank = HeadBank(val_features.shape[1], classes, lrs, seeds, linear.momentum).to(device)
    best = _BestHeads(bank)
    batch = min(linear.batch_size, len(images))
    per_pass = -(-len(images) // batch)

    first = 0
    saved, processes = setup.saved(), setup.processes
    if saved is not None:
        first = int(saved["step"])
        bank.load_state_dict(saved["bank"])
        best.load_state(saved["best"])
    features_of = _TrainFeatures(setup)
    pace = Pace(callbacks.stop)
    for step in range(first, linear.steps):
        number, at = divmod(step, per_pass)
        order = torch.randperm(len(images), generator=generator(config.seed, "probe order", number))
        rows = order[at * batch : (at + 1) * batch]
        losses = bank.step(features_of(rows, step), labels[rows.to(device)], thirds(step, linear.steps, 1.0))
        done = step + 1
        if done % linear.eval_every == 0 or done == linear.steps:
            found = figures(setup.metric, bank.logits(val_features), val_labels)  # H
            best.update(found, done)
            callbacks.log(_curve(linear.lrs, found, losses), done)
        callbacks.progress(done, linear.steps, "probing")
        signum = processes.largest(pace()) if done < linear.steps and done % processes.look_every == 0 else 0
        if setup.checkpoints is not None and (signum or done % config.checkpoint_every == 0):
            with pace.apart("save"):
                setup.save(done, {"bank": bank.state_dict(), "best": best.state()})
        if signum:
            raise Interrupted(signum, f"stopped at step {done} of {linear.steps}; its checkpoint is saved")
    return best.choose(linear.lrs)


def _curve(lrs: Sequence[float], val: Tensor, losses: Tensor) -> dict[str, float]:
    """What is logged of each learning rate, averaged over its heads: the metric on val and the loss, where finite."""
    by_lr, loss_by_lr = (each.view(len(lrs), -1).mean(dim=1).tolist() for each in (val, losses))
    curve = {f"val_curve/lr_{lr:g}": value for lr, value in zip(lrs, by_lr, strict=True) if value >= 0}
    finite = {f"loss/lr_{lr:g}": value for lr, value in zip(lrs, loss_by_lr, strict=True) if value < float("inf")}
    return curve | finite


class _BestHeads:
    """Each head of a bank at its best step on val so far."""

    def __init__(self, bank: HeadBank) -> None:
        self.bank, device = bank, bank.weight.device
        heads = len(bank.weight)
        self.val = torch.full((heads,), NONE, device=device)  # H
        self.step = torch.zeros(heads, dtype=torch.int64, device=device)  # H
        self.weight, self.bias = bank.weight.clone(), bank.bias.clone()

    def update(self, val: Tensor, step: int) -> None:
        """Keep the heads that do better on val [H] than before."""
        better = val > self.val
        self.val, self.step = torch.where(better, val, self.val), torch.where(better, step, self.step)
        self.weight[better], self.bias[better] = self.bank.weight[better], self.bank.bias[better]

    def choose(self, lrs: Sequence[float]) -> Probe:
        """The heads of the learning rate whose mean over the reruns is best on val."""
        per_lr = self.val.view(len(lrs), -1)
        chosen = int(per_lr.mean(dim=1).argmax())
        if bool((per_lr[chosen] == NONE).any()):
            raise HptError(
                f"no learning rate of {', '.join(f'{lr:g}' for lr in lrs)} gave finite scores on val",
                "lower linear.lrs, or look at the weights: `hptctl evaluate knn` needs no learning rate",
            )
        reruns = per_lr.shape[1]
        heads = slice(chosen * reruns, (chosen + 1) * reruns)
        return Probe(
            lr=lrs[chosen],
            heads=Heads(self.weight[heads], self.bias[heads]),
            val=per_lr[chosen].tolist(),
            steps=self.step[heads].tolist(),
            by_lr=dict(zip(lrs, per_lr.mean(dim=1).tolist(), strict=True)),
        )

    def state(self) -> list[Tensor]:
        return [self.val, self.step, self.weight, self.bias]

    def load_state(self, state: list[Tensor]) -> None:
        self.val, self.step, self.weight, self.bias = (each.to(self.val.device) for each in state)


class _TrainFeatures:
    """The training features of a step: of fresh views (the protocol), or drawn from a few views embedded once."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.stored: list[Tensor] = []
        everything, views = torch.arange(len(setup.train.images)), setup.config.linear.views
        for number in range(views):
            progress = partial(self._progress, before=number * len(everything), total=views * len(everything))
            self.stored.append(self._embed(everything, "probe views", number, progress, keep=True))

    def __call__(self, rows: Tensor, step: int) -> Tensor:
        if not self.stored:
            return self._embed(rows, "probe view", step)
        random = generator(self.setup.config.seed, "probe choice", step)
        choice = torch.randint(len(self.stored), (len(rows),), generator=random)
        device = self.setup.compute.device
        features = torch.empty(len(rows), self.stored[0].shape[1], device=device)
        for number, stored in enumerate(self.stored):
            mine = (choice == number).nonzero()[:, 0]
            features[mine.to(device)] = stored[rows[mine].to(device)]
        return features

    def _progress(self, done: int, *, before: int, total: int) -> None:
        self.setup.callbacks.progress(before + done, total, "training views")

    def _embed(
        self,
        rows: Tensor,
        purpose: str,
        step: int,
        progress: Callable[[int], None] = lambda done: None,
        *,
        keep: bool = False,
    ) -> Tensor:
        config, setup = self.setup.config, self.setup
        uniform = augment.draw(len(rows), generator(config.seed, purpose, step))
        policy = augment.crop_policy(config.linear.min_scale, config.linear.flip_p)
        images, size, compute = setup.train.images, config.image_size, setup.compute

        def embed() -> Tensor:
            return embed_views(setup.backbone, images, rows, uniform, policy, size, compute, progress, setup.processes)

        if not keep:
            return embed()
        drawn = hashlib.sha256(uniform.numpy().tobytes()).hexdigest()
        return setup.kept.get(images, f"{policy.model_dump_json()} {drawn}", embed)
