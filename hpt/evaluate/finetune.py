"""Finetuning: all weights and a new linear head on few labels, the best on val kept."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpt import augment
from hpt.callbacks import Log, Progress
from hpt.config import EvaluateConfig
from hpt.data.cache import Images
from hpt.data.loader import raw_batch
from hpt.errors import HptError
from hpt.evaluate.features import BATCH, frozen
from hpt.randomness import generator
from hpt.schedule import parse_schedule, thirds
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
class Best:
    """The weights that did best on val, and how well."""

    state: dict[str, Tensor]
    """Of the Classifier, on the CPU."""
    val_top1: float
    step: int
    steps: int


def finetune(
    config: EvaluateConfig,
    model: Classifier,
    train: tuple[Images, Tensor],
    val: tuple[Images, Tensor],
    *,
    device: torch.device,
    bf16: bool,
    log: Log,
    progress: Progress,
) -> Best:
    """Train on `train` [n images, n labels]; evaluate on `val` every `eval_every` optimizer steps and at the end.

    A batch that does not fit is split into micro-batches whose gradients add up; the schedule counts optimizer steps,
    whatever their number. BatchNorm sees a micro-batch at a time.

    Raises:
        HptError: the loss is no longer finite.
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
    best: Best | None = None
    for step in range(steps):
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
            loss = F.cross_entropy(logits.float(), labels[rows[some]].to(device), reduction="sum") / len(rows)
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
            log({"loss": value, "lr": lr}, done)
        if done % tune.eval_every == 0 or done == steps:
            top1 = _top1(config, model, val, device, bf16)
            log({"val_curve": top1}, done)
            if best is None or top1 > best.val_top1:
                state = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
                best = Best(state, top1, done, steps)
        progress(done, steps, "finetuning")
    assert best is not None  # a schedule has one step at least
    return best


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


def _top1(
    config: EvaluateConfig, model: Classifier, val: tuple[Images, Tensor], device: torch.device, bf16: bool
) -> float:
    scores = predict(config, model, val[0], device, bf16=bf16, progress=lambda *_: None)
    return (scores.argmax(dim=1) == val[1]).float().mean().item()
