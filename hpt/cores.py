"""The cores that this process may use: those that it is bound to, and no more than its control groups pay for."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def usable(root: Path = Path("/")) -> int:
    """How many cores; `root` is where `proc` and `sys` lie. A part of a core that a container may use counts as one.

    A container's limit is time, not a binding: a process that may use 2 of 64 cores still sees all of them, and with 64
    threads it would be stopped for most of every period.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else installed()
    return max(1, math.ceil(min([bound, *_limits(root)])))


def installed() -> int:
    """How many cores the machine has, whoever may use them."""
    return os.cpu_count() or 1


def _limits(root: Path) -> Iterator[float]:
    """Cores' worth of time that the process's own control group and those above it allow, where they say so."""
    mounts = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        # A path of the host's leads nowhere in a container, where the container's own group is mounted as the root, so
        # the walk goes on past what is missing; ".." leads above the root of a namespace.
        place = PurePosixPath("/", *(part for part in PurePosixPath(path).parts if part != ".."))
        for group in (place, *place.parents):
            inside = group.relative_to("/")
            if not controllers:  # version 2
                quota, _, period = _read(mounts / inside / "cpu.max").partition(" ")
            elif "cpu" in controllers.split(","):
                folder = next((mounts / name for name in (controllers, "cpu") if (mounts / name).is_dir()), mounts)
                quota = _read(folder / inside / "cpu.cfs_quota_us")
                period = _read(folder / inside / "cpu.cfs_period_us")
            else:
                break
            if quota.isdecimal() and period.isdecimal() and int(period):  # neither "max" nor "-1"
                yield int(quota) / int(period)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="surrogateescape").strip()
    except OSError:  # not Linux, or hidden
        return ""
