"""Whose weights have to travel for a study to go on: a backbone is 40 to 100 MB, and all else of a run a few.

Only the standard library: it runs before anything is installed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def with_weights(rows: Iterable[dict[str, Any]]) -> list[str]:
    """The runs that cells which are left start from, in the study's order, then those that go on from a checkpoint,
    and last the backbones that no step was taken for, which are made again in seconds.

    `rows` are the cells that `hptctl study status --json` prints.
    """
    cells = list(rows)
    finished = [row for row in cells if row["state"] == "done" and row["needed"] and row["here"]]
    begun = [row["run"] for row in cells if row["state"] == "stopped"]
    untrained = [row["run"] for row in finished if row["config"]["strategy"] == "base"]
    trained = [row["run"] for row in finished if row["run"] not in untrained]
    return list(dict.fromkeys([*trained, *begun, *untrained]))
