"""What follows from the results: differences, verdicts, speed-ups and costs. Page and formats put them into words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pandas as pd

from hpt.statistics import SpeedUp, speed_up
from hptctl.compare.differences import Difference, Differences
from hptctl.report.cost import OF_A_COST, PretrainingCost, cost
from hptctl.report.names import arm_order, evaluation_order
from hptctl.report.results import Result, at_best_length, published, results

FURTHER = ("target", "hpt", "hpt-bn")
"""Strategies that train on the target images; `base` does not."""


@dataclass(frozen=True)
class Faster:
    """How much longer `target` must train to reach the figure of another strategy."""

    result: Result
    speed_up: SpeedUp
    slowest: SpeedUp | None
    """The speed-up for the figure less its spread; None where the spread is not known."""
    fastest: SpeedUp | None
    """The speed-up for the figure plus its spread; None where the spread is not known."""


@dataclass(frozen=True)
class Score:
    """On how many datasets one arm was better than another, level with it, and worse."""

    wins: int
    ties: int
    losses: int


@dataclass(frozen=True)
class Findings:
    """The runs (`frame`, indexed by run id), their results, and what follows from them."""

    frame: pd.DataFrame
    every: tuple[Result, ...]
    """Every result, by evaluation in the order of their weight."""
    chosen: tuple[Result, ...]
    """For each arm the result at the length of pretraining that val chose."""
    shown: tuple[Result, ...]
    """Those of the method as published, which are compared over datasets."""
    difference: Differences
    costs: dict[tuple[str, str, str, int], PretrainingCost]
    """The cost of each result, by its place."""

    @property
    def targets(self) -> list[str]:
        """Datasets, each with what tells it apart from others of its name."""
        return sorted({result.target for result in self.every})

    @property
    def evaluations(self) -> list[str]:
        return list(dict.fromkeys(result.evaluation for result in self.every))

    def rivals(self, target: str) -> list[Result]:
        """The results that answer for a dataset: of its weightiest evaluation, for backbones that saw its images."""
        mine = [result for result in self.shown if result.target == target]
        first = [result for result in mine if result.evaluation == mine[0].evaluation]
        return [result for result in first if result.own] or first

    def further(self, target: str) -> tuple[Result | None, Result | None]:
        """The best further pretraining, and the base that it is compared with."""
        found = self.rivals(target)
        bases = [result for result in found if result.strategy == "base"]
        trained = [result for result in found if result.strategy in FURTHER]
        return best(trained), best(bases)

    def beside(self, result: Result) -> list[Result]:
        """The results of the tables on the same dataset under the same evaluation."""
        return [each for each in self.shown if (each.target, each.evaluation) == (result.target, result.evaluation)]

    def less_base(self, result: Result) -> Difference | None:
        """A result less that of the base; None where the base is missing, and for the base itself."""
        bases = [each for each in self.beside(result) if each.strategy == "base" and each.own]
        return against(self, result, best(bases))

    def verdict(self, target: str) -> str:
        """gain, tie or loss of the best further pretraining against `base`; open where either is missing."""
        trained, base = self.further(target)
        if trained is None or base is None:
            return "open"
        found = self.difference(trained, base)
        return "tie" if found.tie else "gain" if found.points > 0 else "loss"

    def wholes(self, variants: Sequence[Result]) -> list[Result]:
        """What these are variants of: the whole method from the same start, after as many steps."""
        wanted = {_kin(result) for result in variants}
        return [result for result in self.every if not result.variant and result.own and _kin(result) in wanted]

    def scores(self, evaluation: str) -> dict[tuple[str, str], Score]:
        """The score of each arm (first) against each other (second), over the datasets that have both."""
        counts: dict[tuple[str, str], list[int]] = {}
        mine = [result for result in self.shown if result.evaluation == evaluation and result.own]
        for a in mine:
            for b in mine:
                if a.target == b.target and a.arm != b.arm:
                    found = self.difference(a, b)
                    at = 1 if found.tie else 0 if found.points > 0 else 2
                    counts.setdefault((a.arm, b.arm), [0, 0, 0])[at] += 1
        return {pair: Score(*each) for pair, each in counts.items()}

    def faster(self, target: str) -> list[Faster]:
        """hpt and hpt-bn at each length against the curve of `target`, under the evaluation that answers."""
        rivals = self.rivals(target)
        mine = [
            result
            for result in self.every
            if (result.target, result.evaluation) == (target, rivals[0].evaluation)
            and result.own and not result.variant and result.steps
        ]  # fmt: skip
        curves = [
            [(c.steps, c.mean) for c in some]
            for _, some in _by_arm([result for result in mine if result.strategy == "target"])
        ]
        if not curves:
            return []
        curve = max(curves, key=lambda points: (len(points), max(points)))
        return [
            Faster(
                result,
                speed_up(result.steps, result.mean, curve),
                *(
                    speed_up(result.steps, result.mean + sign * result.spread, curve)
                    if math.isfinite(result.spread)
                    else None
                    for sign in (-1, 1)
                ),
            )
            for result in mine
            if result.strategy in {"hpt", "hpt-bn"}
        ]


def gather(frame: pd.DataFrame) -> Findings:
    """Results, differences and costs of the runs (`frame.tidy`); reads the predictions that they kept."""
    by_id = frame.set_index("run_id", drop=False)
    every = sorted(results(frame), key=lambda c: (evaluation_order(c.evaluation), arm_order(c.arm), c.target, c.steps))
    chosen = at_best_length(every)
    folders = {str(id): Path(folder) for id, folder in by_id["folder"].items() if folder}
    kin = {_kin(result) for result in every if result.variant}
    compared = [*chosen, *(result for result in every if _kin(result) in kin and result not in chosen)]
    in_order = sorted(compared, key=lambda c: (c.target, c.evaluation))
    groups = [list(some) for _, some in groupby(in_order, key=lambda c: (c.target, c.evaluation))]
    # As dictionaries, since 300 look-ups in a frame take half a second.
    narrow = by_id.reindex(columns=list(OF_A_COST)).to_dict("index")
    return Findings(
        frame=by_id,
        every=tuple(every),
        chosen=tuple(chosen),
        shown=tuple(published(chosen)),
        difference=Differences(groups, folders),
        costs={result.place: cost(result, narrow) for result in every},
    )


def best(found: Sequence[Result]) -> Result | None:
    """The result with the highest figure."""
    return max(found, key=lambda result: result.mean, default=None)


def against(findings: Findings, result: Result, other: Result | None) -> Difference | None:
    """A result less another one; None where that is missing or the same."""
    return findings.difference(result, other) if other is not None and other is not result else None


def _kin(result: Result) -> tuple[str, str, str, str, int]:
    """What a variant has in common with the whole method."""
    return result.target, result.evaluation, result.strategy, result.origin, result.steps


def _by_arm(found: Sequence[Result]) -> list[tuple[str, list[Result]]]:
    arms = dict.fromkeys(result.arm for result in found)
    return [(arm, [result for result in found if result.arm == arm]) for arm in arms]
