"""What long work of the library tells its caller on the way, and what it asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import nn

Progress = Callable[[int, int, str], None]
"""(done, total, what) of a piece of work such as `"training"`: called often; total is 0 where it is not known."""
Log = Callable[[dict[str, float], int], None]
"""(metrics, step): figures worth keeping after a step. What it raises ends the work at once (`hpt.errors.Pruned`)."""
Stop = Callable[[float], int]
"""Asked by a loop after every step, with the seconds until it could stop the next time, its state saved; returns the
number of a signal that asks to stop now, or 0."""
RESUMABLE = ("training", "probing", "finetuning", "detecting", "segmenting")
"""What the progress of such loops is called; other work is done anew when it was stopped."""


@dataclass(frozen=True)
class Callbacks:
    """The three that long work is given together; each is optional and then does nothing."""

    log: Log = lambda metrics, step: None
    progress: Progress = lambda done, total, what: None
    stop: Stop = lambda seconds: 0


SILENT = Callbacks()
"""Tells nobody anything, and is never asked to stop."""


class Watch(Protocol):
    """Looks at a backbone while it is pretrained, and leaves it as it was."""

    favours: str
    """The figure that is higher for a better backbone."""
    noise: float
    """How far that figure, as it was last seen, may be from what it would be on other images: half of a 95 %
    interval."""

    def __call__(self, backbone: nn.Module) -> dict[str, float]:
        """Figures worth logging, `favours` among them."""
