"""Whose weights have to travel for a study to go on: a backbone is 40 to 100 MB, and all else of a run a few.

Only the standard library: it runs before anything is installed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def with_weights(rows: Iterable[dict[str, Any]], folder: Path) -> list[str]:
    """The runs that cells which are left start from, in the study's order, then those that go on from a checkpoint,
    and last the backbones that no step was taken for, which are made again in seconds.

    `rows` are the cells that `hptctl study status --json` prints, and `folder` is that of the runs: one that came
    without its weights is not among them.
    """
    cells = list(rows)
    finished = [row for row in cells if row["state"] == "done" and row["needed"] and row["here"]]
    begun = [row["run"] for row in cells if row["state"] == "stopped"]
    untrained = [row["run"] for row in finished if row["config"]["strategy"] == "base"]
    trained = [row["run"] for row in finished if row["run"] not in untrained]
    return [name for name in dict.fromkeys([*trained, *begun, *untrained]) if weights_of(folder / name)]


def weights_of(run: Path) -> list[Path]:
    """The files that `hptctl runs export --without-weights` leaves behind, as far as they would travel."""
    checkpoints = sorted((run / "checkpoints").glob("step-*.pt"))[-1:] if state_of(run) != "finished" else []
    return [*run.glob("*.safetensors"), *(run / "backbones").glob("*.safetensors"), *checkpoints]


def state_of(run: Path) -> str:
    """As `status.json` has it."""
    status = run / "status.json"
    return str(json.loads(status.read_text())["state"]) if status.exists() else "created"
