"""What looks odd in settings or figures and is not, what would be quicker, and what was not tried, a line each."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence

from hpt import augment
from hpt.callbacks import Log
from hpt.config import RESNETS, PretrainConfig
from hpt.data.pixel_format import PLAIN, PixelFormat
from hpt.processes import choose_device, cpu_has_bf16

logger = logging.getLogger(__name__)


def notes(config: PretrainConfig, images: int, form: PixelFormat = PLAIN) -> Iterator[str]:
    """What to know of a run before it starts, a line each; `images` is the number that it pretrains on, and `form` says
    what their channels are.

    Raises:
        ConfigError: the device is not on this machine.
    """
    if config.strategy == "base":
        return
    if config.precision == "auto" and choose_device(config.device).type == "cpu" and cpu_has_bf16():
        yield "this processor computes in bf16 too: --precision bf16 takes about three quarters of the time at 64 px"
    if (suited := augment.suited(config.augment, form.colours)) != config.augment:
        what = "greys" if form.colours == "grey" else f"{form.channels} channels that are no colours"
        yield f"of {what} the views are {suited.in_words()}"
    if config.method == "moco-v2" or (config.method is None and config.backbone in RESNETS):
        yield from of_queue(config, images)


def of_queue(config: PretrainConfig, images: int) -> Iterator[str]:
    """What to know of MoCo-v2's queue; of a backbone that is no plain ResNet the method is known once it is built."""
    queue = config.moco.queue_size
    if queue > images:
        yield (
            f"the queue of {queue:,} keys is larger than the {images:,} images: about {queue // images} of a query's"
            " negatives show its own image, which keeps the loss up (moco.queue_size sets it)"
        )
    if (filled := _filled_after(config)) > 1:
        yield (
            "the queue starts with random keys, which are easy: the loss rises and the accuracy falls"
            f" until step {filled:,}"
        )


def lr_at_edge(lrs: Sequence[float], edge: str) -> str:
    """What to do about a probe whose best learning rate lies at the `low` or `high` end of the grid `lrs`."""
    tried = sorted(lrs)
    low = edge == "low"
    last, inner = tried[:2] if low else tried[:-3:-1]
    wider = ",".join(f"{lr:.3g}" for lr in sorted([*tried, last * last / inner]))
    return (
        f"the best learning rate, {last:g}, is the {'smallest' if low else 'largest'} of the grid:"
        f" a {'smaller' if low else 'larger'} one may do better, --set linear.lrs={wider} tries one"
    )


def explaining(config: PretrainConfig, log: Log) -> Log:
    """`log`, with a note the first time that the contrastive accuracy is 100 % only because most keys of the queue are
    still random."""
    filled = _filled_after(config)
    said = False

    def explained(metrics: dict[str, float], step: int) -> None:
        nonlocal said
        log(metrics, step)
        if not said and step < filled and metrics["contrastive_top1"] > 0.999:
            said = True
            logger.info(
                "contrastive accuracy is 100 %% at step %d because most keys of the queue are still random;"
                " expect it to fall until step %d",
                step,
                filled,
            )

    return explained


def _filled_after(config: PretrainConfig) -> int:
    """Steps until the queue holds no random keys."""
    return math.ceil(config.moco.queue_size / config.batch_size)
