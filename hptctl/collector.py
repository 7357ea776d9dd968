"""Python's garbage collector, which has nothing to find in the modules of large libraries but searches them."""

from __future__ import annotations

import atexit
import gc
import sys

ALLOCATIONS = 100_000
"""New objects after which the youngest are searched; Python's default of 700 costs 0.6 s while PyTorch and MLflow are
imported."""


def spare() -> None:
    """Let this process start and end sooner: its end took 1.4 s, and takes 0.3 s, once both libraries are loaded."""
    gc.set_threshold(ALLOCATIONS, *gc.get_threshold()[1:])
    atexit.register(_leave)


def _leave() -> None:
    """What goes with the process need not be searched; but Triton counts at the end what it still has, and lists it."""
    if "triton" not in sys.modules:
        gc.freeze()
