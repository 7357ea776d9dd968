"""Finetuning: all weights and a new linear head on few labels, the best on val kept.

One that was stopped goes on from its checkpoint and ends in the same bits.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hpt import augment, checkpoint, weights
from hpt.callbacks import Log, Progress, Stop
from hpt.config import EvaluateConfig
from hpt.data.images import Images
from hpt.data.loader import raw_batch
from hpt.errors import HptError, Interrupted, RunError
from hpt.evaluate.features import BATCH, frozen
from hpt.evaluate.objective import NONE, figures, loss_of
from hpt.randomness import generator
from hpt.schedule import first_drop, parse_schedule, thirds
from hpt.sgd import SGD

log_ = logging.getLogger("hpt.finetune")


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
class Common:
    """What finetunings that differ in their schedule alone have in common: the steps before the learning rate drops."""

    folder: Path
    """Where the states that they share are kept; one for all of them, and theirs only."""
    schedules: tuple[str, ...]
    """Of all of them."""


@dataclass(frozen=True)
class Best:
    """The weights that did best on val, and how well."""

    state: dict[str, Tensor]
    """Of the Classifier, on the CPU."""
    val: float
    """The metric that chose."""
    step: int
    steps: int
    shared: int = 0
    """Steps that another finetuning had made (`Common`)."""


def finetune(
    config: EvaluateConfig,
    model: Classifier,
    train: tuple[Images, Tensor],
    val: tuple[Images, Tensor],
    metric: str,
    *,
    device: torch.device,
    bf16: bool,
    log: Log,
    progress: Progress,
    checkpoints: Path | None = None,
    common: Common | None = None,
    stop: Stop = lambda: 0,
) -> Best:
    """Train on `train` (images, labels [n] or [n, C]); look at `val` every `eval_every` optimizer steps and at the end.

    A batch that does not fit is split into micro-batches whose gradients add up; the schedule counts optimizer steps,
    whatever their number. BatchNorm sees a micro-batch at a time. Goes on from the newest of `checkpoints`, or else
    from the last state in `common` that this schedule passes through, whose figures it logs as its own; and leaves
    such states there.

    Raises:
        Interrupted: `stop` said so; a checkpoint of that step is saved. HptError: the loss is no longer finite.
    """
    tune = config.finetune
    images, labels = train
    batch = min(tune.batch_size, len(images))
    steps = parse_schedule(tune.schedule).steps(len(images), batch)
    per_pass = -(-len(images) // batch)
    policy = augment.crop_policy(tune.min_scale)
    model.to(device)
    body = SGD(model.backbone.parameters(), momentum=tune.momentum)
    head = SGD(model.head.parameters(), momentum=tune.momentum)

    first = shared = 0
    best: Best | None = None
    curve: list[tuple[int, dict[str, float]]] = []  # what was logged, for those who go on from a common state
    drop = first_drop(steps)
    drops = {first_drop(parse_schedule(each).steps(len(images), batch)) for each in common.schedules} if common else {0}
    forks = {each for each in drops if 0 < each <= drop and each < max(drops)}
    saved = checkpoint.newest(checkpoints) if checkpoints is not None else None
    if saved is None and common is not None and (saved := _common_state(common, drop)) is not None:
        shared = int(saved["step"])
        progress(shared, steps, "finetuning")  # before the figures: who judges them must know the length
        for at, metrics in saved["curve"]:
            log(metrics, at)
    if saved is not None:
        first, curve = int(saved["step"]), [*saved.get("curve", ())]
        model.load_state_dict(saved["model"])
        body.load_state_dict(saved["body"])
        head.load_state_dict(saved["head"])
        best = Best(**saved["best"]) if saved["best"] is not None else None
        shared = max(shared, int(saved.get("shared", 0)))

    def note(metrics: dict[str, float], at: int) -> None:
        log(metrics, at)
        if forks and at <= max(forks):
            curve.append((at, metrics))

    def state() -> dict[str, object]:
        trained = {"model": model.state_dict(), "body": body.state_dict(), "head": head.state_dict()}
        return trained | {"best": vars(best) if best is not None else None, "curve": curve}

    for step in range(first, steps):
        number, at = divmod(step, per_pass)
        order = torch.randperm(len(images), generator=generator(config.seed, "finetune order", number))
        rows = order.tensor_split(per_pass)[at]  # nearly equal: one image left over would leave BatchNorm no variance
        uniform = augment.draw(len(rows), generator(config.seed, "finetune view", step))
        lr = thirds(step, steps, tune.lr)
        model.train()
        loss_sum = torch.zeros((), device=device)
        for some in torch.arange(len(rows)).tensor_split(-(-len(rows) // tune.micro_batch)):
            raw = raw_batch(images, rows[some], device)
            view = augment.parameters(uniform[some], raw.sizes, policy)
            inputs = augment.train_view(raw, view, config.image_size, images.mean, images.std)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                logits = model(inputs)
            loss = loss_of(logits.float(), labels[rows[some]].to(device)).sum() / len(rows)
            loss.backward()
            loss_sum += loss.detach()
        body.step(lr)
        head.step(lr * tune.head_lr_multiplier)

        done = step + 1
        if done % config.log_every == 0 or done == steps:
            value = loss_sum.item()
            if not value < float("inf"):
                raise HptError(
                    f"the loss is {value} at step {done}",
                    f"finetune.lr {tune.lr:g} is too high here: lower it",
                )
            note({"loss": value, "lr": lr}, done)
        if done % tune.eval_every == 0 or done == steps:
            scores = predict(config, model, val[0], device, bf16=bf16, progress=lambda *_: None)
            figure = figures(metric, scores[None], val[1]).item()
            if figure == NONE:
                raise HptError(f"the scores on val are not finite at step {done}", "lower finetune.lr")
            note({"val_curve": figure}, done)
            if best is None or figure > best.val:
                weights_now = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
                best = Best(weights_now, figure, done, steps)
        progress(done, steps, "finetuning")
        signum = stop() if done < steps else 0
        if checkpoints is not None and done < steps and (signum or done % config.checkpoint_every == 0):
            checkpoint.save(checkpoints, done, state() | {"shared": shared})
        if common is not None and done in forks and done not in checkpoint.steps(common.folder):
            checkpoint.save(common.folder, done, state(), keep=len(drops))
        if signum:
            raise Interrupted(signum, f"stopped at step {done} of {steps}; its checkpoint is saved")
    assert best is not None  # a schedule has one step at least
    return replace(best, steps=steps, shared=shared)


def _common_state(common: Common, drop: int) -> dict[str, Any] | None:
    try:
        return checkpoint.newest(common.folder, until=drop)
    except RunError as error:
        log_.warning("%s: these steps are made again", error)
        return None


def predict(
    config: EvaluateConfig,
    model: Classifier,
    images: Images,
    device: torch.device,
    *,
    bf16: bool,
    progress: Progress,
) -> Tensor:
    """Logits [n, C] of the test views, on the CPU."""
    model.to(device)
    parts = []
    with frozen(model), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        for rows in torch.arange(len(images)).split(BATCH):
            raw = raw_batch(images, rows, device)
            view = augment.centre_view(raw, config.image_size, images.mean, images.std)
            parts.append(model(view).float().cpu())
            progress(int(rows[-1]) + 1, len(images), "predicting")
    return torch.cat(parts)


def read_head(file: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The linear head of a classifier's file, as torchvision names it (`fc.weight` [C, d], `fc.bias` [C]), and its
    classes."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as kept:
        head = {f"fc.{part}": kept.get_tensor(f"head.{part}") for part in ("weight", "bias")}
    return head, weights.facts(file)["classes"].split("\n")
