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
from hpt.data.images import Images
from hpt.data.loader import Feed, Order
from hpt.moco import MoCo
from hpt.pretrain import Step
from hpt.processes import Processes

STAGES = ("load", "augment", "key forward", "query forward", "backward", "update", "other")


@dataclass(frozen=True)
class Measurement:
    """Medians over the steps."""

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
    """Our step and the bare one in turn, `repeats * steps` of each, after one of each to warm up."""
    processes = Processes(1, config.device)
    device = processes.device
    backbone = encoder.build(config.backbone, seed=config.seed)
    moco = MoCo(backbone, encoder.feature_dim(config.backbone), config.moco, seed=config.seed)
    step = Step(config, moco, processes)
    order = Order(len(images), config.batch_size, config.seed)
    with step.feed(images, [0]) as feed:
        draw = order.draw(0)
        first = step.views(feed, draw.images[draw.shuffle], draw.key)
        ready = [list(first), list(step.views(feed, draw.images, draw.query))]
    unshuffled = torch.arange(config.batch_size)

    def ours(number: int, feed: Feed) -> None:
        draw = order.draw(number)
        key_views = step.views(feed, draw.images[draw.shuffle], draw.key)
        step(key_views, step.views(feed, draw.images, draw.query), draw.shuffle, config.base_lr)

    def bare() -> None:
        step(ready[0], ready[1], unshuffled, config.base_lr)

    times: dict[str, list[float]] = {"ours": [], "bare": []}
    # Turn by turn, a step of each: a machine that slows down for a while then slows down both.
    total = repeats * steps + 1
    with step.feed(images, range(total)) as feed:
        for number in range(total):
            for name in times:
                start = time.perf_counter()
                if name == "ours":
                    ours(number, feed)
                else:
                    bare()
                _wait(device)
                if number:  # the first step warms up
                    times[name].append(time.perf_counter() - start)
            progress(number, total, "measuring")

    stages = dict.fromkeys(STAGES, 0.0)
    since = time.perf_counter()

    def mark(stage: str) -> None:
        nonlocal since
        _wait(device)
        now = time.perf_counter()
        stages[stage] += (now - since) / steps
        since = now

    step.mark = mark
    with step.feed(images, range(steps)) as feed:
        for number in range(steps):
            ours(number, feed)
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
