"""The command `hptctl`, and `python -m hptctl`: a signal that comes while all else is imported ends it in a line."""

import os
import signal
from types import FrameType

TIME_IS_UP, TIME_IS_UP_CODE = getattr(signal, "SIGUSR1", None), 75  # as hpt.errors has them


def end_at_once(number: int, frame: FrameType | None) -> None:
    """The handler of a signal while there is nothing to save, or nothing more."""
    os.write(2, f"error: stopped by {signal.Signals(number).name}\n".encode())
    os._exit(TIME_IS_UP_CODE if number == TIME_IS_UP else 128 + number)


def main() -> None:
    """Entry point of `hptctl`."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), end_at_once)
    from hptctl.cli import main as run

    run()


if __name__ == "__main__":  # a process that draws a report's charts imports this, too
    main()
