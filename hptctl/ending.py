"""How a signal ends a process that has nothing to save. Little is imported here: it comes before all else."""

from __future__ import annotations

import os
import signal
from types import FrameType

from hpt.errors import Interrupted

SIGNALS = (
    *(signal.SIGINT, signal.SIGTERM),
    *(getattr(signal, name) for name in ("SIGHUP", "SIGUSR1") if hasattr(signal, name)),
)


def end_at_once() -> None:
    """From now on a signal ends the process: there is nothing to save, or nothing more."""
    for number in SIGNALS:
        signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    stopped = Interrupted(number, f"stopped by {signal.Signals(number).name}")
    os.write(2, f"error: {stopped}\n".encode())
    os._exit(stopped.exit_code)
