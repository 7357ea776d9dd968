"""Learning-rate schedules, as functions of the optimizer's step and of nothing else.

A schedule that is computed, not stepped, cannot be stepped once per process or once per micro-batch by mistake.
"""

from __future__ import annotations

import math
import re
from typing import Literal, NamedTuple

MOST_STEPS_UNSEEN = 100
"""The number of steps between looks at val, as published (arXiv 2103.12718v2)."""


class Schedule(NamedTuple):
    """The length of a training: `60 epochs` or `2500 steps`."""

    length: int
    unit: Literal["steps", "epochs"]

    def steps(self, images: int, batch_size: int) -> int:
        """The length in optimizer steps; the last batch of an epoch is the one that the images do not fill."""
        return self.length if self.unit == "steps" else self.length * math.ceil(images / batch_size)

    def look_every(self, images: int, batch_size: int) -> int:
        """The number of optimizer steps between looks at val, unless it is set: 100, or a tenth of a schedule that is
        shorter than 1,000 steps; of a schedule in epochs an epoch, however few steps that is."""
        if self.unit == "epochs":
            return math.ceil(images / batch_size)
        return min(MOST_STEPS_UNSEEN, max(1, self.length // 10))


def parse_schedule(text: str) -> Schedule:
    """The schedule that `"2500-steps"` or `"90-epochs"` names.

    Raises:
        ValueError: another form, or no step at all.
    """
    match = re.fullmatch(r"\s*(\d[\d_]*)[- ](step|epoch)s?\s*", text)
    if not match or int(match[1]) < 1:
        raise ValueError(f"schedule '{text}' is not of the form 2500-steps or 90-epochs, with 1 or more of them")
    return Schedule(int(match[1]), "steps" if match[2] == "step" else "epochs")


def cosine(step: int, steps: int, lr: float) -> float:
    """Cosine decay from `lr` at step 0 to 0 at `steps`, with no warm-up (MoCo-v2)."""
    return lr * 0.5 * (1 + math.cos(math.pi * step / steps))


def warmed(step: int, steps: int, lr: float, warmup: float) -> float:
    """A rise from 0 to `lr` over the share `warmup` of the steps, then cosine decay to 0 at `steps` (MoCo-v3)."""
    rise = warmup * steps
    if step < rise:
        return lr * step / rise
    return cosine(0, 1, lr) if rise >= steps else lr * 0.5 * (1 + math.cos(math.pi * (step - rise) / (steps - rise)))


def rising(step: int, steps: int, momentum: float) -> float:
    """`momentum` at step 0, which rises to 1 at `steps` by half a cosine (MoCo-v3)."""
    return 1 - 0.5 * (1 + math.cos(math.pi * step / steps)) * (1 - momentum)


def thirds(step: int, steps: int, lr: float) -> float:
    """`lr`, divided by 10 from 1/3 and again from 2/3 of `steps` (2,500 steps drop at 833 and 1,667)."""
    drops = (step >= first_drop(steps)) + (step >= round(2 * steps / 3))
    return lr / 10.0**drops


def first_drop(steps: int) -> int:
    """Steps that `thirds` takes at the whole learning rate; they are the same however long the schedule is."""
    return round(steps / 3)
