"""Across datasets: what is lost with fewer augmentations or images, chains over a source, and what it cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from hpt.config import POLICIES
from hptctl.charts import svg as charts
from hptctl.charts.drawing import draw
from hptctl.charts.svg import percent
from hptctl.report import words
from hptctl.report.findings import Findings, against, best
from hptctl.report.frame import Cell, arm_order
from hptctl.report.words import Chart, Link


@dataclass(frozen=True)
class Loss:
    """A figure, and what it lacks to that of the whole method."""

    figure: Link
    lost: str
    """In points, with the interval; nothing where the whole method has not been run."""


@dataclass(frozen=True)
class Study:
    """Strategies x what was taken away, on one dataset."""

    target: str
    evaluation: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[Loss | None, ...]], ...]
    """(arm, strategy, a figure for each column)."""
    chart: Chart


@dataclass(frozen=True)
class Chain:
    """One way to a dataset."""

    datasets: str
    strategy: str
    arm: str
    steps: int
    figure: Link
    against_direct: str
    """In points, with the interval; nothing for the direct way itself."""


@dataclass(frozen=True)
class Chains:
    target: str
    evaluation: str
    metric: str
    rows: tuple[Chain, ...]


@dataclass(frozen=True)
class Spent:
    """What a figure of the tables cost."""

    target: str
    arm: str
    strategy: str
    figure: Link
    evaluation: str
    steps: int
    images: str
    hours: str
    energy: str
    hardware: str


def policies(findings: Findings) -> tuple[Study, ...]:
    """Of each dataset that was pretrained with fewer augmentations."""
    order = list(POLICIES)
    variants = [cell for cell in findings.every if cell.policy != "baseline" and cell.share == 1]
    return _studies(
        findings,
        variants,
        lambda cell: order.index(cell.policy) if cell.policy in order else len(order),
        lambda cell: cell.policy,
        "policy",
    )


def shares(findings: Findings) -> tuple[Study, ...]:
    """Of each dataset that was pretrained on a part of its images."""
    variants = [cell for cell in findings.every if cell.share < 1 and cell.policy == "baseline"]
    return _studies(findings, variants, lambda cell: cell.share, lambda cell: f"{100 * cell.share:g} %", "share")


def chains(findings: Findings) -> tuple[Chains, ...]:
    """Of each dataset that was reached over another one."""
    out = []
    for (target, evaluation), mine in _groups([cell for cell in findings.shown if cell.own]):
        trained = [cell for cell in mine if cell.strategy != "base"]
        if not any(len(cell.chain) > 1 for cell in trained):
            continue
        rows = []
        for cell in mine:
            direct = best([c for c in mine if c.strategy == cell.strategy and len(c.chain) < 2])
            over = against(findings, cell, direct) if len(cell.chain) > 1 else None
            start = "random" if cell.strategy == "target" else "base"
            ways = cell.chain if cell.strategy != "base" or len(cell.chain) > 1 else ()
            rows.append(
                Chain(
                    datasets=" → ".join((start, *ways)),
                    strategy=cell.strategy,
                    arm=cell.arm,
                    steps=cell.steps,
                    figure=Link(percent(cell.mean), cell.run_ids[0]),
                    against_direct="" if over is None else _said(over.points, words.interval(over), over.tie),
                )
            )
        out.append(Chains(target, evaluation, words.metric(mine[0].metric), tuple(rows)))
    return tuple(out)


def costs(findings: Findings) -> tuple[Spent, ...]:
    """Of each figure of the tables, of the evaluation that answers for its dataset."""
    out = []
    for target in findings.targets:
        for cell in findings.rivals(target):
            spent = findings.costs[cell.place]
            out.append(
                Spent(
                    target=target,
                    arm=cell.arm,
                    strategy=cell.strategy,
                    figure=Link(percent(cell.mean), cell.run_ids[0]),
                    evaluation=cell.evaluation,
                    steps=cell.steps,
                    images=words.images(spent.images),
                    hours=words.hours(spent.hours),
                    energy=words.energy(spent.energy),
                    hardware=spent.hardware,
                )
            )
    return tuple(out)


def _studies(
    findings: Findings, variants: Sequence[Cell], order: Callable[[Cell], float], name: Callable[[Cell], str], key: str
) -> tuple[Study, ...]:
    """Each variant beside the whole method from the same start, of as many steps."""
    out: list[Study] = []
    both = [*(cell for cell in variants if cell.own), *findings.wholes(variants)]
    for (target, evaluation), cells in _groups(both):
        names = list(dict.fromkeys(name(cell) for cell in sorted(cells, key=order)))
        starts = Counter(strategy for strategy, _ in {(cell.strategy, cell.origin) for cell in cells})
        rows, lines = [], []
        for (strategy, origin, steps), some in _alike(cells):
            mine = {name(cell): cell for cell in some}
            whole = next((cell for cell in some if not cell.variant), None)
            arm = strategy + (f" from {origin}" if starts[strategy] > 1 else "")
            losses = tuple(_loss(findings, mine[column], whole) if column in mine else None for column in names)
            rows.append((f"{arm}, {steps:,} steps", strategy, losses))
            points = tuple(sorted((float(names.index(n)), c.mean, c.spread) for n, c in mine.items()))
            lines.append(charts.Line(arm, strategy, points))
        metric = words.metric(cells[0].metric)
        said = "; ".join(
            f"{line.arm} " + ", ".join(f"{percent(y)} with {names[int(x)]}" for x, y, _ in line.points)
            for line in lines
        )
        alt = f"Test {metric} on {target}, {evaluation}: {said}"
        svg = draw(charts.over, names, lines, metric, alt, f"{key}-{len(out)}")
        out.append(Study(target, evaluation, tuple(names), tuple(rows), Chart(svg, f"{target}, {evaluation}")))
    return tuple(out)


def _alike(cells: Sequence[Cell]) -> list[tuple[tuple[str, str, int], list[Cell]]]:
    """Cells by strategy, start and steps, in the order of the strategies."""
    ordered = sorted(cells, key=lambda c: (arm_order(c.strategy), c.origin, c.steps))
    return [(k, list(some)) for k, some in groupby(ordered, key=lambda c: (c.strategy, c.origin, c.steps))]


def _groups(found: Sequence[Cell]) -> list[tuple[tuple[str, str], list[Cell]]]:
    """Cells by target and evaluation."""
    ordered = sorted(found, key=lambda cell: (cell.target, cell.evaluation))
    return [(key, list(some)) for key, some in groupby(ordered, key=lambda cell: (cell.target, cell.evaluation))]


def _loss(findings: Findings, cell: Cell, whole: Cell | None) -> Loss:
    by = against(findings, cell, whole)
    lost = _said(by.points, words.interval(by), by.tie) if by is not None else "" if cell.variant else "the whole"
    return Loss(Link(percent(cell.mean), cell.run_ids[0]), lost)


def _said(points: float, interval: str, tie: bool) -> str:
    inside = "; ".join(part for part in (interval, "tie" if tie else "") if part)
    return f"{words.signed(points)}{f' ({inside})' if inside else ''}"
