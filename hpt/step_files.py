"""Files in a run's folder that are called after the step that they are of."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path


def checkpoint_name(step: int) -> str:
    """Of a checkpoint: `step-00000500.pt`."""
    return f"step-{step:08d}.pt"


def backbone_name(step: int) -> str:
    """Of a backbone that was kept on the way: `step-500.safetensors`."""
    return f"step-{step}.safetensors"


def steps(folder: Path, name_of: Callable[[int], str]) -> list[int]:
    """The steps of the files that are called so, ascending; a copy that somebody has put beside is none of them."""
    numbers = ((path.name, re.search(r"\d+", path.name)) for path in folder.glob("step-*"))
    return sorted(int(found[0]) for name, found in numbers if found and name_of(int(found[0])) == name)
