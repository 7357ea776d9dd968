"""What the library tells its caller while it works, and asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import nn

Progress = Callable[[int, int, str], None]
"""(done, total, what): called often; total is 0 where it is not known."""
Log = Callable[[dict[str, float], int], None]
"""(metrics, step): figures worth keeping. What it raises ends the work at once (`hpt.errors.Pruned`)."""
Stop = Callable[[], int]
"""The number of a signal that asks to stop, or 0."""


@dataclass(frozen=True)
class Callbacks:
    """The three that long work is given together; as they stand here they do nothing."""

    log: Log = lambda metrics, step: None
    progress: Progress = lambda done, total, what: None
    stop: Stop = lambda: 0


class Watch(Protocol):
    """Looks at a backbone while it is pretrained, and leaves it as it was."""

    favours: str
    """The figure that is higher for a better backbone."""

    def __call__(self, backbone: nn.Module) -> dict[str, float]:
        """Figures worth logging, `favours` among them."""
