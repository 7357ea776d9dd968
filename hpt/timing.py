"""How quick this machine is: measured in a second for a plan, and while a training goes on.

`hpt.bench` measures thoroughly, stage by stage.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hpt import encoder
from hpt.config import EvaluateConfig, PretrainConfig
from hpt.processes import Compute


def step_seconds(config: PretrainConfig) -> float:
    """Seconds of one step of the model alone on this machine: each image once backward, and forward once more."""
    training, forward = image_seconds(config)
    return (training + forward) * config.batch_size / config.processes


def image_seconds(config: PretrainConfig | EvaluateConfig) -> tuple[float, float]:
    """Seconds that an image takes on this machine, forward and backward, and forward alone: the best of three passes
    of 8 images.

    Raises:
        ConfigError: the device is not on this machine.
    """
    compute = Compute.of(config)
    model = encoder.build(config.backbone, seed=0).to(compute.device).train()
    images = torch.randn(8, 3, config.image_size, config.image_size, device=compute.device)
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
