"""Strategies by dataset, and strategies against each other."""

from __future__ import annotations

from dataclasses import dataclass

from hpt.metrics import in_words
from hpt.strategies import STRATEGIES
from hptctl.compare.differences import RESERVES, PairVerdict
from hptctl.format import spread
from hptctl.report.findings import Findings, best
from hptctl.report.names import MISSING, arm_order
from hptctl.report.results import Result, RunLink

MARKS = {"best": "val's choice", "tie": "tie", "not-sure": RESERVES["not sure"], "unsure": "one seed"}
"""What the marks of figures say."""
_MARK: dict[PairVerdict, str] = {"tie": "tie", "not sure": "not-sure", "ahead": "unsure", "behind": "unsure"}


@dataclass(frozen=True)
class TableFigure:
    """A result, as a table shows it."""

    value: str
    std: str
    """`± 0.4`; empty for a single seed."""
    runs: tuple[RunLink, ...]
    steps: int
    mark: str
    """`best` by val; `tie`: not told apart from it on test; `not-sure`: told apart alone, but not among all verdicts;
    `unsure`: seems worse or better, of one seed; or empty."""
    seeds: str
    """`single seed`, `3 seeds`."""

    @property
    def said(self) -> str:
        """The mark in words; empty without one."""
        return MARKS.get(self.mark, "")


@dataclass(frozen=True)
class ArmRow:
    """An arm's figures, one for each column of the table."""

    arm: str
    strategy: str
    figures: tuple[TableFigure | None, ...]


@dataclass(frozen=True)
class Table:
    """Arms by datasets, under one evaluation."""

    evaluation: str
    columns: tuple[tuple[str, str], ...]
    """(dataset, metric)."""
    rows: tuple[ArmRow, ...]


@dataclass(frozen=True)
class Matrix:
    """Wins / ties / losses of each arm (row) against each other (column) over datasets, under one evaluation."""

    evaluation: str
    arms: tuple[tuple[str, str], ...]
    """(arm, strategy)."""
    rows: tuple[tuple[str, ...], ...]
    """`5 / 1 / 0`; `missing` where no dataset has both arms; empty for an arm against itself."""


def table(findings: Findings, evaluation: str) -> Table:
    """Every strategy on every dataset that has this evaluation, with gaps where results are missing."""
    shown = [result for result in findings.shown if result.evaluation == evaluation]
    targets = sorted({result.target for result in shown})
    by_place = {(result.arm, result.target): result for result in shown}
    metrics = {result.target: result.metric for result in reversed(shown)}
    # A strategy that was not run keeps its row, so that the gap is seen.
    found = {result.arm: result.strategy for result in shown}
    found |= {name: name for name in STRATEGIES if name not in found.values()}
    rows = tuple(
        ArmRow(
            arm,
            found[arm],
            tuple(figure(findings, result) if (result := by_place.get((arm, t))) else None for t in targets),
        )
        for arm in sorted(found, key=arm_order)
    )
    return Table(evaluation, tuple((t, in_words(metrics[t])) for t in targets), rows)


def figure(findings: Findings, result: Result) -> TableFigure:
    """A result among those beside it, of which it may be the one that val chose, or not told apart from it."""
    rivals = findings.beside(result)
    top = best(rivals)
    mark = ""
    if top is not None and result in rivals and len(rivals) > 1:  # a single result has no rank
        mark = "best" if result is top else _MARK.get(findings.difference(result, top).verdict, "")
    return TableFigure(
        value=result.figure,
        std=spread(result.std),
        runs=tuple(RunLink(seed or "run", run_id) for seed, run_id in zip(result.seeds, result.run_ids, strict=True)),
        steps=result.steps,
        mark=mark,
        seeds="single seed" if len(result.figures) == 1 else f"{len(result.figures)} seeds",
    )


def matrix(findings: Findings, evaluation: str) -> Matrix | None:
    """The matrix of scores under one evaluation; None where no dataset has two arms."""
    scores = findings.scores(evaluation)
    if not scores:
        return None
    arms = sorted({arm for pair in scores for arm in pair}, key=arm_order)
    strategies = {result.arm: result.strategy for result in findings.shown}

    def words_of(row: str, column: str) -> str:
        found = scores.get((row, column))
        if row == column:
            return ""
        return f"{found.wins} / {found.ties} / {found.losses}" if found else MISSING

    rows = tuple(tuple(words_of(row, column) for column in arms) for row in arms)
    return Matrix(evaluation, tuple((arm, strategies[arm]) for arm in arms), rows)
