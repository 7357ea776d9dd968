"""Training a detector or a segmenter, of which the best on val is kept.

A training that was stopped goes on from its checkpoint and ends with the same bits. Several processes share out the
images of a step, whose BatchNorm statistics, losses and random numbers are those of the whole batch
(`hpt.dense.synchronised`, `hpt.dense.draws`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hpt import checkpoint
from hpt.callbacks import Callbacks
from hpt.config import DetectionConfig, EvaluateConfig, SegmentationConfig
from hpt.dense import views
from hpt.dense.draws import Draws
from hpt.dense.setup import Loss
from hpt.dense.synchronised import synchronise
from hpt.errors import HptError, Interrupted
from hpt.processes import Compute, Processes
from hpt.randomness import generator
from hpt.sgd import SGD
from hpt.timing import Pace

log = logging.getLogger("hpt.evaluate")

COLDEST = 1e-3
"""The share of the learning rate that the warm-up begins with."""


class Task(Protocol):
    """A kind of dense evaluation."""

    model: nn.Module
    draws: Draws
    """What the model draws from."""
    lr: float
    """The learning rate of the batch."""
    images: int
    """The number of training images."""
    batch_size: int

    @property
    def section(self) -> DetectionConfig | SegmentationConfig:
        """Its part of the configuration."""

    @property
    def drops(self) -> tuple[int, ...]:
        """The steps at which the learning rate is divided by 10."""

    def batch(self, rows: Tensor, numbers: Tensor, mine: Sequence[int]) -> Any:
        """The training views of `mine` among the images `rows` [n], by uniform numbers [n, views.COLUMNS]; on the
        CPU."""

    def loss(self, batch: Any) -> Mapping[str, Loss]:
        """The parts of the loss of a batch."""

    def figure(self, what: str) -> float:
        """The metric on val."""


@dataclass(frozen=True)
class Best:
    """The network that did best on val."""

    state: dict[str, Tensor]
    """On the CPU."""
    val: float
    step: int


def train(
    task: Task,
    config: EvaluateConfig,
    compute: Compute,
    callbacks: Callbacks,
    checkpoints: Path | None,
    processes: Processes,
) -> Best:
    """Train `task.model` and keep its best state on val. Each process has the same weights after a step, and the main
    one alone writes checkpoints.

    Raises:
        Interrupted: a stop was requested; a checkpoint of that step is saved.
        HptError: the loss is not finite. ProcessLost: another process is gone.
    """
    section, steps = task.section, task.section.steps
    interval = section.eval_every or max(1, -(-steps // 4))
    per_pass = max(1, task.images // task.batch_size)
    parameters = [parameter for parameter in task.model.parameters() if parameter.requires_grad]
    optimizer = SGD(parameters, momentum=section.momentum, weight_decay=section.weight_decay)
    best: Best | None = None
    portions = processes.portions(range(task.batch_size))
    counts, mine = bool(portions[processes.rank]), portions[processes.rank] or range(1)
    synchronise(task.model, processes, counts=counts)
    if task.batch_size < processes.count and processes.main:
        log.info(
            "a step has %d images, so %d of %d processes only help to predict",
            *(task.batch_size, processes.count - task.batch_size, processes.count),
        )

    # ---- restore
    first = 0
    saved = processes.of_main(lambda: checkpoint.newest(checkpoints)) if checkpoints is not None else None
    if saved is not None:
        first = int(saved["step"])
        task.model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        best = Best(**saved["best"]) if saved["best"] is not None else None

    def make(step: int) -> Any:
        number, at = divmod(step, per_pass)
        order = torch.randperm(task.images, generator=generator(config.seed, "dense order", number))
        rows = order[at * task.batch_size : (at + 1) * task.batch_size]
        numbers = torch.rand(len(rows), views.COLUMNS, generator=generator(config.seed, "dense view", step))
        seeds = torch.randint(1 << 62, (len(rows),), generator=generator(config.seed, "dense draws", step))
        return task.batch(rows, numbers, mine), seeds[list(mine)].tolist()

    # ---- loop
    devices = [compute.device] if compute.device.type == "cuda" else []
    pace, name = Pace(callbacks.stop), "detecting" if config.kind == "detection" else "segmenting"
    with views.ahead(make, iter(range(first, steps))) as following, torch.random.fork_rng(devices=devices):
        for step in range(first, steps):
            lr = rate(step, task.lr, section.warmup, task.drops)
            task.model.train()
            batch, task.draws.seeds = following()
            with compute.autocast():
                losses = _shares(task.loss(batch), processes, counts=counts)
            loss = torch.stack(list(losses.values())).sum()
            loss.backward()
            losses = {name: each.detach() for name, each in losses.items()}
            processes.sum_([*losses.values(), *map(_gradient, parameters if processes.count > 1 else ())])
            loss = torch.stack(list(losses.values())).sum()
            if section.clip is not None:
                nn.utils.clip_grad_norm_(parameters, section.clip)
            optimizer.step(lr)

            done = step + 1
            if done % config.log_every == 0 or done in (1, steps):
                parts = {name: each.item() for name, each in losses.items()} if len(losses) > 1 else {}
                callbacks.log({"loss": _finite(loss.item(), done, section.lr, config.kind), "lr": lr} | parts, done)
            if done % interval == 0 or done == steps:
                with pace.apart("look"):
                    figure = task.figure("val")
                callbacks.log({"val_curve": figure}, done)
                if best is None or figure > best.val:
                    state = {key: value.detach().cpu().clone() for key, value in task.model.state_dict().items()}
                    best = Best(state, figure, done)
            callbacks.progress(done, steps, name)
            signum = processes.largest(pace()) if done < steps and done % processes.look_every == 0 else 0
            if checkpoints is not None and done < steps and (signum or done % config.checkpoint_every == 0):
                with pace.apart("save"):
                    trained = {"model": task.model.state_dict(), "optimizer": optimizer.state_dict()}
                    if processes.main:
                        checkpoint.save(checkpoints, done, trained | {"best": vars(best) if best is not None else None})
                    processes.wait()
            if signum:
                raise Interrupted(signum, f"stopped at step {done} of {steps}; its checkpoint is saved")
    assert best is not None  # the last step is looked at
    return best


def _shares(losses: Mapping[str, Loss], processes: Processes, *, counts: bool) -> dict[str, Tensor]:
    """This process's shares of the losses of the whole batch: over all processes they add up to these.

    A share of nothing is zero, and still one that gradients go through: its layers take part in the backward pass.
    """
    means = torch.stack([each.mean for each in losses.values()])
    terms = torch.stack([each.terms for each in losses.values()]) * counts
    processes.sum_([total := terms.clone()])
    shares = torch.where(terms > 0, means, 0) * (terms / total.clamp(min=1))
    return dict(zip(losses, shares, strict=True))


def _gradient(parameter: Tensor) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def rate(step: int, lr: float, warmup: int, drops: tuple[int, ...]) -> float:
    """The learning rate of a step: warmed up linearly, and divided by 10 at each of `drops`."""
    warm = 1.0 if step >= warmup else COLDEST + (1 - COLDEST) * step / warmup
    return lr * warm * 0.1 ** sum(step >= drop for drop in drops)


def _finite(loss: float, step: int, lr: float, kind: str) -> float:
    if not loss < float("inf"):
        raise HptError(f"the loss is {loss} at step {step}", f"{kind}.lr {lr:g} is too high here: lower it")
    return loss
