"""What a pretraining step costs on this machine, stage by stage, beside the bare model step that bounds it."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hpt import encoder
from hpt.callbacks import Progress
from hpt.config import MocoConfig, PretrainConfig
from hpt.data.images import Images, RawBatch
from hpt.moco import MoCo
from hpt.processes import Compute, Processes
from hpt.step import Step
from hpt.views import StepViews, Views

STAGES = ("load", "augment", "key forward", "query forward", "backward", "update", "other")


@dataclass(frozen=True)
class Measurement:
    """Seconds are medians over the steps."""

    seconds: float
    """Seconds of one of our steps, from indices to updated weights."""
    bare_seconds: float
    """Seconds of the same step on views that are ready, which is the bound of ours."""
    stages: dict[str, float]
    """Mean seconds of a step by stage; measured apart, since looking at a stage makes a GPU wait for it."""
    peak_bytes: int
    """The most memory that was used: of the device on a GPU, else of the process."""
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
    """Our step and the bare one in turn, `repeats * steps` of each, after one of each to warm up.

    Raises:
        ConfigError: the device is not on this machine. DataError: fewer images than one batch.
    """
    processes = Processes(1, config.device)
    device = processes.device
    clock = _StageClock(device)
    backbone = encoder.build(config.backbone, seed=config.seed, channels=images.form.channels)
    moco = _MarkedMoCo(clock, backbone, encoder.feature_dim(config.backbone), config.moco, seed=config.seed)
    step = Step(config, moco, processes)
    with Views(config, images, [0], processes) as views:
        first = views(0)
        key, query = list(first.key), list(first.query)  # in the order in which they are read
    ready = StepViews(query, key, torch.arange(config.batch_size))

    def timed(views_of: Callable[[int], StepViews], number: int) -> float:
        start = time.perf_counter()
        step(views_of(number), config.base_lr)
        _wait(device)
        return time.perf_counter() - start

    ours, bare = [], []
    # Turn by turn, a step of each: a machine that slows down for a while then slows down both.
    total = repeats * steps + 1
    with Views(config, images, range(total), processes) as views:
        for number in range(total):
            ours.append(timed(views, number))
            bare.append(timed(lambda _: ready, number))
            progress(number, total, "measuring")

    with _MarkedViews(clock, config, images, range(steps), processes) as views:
        clock.start()
        for number in range(steps):
            drawn = views(number)
            clock("other")
            step(drawn, config.base_lr)
            clock("update")
    progress(total, total, "measuring")
    return Measurement(
        seconds=statistics.median(ours[1:]),  # the first step warms up
        bare_seconds=statistics.median(bare[1:]),
        stages={stage: seconds / steps for stage, seconds in clock.seconds.items()},
        peak_bytes=_peak_bytes(device),
        batch_size=config.batch_size,
    )


class _StageClock:
    """Seconds by stage, from its start: the time since the stage before belongs to the one that ends."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.running = False
        self.seconds = dict.fromkeys(STAGES, 0.0)

    def start(self) -> None:
        self.running, self._since = True, time.perf_counter()

    def __call__(self, ended: str) -> None:
        if not self.running:
            return
        _wait(self.device)
        now = time.perf_counter()
        self.seconds[ended] += now - self._since
        self._since = now


class _MarkedMoCo(MoCo):
    """MoCo that tells the clock which stage has ended."""

    def __init__(
        self, clock: _StageClock, backbone: nn.Module, features: int, config: MocoConfig, *, seed: int
    ) -> None:
        super().__init__(backbone, features, config, seed=seed)
        self.clock = clock

    def step(
        self,
        query_views: Iterable[Tensor],
        key_views: Iterable[Tensor],
        shuffle: Tensor,
        processes: Processes,
        compute: Compute,
    ) -> tuple[Tensor, Tensor]:
        queries, keys = self._marked(query_views, "backward"), self._marked(key_views, "key forward")
        return super().step(queries, keys, shuffle, processes, compute)

    def update_key_encoder(self) -> None:
        super().update_key_encoder()
        self.clock("update")

    def loss(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        found = super().loss(queries, keys)
        self.clock("query forward")
        return found

    def _marked(self, views: Iterable[Tensor], last: str) -> Iterator[Tensor]:
        """The views; whoever asks for the next one has ended the `last` stage of the one before."""
        for view in views:
            self.clock("augment")
            yield view
            self.clock(last)


class _MarkedViews(Views):
    """Views that tell the clock when raw images have come."""

    def __init__(
        self, clock: _StageClock, config: PretrainConfig, images: Images, steps: Iterable[int], processes: Processes
    ) -> None:
        super().__init__(config, images, steps, processes)
        self.clock = clock

    def read(self, indices: Tensor) -> RawBatch:
        self.clock("augment")
        raw = super().read(indices)
        self.clock("load")
        return raw


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
