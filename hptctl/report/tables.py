"""Strategies by dataset, and strategies against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hpt.strategies import STRATEGIES
from hptctl.charts.svg import percent
from hptctl.report import words
from hptctl.report.findings import Findings, best
from hptctl.report.frame import Cell, arm_order
from hptctl.report.words import Link


@dataclass(frozen=True)
class Figure:
    """One cell of a table."""

    value: str
    std: str
    """`± 0.4`, or nothing for a single seed."""
    runs: tuple[Link, ...]
    steps: int
    mark: str
    """best, tie (with the best) or nothing."""

    @property
    def seeds(self) -> str:
        return "single seed" if len(self.runs) == 1 else f"{len(self.runs)} seeds"


@dataclass(frozen=True)
class Row:
    arm: str
    strategy: str
    figures: tuple[Figure | None, ...]


@dataclass(frozen=True)
class Table:
    """Arms x datasets under one evaluation."""

    evaluation: str
    columns: tuple[tuple[str, str], ...]
    """(dataset, metric)."""
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Matrix:
    """Wins / ties / losses of each arm (row) against each other (column), over datasets, under one evaluation."""

    evaluation: str
    arms: tuple[tuple[str, str], ...]
    """(arm, strategy)."""
    rows: tuple[tuple[str, ...], ...]
    """`5 / 1 / 0`; `missing` where no dataset has both; nothing against itself."""


def table(findings: Findings, evaluation: str) -> Table:
    """Every strategy on every dataset that has been evaluated so, with gaps where there is nothing."""
    shown = [cell for cell in findings.shown if cell.evaluation == evaluation]
    targets = sorted({cell.target for cell in shown})
    by_place = {(cell.arm, cell.target): cell for cell in shown}
    rivals = {t: [c for c in shown if c.target == t] for t in targets}
    # A strategy keeps its row where nobody has run it: a gap that shows is a gap that gets filled.
    found = {cell.arm: cell.strategy for cell in shown}
    found |= {name: name for name in STRATEGIES if name not in found.values()}
    rows = tuple(
        Row(
            arm,
            found[arm],
            tuple(figure(findings, cell, rivals[t]) if (cell := by_place.get((arm, t))) else None for t in targets),
        )
        for arm in sorted(found, key=arm_order)
    )
    return Table(evaluation, tuple((t, words.metric(rivals[t][0].metric)) for t in targets), rows)


def figure(findings: Findings, cell: Cell, rivals: Sequence[Cell]) -> Figure:
    """A cell among its rivals, of which it may be the best or tie with it."""
    top = best(rivals)
    mark = ""
    if top is not None and cell in rivals and len(rivals) > 1:  # the best of one is no news
        mark = "best" if cell is top else "tie" if findings.difference(cell, top).tie else ""
    return Figure(
        value=percent(cell.mean),
        std="" if cell.std is None else f"± {100 * cell.std:.1f}",
        runs=tuple(Link(seed or "run", run_id) for seed, run_id in zip(cell.seeds, cell.run_ids, strict=True)),
        steps=cell.steps,
        mark=mark,
    )


def matrix(findings: Findings, evaluation: str) -> Matrix | None:
    """None where no two arms meet on any dataset."""
    scores = findings.scores(evaluation)
    if not scores:
        return None
    arms = sorted({arm for pair in scores for arm in pair}, key=arm_order)
    strategies = {cell.arm: cell.strategy for cell in findings.shown}

    def words_of(row: str, column: str) -> str:
        found = scores.get((row, column))
        if row == column:
            return ""
        return f"{found.wins} / {found.ties} / {found.losses}" if found else words.MISSING

    rows = tuple(tuple(words_of(row, column) for column in arms) for row in arms)
    return Matrix(evaluation, tuple((arm, strategies[arm]) for arm in arms), rows)
