"""Checkpoints: written whole or not at all, checked before use, the last two kept.

`step-00000500.pt` is written to a temporary file beside it, synced and renamed; its SHA-256 follows in
`step-00000500.sha256`. A file without a hash does not count, and one whose hash differs was damaged (a flipped bit
would load silently).
"""

from __future__ import annotations

import hashlib
import logging
from math import inf
from pathlib import Path
from typing import Any

import torch

from hpt import step_files
from hpt.errors import RunError
from hpt.files import replacing, write_text
from hpt.step_files import checkpoint_name

log = logging.getLogger("hpt.checkpoint")

KEEP = 2


def save(folder: Path, step: int, state: dict[str, Any], *, keep: int = KEEP) -> Path:
    """Write the state after `step` steps, and remove the oldest checkpoints so that `keep` remain; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / checkpoint_name(step)
    with replacing(path) as part, part.open("wb") as file:
        try:
            torch.save({"step": step, **state}, file)
        except RuntimeError as error:  # on a full disk the writer's own complaint hides the system's
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None
    write_text(seal_of(path), _digest(path))
    for old in steps(folder)[:-keep]:
        gone = folder / checkpoint_name(old)
        for each in (seal_of(gone), gone):
            each.unlink(missing_ok=True)
    return path


def steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint, ascending."""
    return step_files.steps(folder, checkpoint_name)


def newest(folder: Path, *, until: float = inf) -> dict[str, Any] | None:
    """The newest undamaged checkpoint of at most `until` steps, on the CPU; None when there is none yet.

    Raises:
        RunError: there are checkpoints, and all are damaged.
    """
    path = newest_file(folder, until=until)
    if path is None:
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def newest_file(folder: Path, *, until: float = inf) -> Path | None:
    """As `newest`, its file, unread; the hash lies beside it (`seal_of`)."""
    damaged = []
    for step in reversed([step for step in steps(folder) if step <= until]):
        path = folder / checkpoint_name(step)
        seal = seal_of(path)
        if not seal.exists():  # killed before the seal was written: as if there were no such checkpoint
            continue
        if seal.read_bytes() == _digest(path).encode():
            return path
        damaged.append(path.name)
        log.warning("checkpoint %s is damaged; trying the one before", path)
    if damaged:
        raise RunError(f"every checkpoint in {folder} is damaged ({', '.join(damaged)})", "start a new run")
    return None


def seal_of(path: Path) -> Path:
    """The file that holds a checkpoint's hash."""
    return path.with_suffix(".sha256")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
