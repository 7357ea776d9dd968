"""What the runs say, in figures: everything that the page and the other formats put into words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pandas as pd

from hpt.statistics import SpeedUp, speed_up
from hptctl.compare.intervals import Difference, Differences
from hptctl.report.cost import OF_A_COST, Cost, cost
from hptctl.report.frame import Cell, arm_order, at_best_length, cells, evaluation_order, published

FURTHER = ("target", "hpt", "hpt-bn")
"""Strategies that train on the target images, as against `base`."""


@dataclass(frozen=True)
class Faster:
    """How much longer `target` must train for what another strategy has."""

    cell: Cell
    speed_up: SpeedUp
    slowest: SpeedUp | None
    """For its figure less its spread; None where the spread is not known."""
    fastest: SpeedUp | None
    """For its figure and its spread above it."""


@dataclass(frozen=True)
class Score:
    """How often one arm was better, level and worse than another, over datasets."""

    wins: int
    ties: int
    losses: int


@dataclass(frozen=True)
class Findings:
    """The runs (`frame`, indexed by run id) and what they come to."""

    frame: pd.DataFrame
    every: tuple[Cell, ...]
    """Every figure, evaluation by evaluation in the order of their weight."""
    chosen: tuple[Cell, ...]
    """Of each arm the length of pretraining that val chose."""
    shown: tuple[Cell, ...]
    """Of these the method as published: what is compared over datasets."""
    difference: Differences
    costs: dict[tuple[str, str, str, int], Cost]
    """By the place of a cell."""

    @property
    def targets(self) -> list[str]:
        """Datasets, with what tells two of one name apart."""
        return sorted({cell.target for cell in self.every})

    @property
    def evaluations(self) -> list[str]:
        return list(dict.fromkeys(cell.evaluation for cell in self.every))

    def rivals(self, target: str) -> list[Cell]:
        """The figures that answer for a dataset: of its weightiest evaluation, and of backbones that saw its images."""
        mine = [cell for cell in self.shown if cell.target == target]
        first = [cell for cell in mine if cell.evaluation == mine[0].evaluation]
        return [cell for cell in first if cell.own] or first

    def further(self, target: str) -> tuple[Cell | None, Cell | None]:
        """The best further pretraining, and the base that it is compared with."""
        found = self.rivals(target)
        bases = [cell for cell in found if cell.strategy == "base"]
        trained = [cell for cell in found if cell.strategy in FURTHER]
        return best(trained), best(bases)

    def verdict(self, target: str) -> str:
        """gain, tie, loss: of the best further pretraining against `base`; open where one of them is missing."""
        trained, base = self.further(target)
        if trained is None or base is None:
            return "open"
        found = self.difference(trained, base)
        return "tie" if found.tie else "gain" if found.points > 0 else "loss"

    def wholes(self, variants: Sequence[Cell]) -> list[Cell]:
        """What they are variants of: the whole method from the same start, of as many steps."""
        wanted = {_kin(cell) for cell in variants}
        return [cell for cell in self.every if not cell.variant and cell.own and _kin(cell) in wanted]

    def scores(self, evaluation: str) -> dict[tuple[str, str], Score]:
        """Each arm (row) against each other (column), over the datasets that have both."""
        counts: dict[tuple[str, str], list[int]] = {}
        mine = [cell for cell in self.shown if cell.evaluation == evaluation and cell.own]
        for a in mine:
            for b in mine:
                if a.target == b.target and a.arm != b.arm:
                    found = self.difference(a, b)
                    at = 1 if found.tie else 0 if found.points > 0 else 2
                    counts.setdefault((a.arm, b.arm), [0, 0, 0])[at] += 1
        return {pair: Score(*each) for pair, each in counts.items()}

    def faster(self, target: str) -> list[Faster]:
        """hpt and hpt-bn after each number of steps against the curve of `target`, in the evaluation that answers."""
        rivals = self.rivals(target)
        mine = [
            cell
            for cell in self.every
            if (cell.target, cell.evaluation) == (target, rivals[0].evaluation)
            and cell.own and not cell.variant and cell.steps
        ]  # fmt: skip
        curves = [
            [(c.steps, c.mean) for c in some]
            for _, some in _by_arm([cell for cell in mine if cell.strategy == "target"])
        ]
        if not curves:
            return []
        curve = max(curves, key=lambda points: (len(points), max(points)))
        return [
            Faster(
                cell,
                speed_up(cell.steps, cell.mean, curve),
                *(
                    speed_up(cell.steps, cell.mean + sign * cell.spread, curve) if math.isfinite(cell.spread) else None
                    for sign in (-1, 1)
                ),
            )
            for cell in mine
            if cell.strategy in {"hpt", "hpt-bn"}
        ]


def gather(frame: pd.DataFrame) -> Findings:
    """Figures, differences and costs of the runs (`frame.tidy`); reads the predictions that they kept."""
    by_id = frame.set_index("run_id", drop=False)
    every = sorted(cells(frame), key=lambda c: (evaluation_order(c.evaluation), arm_order(c.arm), c.target, c.steps))
    chosen = at_best_length(every)
    folders = {str(id): Path(folder) for id, folder in by_id["folder"].items() if folder}
    kin = {_kin(cell) for cell in every if cell.variant}
    compared = [*chosen, *(cell for cell in every if _kin(cell) in kin and cell not in chosen)]
    in_order = sorted(compared, key=lambda c: (c.target, c.evaluation))
    groups = [list(some) for _, some in groupby(in_order, key=lambda c: (c.target, c.evaluation))]
    # Not as a frame: looking 300 cells up in one would take half a second.
    narrow = by_id.reindex(columns=list(OF_A_COST)).to_dict("index")
    return Findings(
        frame=by_id,
        every=tuple(every),
        chosen=tuple(chosen),
        shown=tuple(published(chosen)),
        difference=Differences(groups, folders),
        costs={cell.place: cost(cell, narrow) for cell in every},
    )


def best(found: Sequence[Cell]) -> Cell | None:
    """The cell with the highest figure."""
    return max(found, key=lambda cell: cell.mean, default=None)


def against(findings: Findings, cell: Cell, other: Cell | None) -> Difference | None:
    """A cell less another one; None where there is no other."""
    return findings.difference(cell, other) if other is not None and other is not cell else None


def _kin(cell: Cell) -> tuple[str, str, str, str, int]:
    """What a variant has in common with the whole method."""
    return cell.target, cell.evaluation, cell.strategy, cell.origin, cell.steps


def _by_arm(found: Sequence[Cell]) -> list[tuple[str, list[Cell]]]:
    arms = dict.fromkeys(cell.arm for cell in found)
    return [(arm, [cell for cell in found if cell.arm == arm]) for arm in arms]
