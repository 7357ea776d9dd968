"""A study of nine cells that take a second each."""

from __future__ import annotations

from hptctl.runs.weights import backbone_of
from hptctl.study import definition as grid
from hptctl.study.definition import Cell
from hptctl.study.progress import Progress

STUDY = """
datasets = ["{dataset}"]
weights = ["own"]
preset = "tiny"
evaluations = ["knn"]
equal_length = false
strategies = ["base", "target", "hpt"]

[steps]
hpt = [2, 4]
target = [4]

[set]
batch_size = 32
device = "cpu"

[[bases]]
name = "own"
dataset = "shapes@100"
strategy = "target"
steps = 3
"""


PRETRAININGS = {"own", "base-my-digits-s0", "target-my-digits-s0@4", "hpt-my-digits-s0"}


EVALUATIONS = {
    *("knn-base-my-digits-s0", "knn-target-my-digits-s0@4"),
    *("knn-hpt-my-digits-s0@2", "knn-hpt-my-digits-s0@4"),
    "knn-untrained-my-digits-s0",
}


def states() -> dict[str, str]:
    """As `hptctl study status` has it, without starting a process."""
    progress = Progress(grid.cells(grid.load("mine.toml"), backbone_of))
    return {id: progress[id].state for id in progress.cells}


def cells(text: str, **changes: object) -> list[Cell]:
    return grid.cells(grid.load(text, changes), lambda weights: "resnet50")
