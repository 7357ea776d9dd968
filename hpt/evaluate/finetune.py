"""Finetuning: all weights and a new linear head are trained on few labels, and the best on val are kept.

A finetuning that was stopped goes on from its checkpoint and ends with the same bits.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hpt import augment, checkpoint, encoder, kept_backbones, weights
from hpt.batch_norm import MOMENTUM
from hpt.data.loader import raw_batch
from hpt.errors import HptError, Interrupted, RunError
from hpt.evaluate.features import outputs
from hpt.evaluate.objective import NONE, figures, loss_of
from hpt.evaluate.setup import MODEL, Setup
from hpt.randomness import generator
from hpt.schedule import first_drop, parse_schedule, thirds
from hpt.sgd import SGD
from hpt.timing import Pace

logger = logging.getLogger("hpt.evaluate")


class Classifier(nn.Module):
    """A backbone and a linear head, which starts at N(0, 0.01) with zero bias."""

    def __init__(self, backbone: nn.Module, features: int, classes: int, seed: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(features, classes)
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(classes, features, generator=generator(seed, "finetune head")) * 0.01)
            self.head.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        """[n, 3, h, w] -> logits [n, C]."""
        return self.head(self.backbone(images))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Best:
    """The weights that did best on val."""

    state: dict[str, Tensor]
    """The Classifier's state, on the CPU."""
    val: float
    """The metric on val that chose it."""
    step: int
    """Optimizer steps behind it."""
    steps: int
    """Optimizer steps of the whole finetuning."""
    shared: int = 0
    """Steps taken over from another finetuning (`Common`)."""


class Finetuning:
    """A classifier of which everything is trained, at its best step on val."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        if setup.config.finetune.gradient_checkpointing:
            encoder.recompute(setup.backbone, setup.config.backbone)
        width, classes = encoder.width(setup.backbone), len(setup.dataset.classes)
        self.model = Classifier(setup.backbone, width, classes, setup.config.seed).to(setup.compute.device)

    def fit(self) -> dict[str, str]:
        best = finetune(self.setup, self.model)
        self.model.load_state_dict(best.state)
        shared = {"shared_steps": str(best.shared)} if best.shared else {}
        return {"chosen": f"step {best.step} of {best.steps}"} | shared

    def scores(self, split: str) -> Tensor:
        config, compute, progress = self.setup.config, self.setup.compute, self.setup.callbacks.progress
        images, what = self.setup.images(split), f"predicting {split}"
        size, processes = config.image_size, self.setup.processes
        return outputs(self.model, images, size, compute, progress, what, processes).cpu()[None]

    def save(self, folder: Path) -> None:
        dataset = self.setup.dataset
        metadata = kept_backbones.about(self.setup.config) | {"dataset": dataset.name}
        weights.save(
            self.model.state_dict(), folder / MODEL, metadata=metadata | {"classes": "\n".join(dataset.classes)}
        )

    def load(self, folder: Path) -> None:
        from safetensors.torch import load_file

        self.model.load_state_dict(load_file(folder / MODEL))


def finetune(setup: Setup, model: Classifier) -> Best:
    """Train `model` and keep its best state on val, measured every so many optimizer steps and at the end.

    These are `eval_every`, or what its schedule says (`Schedule.look_every`).

    A batch that does not fit is split into micro-batches whose gradients add up; the schedule counts optimizer steps
    whatever their number. BatchNorm sees a micro-batch at a time. Several processes share out the micro-batches of a
    step, and the images of val; each has the same weights after it. Goes on from the newest of the setup's checkpoints,
    or else from the last shared state (`Common`) that its schedule passes through, whose figures it logs as its own; it
    leaves such states for others.

    Raises:
        Interrupted: a stop was requested; a checkpoint of that step is saved.
        HptError: the loss or the scores on val are not finite. ProcessLost: another process is gone.
        RunError: the checkpoint is of an earlier version.
    """
    config, tune, callbacks, common = setup.config, setup.config.finetune, setup.callbacks, setup.common
    processes = setup.processes
    training = _Training(setup, model)
    schedule, images = parse_schedule(tune.schedule), len(setup.train.images)
    steps = schedule.steps(images, training.batch)
    interval = tune.eval_every or schedule.look_every(images, training.batch)
    drop = first_drop(steps)
    drops = common.drops(images, training.batch) if common is not None else {0}
    forks = {each for each in drops if 0 < each <= drop and each < max(drops)}
    # Who takes the shared steps over may look at val at other steps: on the way there, its looks are made too.
    others = common.intervals(images, training.batch) if common is not None and tune.eval_every is None else set()
    intervals, last_fork = {interval, *others}, max(forks, default=0)

    # ---- restore
    first = shared = 0
    saved = setup.saved()
    if saved is None and common is not None and (saved := common.newest(until=drop)) is not None:
        shared = int(saved["step"])
        callbacks.progress(shared, steps, "finetuning")  # before the figures: a pruner judges them by the length
        for at, metrics in saved["curve"]:
            if "val_curve" not in metrics or at % interval == 0:
                callbacks.log(metrics, at)
    if saved is not None:
        first = int(saved["step"])
        training.load_state_dict(saved)
        shared = max(shared, int(saved.get("shared", 0)))

    def log(metrics: dict[str, float], step: int, *, own: bool = True) -> None:
        if own:
            callbacks.log(metrics, step)
        if step <= last_fork:
            training.curve.append((step, metrics))

    # ---- loop
    pace = Pace(callbacks.stop)
    for step in range(first, steps):
        lr = thirds(step, steps, tune.lr)
        loss = training.step(step, lr)
        done = step + 1
        if done % config.log_every == 0 or done == steps:
            log({"loss": _finite(loss.item(), done, tune.lr), "lr": lr}, done)
        due = {each for each in intervals if done % each == 0 and (each == interval or done <= last_fork)}
        due |= {interval} if done == steps else set()
        if due:
            with pace.apart("look"):
                figure = training.evaluate(done, steps, due)
            log({"val_curve": figure}, done, own=interval in due)
        callbacks.progress(done, steps, "finetuning")
        signum = processes.largest(pace()) if done < steps and done % processes.look_every == 0 else 0
        if setup.checkpoints is not None and done < steps and (signum or done % config.checkpoint_every == 0):
            with pace.apart("save"):
                setup.save(done, training.state_dict() | {"shared": shared})
        if common is not None and done in forks and done not in checkpoint.steps(common.folder):
            checkpoint.save(common.folder, done, training.state_dict(), keep=len(drops))
        if signum:
            raise Interrupted(signum, f"stopped at step {done} of {steps}; its checkpoint is saved")
    return replace(training.best[interval], steps=steps, shared=shared)


class _Training:
    """A classifier in training: one optimizer step, one evaluation on val, and all that a checkpoint holds."""

    def __init__(self, setup: Setup, model: Classifier) -> None:
        tune = setup.config.finetune
        self.setup = setup
        self.model = model.to(setup.compute.device)
        self.body = SGD(model.backbone.parameters(), momentum=tune.momentum)
        self.head = SGD(model.head.parameters(), momentum=tune.momentum)
        self.best: dict[int, Best] = {}
        """The best state of those who look at val every so many steps."""
        self.curve: list[tuple[int, dict[str, float]]] = []
        """What was logged, for those who go on from a shared state."""
        self.policy = augment.crop_policy(tune.min_scale, tune.flip_p)
        count = len(setup.train.images)
        self.batch = min(tune.batch_size, count)
        self.per_pass = -(-count // self.batch)
        self.norms = encoder.batch_norms(model)
        groups = -(-self.batch // tune.micro_batch)
        if groups < setup.processes.count and setup.processes.main:
            logger.info(
                "a step has %d micro-batch(es) of up to %d images, so %d of %d processes only help to predict",
                *(groups, tune.micro_batch, setup.processes.count - groups, setup.processes.count),
            )

    def step(self, step: int, lr: float) -> Tensor:
        """Take an optimizer step; returns the loss [] before it."""
        config, tune, compute = self.setup.config, self.setup.config.finetune, self.setup.compute
        images, labels = self.setup.train
        number, at = divmod(step, self.per_pass)
        order = torch.randperm(len(images), generator=generator(config.seed, "finetune order", number))
        rows = order.tensor_split(self.per_pass)[at]  # of nearly equal sizes: BatchNorm has no variance of one image
        uniform = augment.draw(len(rows), generator(config.seed, "finetune view", step))
        self.model.train()
        loss_sum = torch.zeros((), device=compute.device)
        groups = torch.arange(len(rows)).tensor_split(-(-len(rows) // tune.micro_batch))
        portions = self.setup.processes.portions(groups)
        before = [buffer.clone() for buffer in self._running()] if len(portions) > 1 else []
        for some in portions[self.setup.processes.rank]:
            raw = raw_batch(images, rows[some], compute.device)
            view = augment.parameters(uniform[some], raw.sizes, self.policy)
            inputs = augment.train_view(raw, view, config.image_size, images.mean, images.std)
            with compute.autocast():
                logits = self.model(inputs)
            loss = loss_of(logits.float(), labels[rows[some]].to(compute.device)).sum() / len(rows)
            loss.backward()
            loss_sum += loss.detach()
        if len(portions) > 1:
            self._add_up(loss_sum, before, [len(portion) for portion in portions])
        self.body.step(lr)
        self.head.step(lr * tune.head_lr_multiplier)
        return loss_sum

    def _running(self) -> list[Tensor]:
        """BatchNorm's running means and variances."""
        both = [buffer for norm in self.norms for buffer in (norm.running_mean, norm.running_var)]
        return [buffer for buffer in both if buffer is not None]

    @torch.no_grad()
    def _add_up(self, loss: Tensor, before: list[Tensor], counts: list[int]) -> None:
        """Make loss, gradients and running statistics those of one process that has taken all micro-batches in turn, of
        which each process has taken `counts`; `before` are the statistics at the beginning of the step.

        After micro-batches 1 to n the statistics are keep^n * before + sum_i keep^(n - i) * (1 - keep) * s_i: a sum of
        what each process adds, faded by the micro-batches of those after it.
        """
        processes, keep = self.setup.processes, 1 - MOMENTUM
        mine, later, every = counts[processes.rank], sum(counts[processes.rank + 1 :]), sum(counts)
        for parameter in self.model.parameters():
            if parameter.grad is None:  # of a process without a micro-batch
                parameter.grad = torch.zeros_like(parameter)
        running = self._running()
        for buffer, old in zip(running, before, strict=True):
            buffer.sub_(old, alpha=keep**mine).mul_(keep**later)
        processes.sum_([loss, *(parameter.grad for parameter in self.model.parameters()), *running])  # type: ignore[list-item]
        for buffer, old in zip(running, before, strict=True):
            buffer.add_(old, alpha=keep**every)
        for norm in self.norms:
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked += every - mine

    def evaluate(self, done: int, steps: int, intervals: Iterable[int]) -> float:
        """The metric on val after `done` of `steps`, at which the state is kept if it is the best so far of those who
        look at these intervals."""
        setup = self.setup
        images, labels = setup.val
        size, silent = setup.config.image_size, lambda *_: None
        logits = outputs(self.model, images, size, setup.compute, silent, "val", setup.processes).cpu()
        figure = figures(setup.metric, logits[None], labels).item()
        if figure == NONE:
            raise HptError(f"the scores on val are not finite at step {done}", "lower finetune.lr")
        better = [each for each in intervals if each not in self.best or figure > self.best[each].val]
        if better:
            state = {key: value.detach().cpu().clone() for key, value in self.model.state_dict().items()}
            self.best |= dict.fromkeys(better, Best(state, figure, done, steps))
        return figure

    def state_dict(self) -> dict[str, object]:
        trained = {"model": self.model.state_dict(), "body": self.body.state_dict(), "head": self.head.state_dict()}
        return trained | {"bests": {each: vars(best) for each, best in self.best.items()}, "curve": self.curve}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if "bests" not in state:
            raise RunError("the finetuning's checkpoint was written by an earlier version of hptctl", "start a new run")
        self.model.load_state_dict(state["model"])
        self.body.load_state_dict(state["body"])
        self.head.load_state_dict(state["head"])
        self.best = {each: Best(**best) for each, best in state["bests"].items()}
        self.curve = [*state.get("curve", ())]


def _finite(loss: float, step: int, lr: float) -> float:
    if not loss < float("inf"):
        raise HptError(f"the loss is {loss} at step {step}", f"finetune.lr {lr:g} is too high here: lower it")
    return loss


def read_head(file: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The linear head in a classifier's file, by the names of torchvision, or of timm where the backbone is timm's
    (`fc.weight` [C, d], `fc.bias` [C]), and the names of its classes."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as kept:
        parts = [kept.get_tensor(f"head.{part}") for part in ("weight", "bias")]
    facts = weights.facts(file)
    names = encoder.classifier_keys(facts.get("backbone", "resnet50"))
    return dict(zip(names, parts, strict=True)), facts["classes"].split("\n")
