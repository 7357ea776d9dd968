"""How quick this machine is: measured in a second for a plan, and while a training goes on.

`hpt.bench` measures thoroughly, stage by stage.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hpt import encoder
from hpt.callbacks import Stop
from hpt.config import EvaluateConfig, PretrainConfig
from hpt.processes import Compute


def step_seconds(config: PretrainConfig) -> float:
    """Seconds of one step of the model alone on this machine: each image once backward, and forward once more, or twice
    where the backward pass computes it again."""
    training, forward = image_seconds(config)
    return (training + forward * (2 if config.gradient_checkpointing else 1)) * config.batch_size / config.processes


BATCH_ON_CPU, BATCH_ELSEWHERE = 8, 64
"""Images of a measurement: of so few a GPU would take as long as of many."""


def image_seconds(config: PretrainConfig | EvaluateConfig) -> tuple[float, float]:
    """Seconds that an image takes on this machine, forward and backward, and forward alone: the best of three passes
    of 8 images, on a GPU of 64.

    Raises:
        ConfigError: the device is not on this machine, or the backbone has no such pooling.
    """
    compute = Compute.of(config)
    model = encoder.fresh(config, 3).to(compute.device).train()
    count = BATCH_ON_CPU if compute.device.type == "cpu" else BATCH_ELSEWHERE
    images = torch.randn(count, 3, config.image_size, config.image_size, device=compute.device)
    forward = training = float("inf")
    for _ in range(3):  # the first pass pays for warming up
        start = time.perf_counter()
        with compute.autocast():
            with torch.no_grad():
                model(images).sum().item()  # waits for a GPU
            middle = time.perf_counter()
            loss = model(images).square().mean()
        loss.backward()
        loss.item()
        forward, training = min(forward, middle - start), min(training, time.perf_counter() - middle)
    return training / len(images), forward / len(images)


RECENT = 32
"""Rounds of a loop by the slowest of which the next one is judged."""
FIRST_SAVE_SECONDS = 2.0
"""What the first save is reckoned to take: a ResNet-50's state of 330 MB, to a disk of 165 MB/s."""


class Pace:
    """Asks a loop's `stop` once a round, with the seconds that one more round, what may come with it, and the save
    after it take, all as they were measured in this loop."""

    def __init__(self, stop: Stop) -> None:
        self._stop, self._since = stop, time.perf_counter()
        self._rounds: deque[float] = deque(maxlen=RECENT)
        self._longest: dict[str, float] = {}
        self._this_round = 0.0

    def __call__(self) -> int:
        """At the end of a round: the number of a signal that asks to stop, or 0."""
        now = time.perf_counter()
        self._rounds.append(now - self._since - self._this_round)
        self._since, self._this_round = now, 0.0
        return self._stop(max(self._rounds) + sum(({"save": FIRST_SAVE_SECONDS} | self._longest).values()))

    @contextmanager
    def apart(self, what: str) -> Iterator[None]:
        """What happens inside is not done in every round, but may come with the next; `"save"` follows a stop."""
        before = time.perf_counter()
        yield
        took = time.perf_counter() - before
        self._longest[what] = max(took, self._longest.get(what, 0.0))
        self._this_round += took


class Speed:
    """The images per second of a training since its speed was last asked for."""

    def __init__(self, batch_size: int, step: int) -> None:
        """Start to count, after `step` steps."""
        self.batch_size, self._step, self._since = batch_size, step, time.perf_counter()

    def __call__(self, step: int) -> float:
        """Images per second up to the end of `step`."""
        now = time.perf_counter()
        speed = (step - self._step) * self.batch_size / (now - self._since)
        self._step, self._since = step, now
        return speed

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside is not training, and its time does not count."""
        before = time.perf_counter()
        yield
        self._since += time.perf_counter() - before
