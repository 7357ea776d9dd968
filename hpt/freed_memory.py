"""What glibc does with memory that was freed: by default it returns the large pieces, and asks for them anew."""

from __future__ import annotations

import sys


def keep() -> None:
    """Have this process keep what it frees for what it allocates next. Other C libraries than glibc are left alone.

    Each large tensor would otherwise be a fresh mapping whose pages are faulted in one by one: 60,000 faults and 3 to
    12 % of a ResNet-18's step at 64 px; and so would a decoded photograph be, at up to 450 faults.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # malloc.h
        mallopt(mmap_threshold, 1 << 30)
        mallopt(trim_threshold, (1 << 31) - 1)
