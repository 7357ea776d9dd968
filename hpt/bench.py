"""What a pretraining step costs on this machine, stage by stage, beside the bare model step that bounds it."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import wraps
from typing import Any

import psutil
import torch
from torch import Tensor

from hpt import encoder
from hpt.callbacks import Progress
from hpt.config import PretrainConfig
from hpt.data.images import Images, RawBatch
from hpt.methods import method_of
from hpt.moco import MoCo
from hpt.moco_v3 import MoCoV3
from hpt.processes import Processes
from hpt.step import Step
from hpt.views import StepViews, Views

STAGES = ("load", "augment", "key forward", "query forward", "backward", "update", "other")


@dataclass(frozen=True)
class Measurement:
    """Seconds are medians over the repeats."""

    seconds: float
    """Seconds of one of our steps, from indices to updated weights."""
    bare_seconds: float
    """Seconds of the same step on views that are ready, which is the bound of ours."""
    ratios: tuple[float, ...]
    """Ours over the bare one, of each repeat by itself: both were measured right after each other."""
    processor_ratios: tuple[float, ...]
    """The same of the processor time of all threads: on a CPU that other work shares, it says more than seconds do."""
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
        """The median of `ratios`."""
        return statistics.median(self.ratios)

    @property
    def spread(self) -> float:
        """The largest of `ratios` less the smallest, as a share of their median."""
        return (max(self.ratios) - min(self.ratios)) / self.ratio_to_bare

    @property
    def bound(self) -> str:
        """What most of a step waits for: the model, the views, or the reading of images."""
        views = self.stages["augment"]
        read = self.stages["load"]
        model = sum(self.stages.values()) - views - read
        return max((model, "the model"), (views, "the views"), (read, "reading"))[1]


def measure(config: PretrainConfig, images: Images, *, steps: int, repeats: int, progress: Progress) -> Measurement:
    """Our step and the bare one in turn, `steps` of each a repeat, each after one to warm up.

    What a long run gets: while a block of our steps is timed, all reading and all views are theirs. (Step by step in
    turn, images would be read and copied while the bare step computes, which takes from it and gives to ours. So
    measured, small images of many shapes once gave 1.17 where `benchmarks/pretraining.py` gave 1.40; whether this was
    why is not known, since the difference has not been reproduced.)

    Raises:
        ConfigError: the device is not on this machine, or a setting is not one of the backbone's method.
        DataError: fewer images than one batch.
    """
    processes = Processes(1, config.device)
    device = processes.device
    backbone = encoder.fresh(config, images.form.channels)
    method = method_of(config, backbone)
    moco = method.build(backbone, config)
    step = Step(config, moco, processes, method)
    lr = method.lr(config.steps // 2, config)
    with Views(config, images, [0], processes) as views:
        first = views(0)
        key, query = list(first.key), list(first.query)  # in the order in which they are read
    ready = StepViews(query, key, torch.arange(config.batch_size))

    def timed(views_of: Callable[[int], StepViews], numbers: range) -> tuple[float, float]:
        step(views_of(numbers[0]), lr)  # warms up
        _wait(device)
        start, busy = time.perf_counter(), time.process_time()
        for number in numbers[1:]:
            step(views_of(number), lr)
        _wait(device)
        count = len(numbers) - 1
        return (time.perf_counter() - start) / count, (time.process_time() - busy) / count

    def ours(numbers: range) -> tuple[float, float]:
        # What is read ahead for steps after the last belongs to a long run, too.
        with Views(config, images, range(numbers.start, numbers.stop + 1), processes) as views:
            return timed(views, numbers)

    def bare(numbers: range) -> tuple[float, float]:
        return timed(lambda _: ready, numbers)

    found: dict[str, list[tuple[float, float]]] = {"ours": [], "bare": []}
    for repeat in range(repeats):
        numbers = range(repeat * (steps + 2), repeat * (steps + 2) + steps + 1)
        # The order turns, so that a machine that becomes slower is not the slower one's fault.
        for name, block in (("ours", ours), ("bare", bare))[:: 1 if repeat % 2 == 0 else -1]:
            found[name].append(block(numbers))
        progress(repeat, repeats, "measuring")

    clock = _StageClock(device)
    _mark(moco, clock)
    with _MarkedViews(clock, config, images, range(steps + 1), processes) as views:
        for number in range(steps + 1):
            if number == 1:
                clock.start()  # the first step waits for what was not read ahead
            drawn = views(number)
            clock("other")
            step(drawn, lr)
            clock("update")
    progress(repeats, repeats, "measuring")
    return Measurement(
        seconds=statistics.median(seconds for seconds, _ in found["ours"]),
        bare_seconds=statistics.median(seconds for seconds, _ in found["bare"]),
        ratios=tuple(a / b for (a, _), (b, _) in zip(found["ours"], found["bare"], strict=True)),
        processor_ratios=tuple(a / b for (_, a), (_, b) in zip(found["ours"], found["bare"], strict=True)),
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


def _mark(moco: MoCo | MoCoV3, clock: _StageClock) -> None:
    """Have a method tell the clock which stage has ended, each time that it has done a part of its step."""
    for owner, name, ended in (
        (moco, "update_key_encoder", "update"),
        (moco.key, "forward", "key forward"),
        (moco, "loss", "query forward"),
        (moco, "step", "backward"),
    ):
        setattr(owner, name, _telling(getattr(owner, name), clock, ended))
    # What comes between a loss and the next queries.
    moco.query.register_forward_pre_hook(lambda *_: clock("backward"))


def _telling(act: Callable[..., Any], clock: _StageClock, ended: str) -> Callable[..., Any]:
    @wraps(act)
    def told(*given: Any) -> Any:
        found = act(*given)
        clock(ended)
        return found

    return told


class _MarkedViews(Views):
    """Views that tell the clock when raw images have come, and when views are made of them."""

    def __init__(
        self, clock: _StageClock, config: PretrainConfig, images: Images, steps: Iterable[int], processes: Processes
    ) -> None:
        super().__init__(config, images, steps, processes)
        self.clock = clock

    def __call__(self, step: int) -> StepViews:
        drawn = super().__call__(step)
        return drawn._replace(query=self._marked(drawn.query, "backward"), key=self._marked(drawn.key, "key forward"))

    def read(self, indices: Tensor) -> RawBatch:
        self.clock("augment")
        raw = super().read(indices)
        self.clock("load")
        return raw

    def _marked(self, views: Iterable[Tensor], last: str) -> Iterator[Tensor]:
        """The views; whoever asks for the next one may just have ended the `last` stage of the one before."""
        for view in views:
            self.clock("augment")
            yield view
            self.clock(last)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ModuleNotFoundError:  # Windows, of which alone psutil knows the peak
        memory = psutil.Process().memory_info()
        return int(getattr(memory, "peak_wset", memory.rss))
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts in bytes, Linux in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
