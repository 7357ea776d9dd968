"""What the library tells its caller while it works, and asks."""

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""(done, total, what): called often; total is 0 where it is not known."""
Log = Callable[[dict[str, float], int], None]
"""(metrics, step): figures worth keeping."""
Stop = Callable[[], int]
"""The number of a signal that asks to stop, or 0."""
