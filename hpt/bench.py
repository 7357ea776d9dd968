"""What a pretraining step costs on this machine, stage by stage, beside the bare model step that bounds it."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from dataclasses import dataclass

import torch

from hpt import encoder
from hpt.callbacks import Progress
from hpt.config import PretrainConfig
from hpt.data.cache import Images
from hpt.data.loader import Order
from hpt.moco import MoCo
from hpt.pretrain import Step
from hpt.processes import Processes

STAGES = ("load", "augment", "key forward", "query forward", "backward", "update", "other")


@dataclass(frozen=True)
class Measurement:
    """Medians over the repeats."""

    seconds: float
    """Of one of our steps, from indices to updated weights."""
    bare_seconds: float
    """Of the same step on views that are ready: the bound."""
    stages: dict[str, float]
    """Seconds of a step by stage; measured apart, since looking at a stage makes a GPU wait for it."""
    peak_bytes: int
    """Memory: of the device on a GPU, else of the process."""
    batch_size: int

    @property
    def images_per_second(self) -> float:
        return self.batch_size / self.seconds

    @property
    def bare_images_per_second(self) -> float:
        return self.batch_size / self.bare_seconds

    @property
    def ratio_to_bare(self) -> float:
        return self.seconds / self.bare_seconds


def measure(config: PretrainConfig, images: Images, *, steps: int, repeats: int, progress: Progress) -> Measurement:
    """Run our step and the bare one in turn, `repeats` times `steps` of each, after one of each to warm up."""
    processes = Processes(1, config.device)
    device = processes.device
    backbone = encoder.build(config.backbone, seed=config.seed)
    moco = MoCo(backbone, encoder.feature_dim(config.backbone), config.moco, seed=config.seed)
    step = Step(config, moco, processes)
    order = Order(len(images), config.batch_size, config.seed)
    ready = [list(step.views(images, order.batch(0), torch.Generator().manual_seed(n))) for n in range(2)]
    unshuffled = torch.arange(config.batch_size)

    def ours(number: int) -> None:
        draw = order.draw(number)
        key_views = step.views(images, draw.images[draw.shuffle], draw.key)
        step(key_views, step.views(images, draw.images, draw.query), draw.shuffle, config.base_lr)

    def bare(number: int) -> None:
        step(ready[0], ready[1], unshuffled, config.base_lr)

    times: dict[str, list[float]] = {"ours": [], "bare": []}
    total = 2 * repeats + 1
    for repeat in range(repeats):
        for index, (name, take) in enumerate((("ours", ours), ("bare", bare))):
            take(0)
            _wait(device)
            start = time.perf_counter()
            for number in range(steps):
                take(repeat * steps + number)
            _wait(device)
            times[name].append((time.perf_counter() - start) / steps)
            progress(2 * repeat + index + 1, total, "measuring")

    stages = dict.fromkeys(STAGES, 0.0)
    since = time.perf_counter()

    def mark(stage: str) -> None:
        nonlocal since
        _wait(device)
        now = time.perf_counter()
        stages[stage] += (now - since) / steps
        since = now

    step.mark = mark
    for number in range(steps):
        ours(number)
        mark("other")
    progress(total, total, "measuring")
    return Measurement(
        seconds=statistics.median(times["ours"]),
        bare_seconds=statistics.median(times["bare"]),
        stages=stages,
        peak_bytes=_peak_bytes(device),
        batch_size=config.batch_size,
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts in bytes, Linux in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
