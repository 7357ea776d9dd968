"""A pretraining of a few seconds on a CPU."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from hpt import augment
from hpt.callbacks import Callbacks, Watch
from hpt.config import PretrainConfig
from hpt.data.images import Images
from hpt.pretrain import Outcome, pretrain
from hpt.processes import Processes

B, G, K = 16, 8, 32  # batch, BatchNorm group, queue


SETTINGS = {
    "dataset": "unused",
    "backbone": "resnet18",
    "image_size": 32,
    "batch_size": B,
    "moco": {"queue_size": K, "bn_group": G, "momentum": 0.9},
    "device": "cpu",
    "log_every": 1,
}


def config(strategy: str = "target", **changes: object) -> PretrainConfig:
    weights = {"weights": None} if strategy == "target" else {}
    return PretrainConfig.model_validate(SETTINGS | {"strategy": strategy} | weights | changes)


def run(
    settings: PretrainConfig,
    images: Images,
    folder: Path,
    start: dict[str, Tensor] | None = None,
    *,
    watch: Watch | None = None,
    stop_after: int | None = None,
) -> tuple[Outcome, list[dict[str, float]]]:
    """What came of it, and what it logged; a signal to stop comes after so many steps."""
    folder.mkdir(exist_ok=True)
    logged: list[dict[str, float]] = []
    done: list[int] = []
    outcome = pretrain(
        settings,
        images,
        start,
        folder,
        processes=Processes(1, "cpu"),
        callbacks=Callbacks(
            log=lambda metrics, step: logged.append(metrics | {"step": step}),
            progress=lambda at, *_: done.append(at),
            stop=lambda seconds: 15 if done and stop_after is not None and done[-1] >= stop_after else 0,
        ),
        watch=watch,
    )
    return outcome, logged


def views(settings: PretrainConfig, images: Images, indices: Tensor, random: torch.Generator) -> Tensor:
    raw = images.batch(indices.numpy())
    view = augment.parameters(augment.draw(len(indices), random), raw.sizes, settings.augment)
    return augment.train_view(raw, view, settings.image_size, images.mean, images.std)
