"""Across datasets: the loss with fewer augmentations or images, chains over a source dataset, and costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from hpt.config import POLICIES
from hpt.metrics import in_words
from hptctl.charts.curves import Line, over
from hptctl.charts.drawing import Chart, draw
from hptctl.compare.differences import Difference
from hptctl.format import energy, hours, interval, percent, roughly, round_percent, signed, thousands, unbroken
from hptctl.report.findings import Findings, against, best
from hptctl.report.names import arm_order
from hptctl.report.results import Result, RunLink


@dataclass(frozen=True)
class Variant:
    """The figure of a variant, and its difference from the whole method."""

    figure: RunLink
    lost: str
    """The difference in points, with its interval; empty where the whole method has not been run."""


@dataclass(frozen=True)
class Robustness:
    """Strategies by what was taken away from them, on one dataset."""

    target: str
    evaluation: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[Variant | None, ...]], ...]
    """(arm, strategy, a figure for each column)."""
    chart: Chart


@dataclass(frozen=True)
class Chain:
    """One sequence of datasets that ends at the target."""

    datasets: str
    strategy: str
    arm: str
    steps: int
    figure: RunLink
    against_direct: str
    """The difference from the direct way in points, with its interval; empty for the direct way itself."""


@dataclass(frozen=True)
class Chains:
    """The direct ways to a dataset, and those over another one."""

    target: str
    evaluation: str
    metric: str
    rows: tuple[Chain, ...]


@dataclass(frozen=True)
class CostRow:
    """What a figure of the tables cost."""

    target: str
    arm: str
    strategy: str
    figure: RunLink
    evaluation: str
    steps: int
    images: str
    hours: str
    energy: str
    hardware: str


def policies(findings: Findings) -> tuple[Robustness, ...]:
    """The datasets that were pretrained on with fewer augmentations."""
    order = list(POLICIES)
    variants = [result for result in findings.every if result.policy != "baseline" and result.share == 1]
    return _robustness(
        findings,
        variants,
        lambda result: order.index(result.policy) if result.policy in order else len(order),
        lambda result: result.policy,
        "policy",
    )


def shares(findings: Findings) -> tuple[Robustness, ...]:
    """The datasets that were pretrained on with a part of their images."""
    variants = [result for result in findings.every if result.share < 1 and result.policy == "baseline"]
    return _robustness(
        findings, variants, lambda result: result.share, lambda result: round_percent(result.share), "share"
    )


def chains(findings: Findings) -> tuple[Chains, ...]:
    """The datasets that were reached over another one."""
    out = []
    for (target, evaluation), mine in _groups([result for result in findings.shown if result.own]):
        trained = [result for result in mine if result.strategy != "base"]
        if not any(len(result.chain) > 1 for result in trained):
            continue
        rows = []
        for result in mine:
            direct = best([c for c in mine if c.strategy == result.strategy and len(c.chain) < 2])
            over = against(findings, result, direct) if len(result.chain) > 1 else None
            start = "random" if result.strategy == "target" else "base"
            ways = result.chain if result.strategy != "base" or len(result.chain) > 1 else ()
            rows.append(
                Chain(
                    datasets=" → ".join((start, *ways)),
                    strategy=result.strategy,
                    arm=result.arm,
                    steps=result.steps,
                    figure=result.link,
                    against_direct="" if over is None else _said(over),
                )
            )
        out.append(Chains(target, evaluation, in_words(mine[0].metric), tuple(rows)))
    return tuple(out)


def costs(findings: Findings) -> tuple[CostRow, ...]:
    """The cost of each result that answers for its dataset."""
    out = []
    for target in findings.targets:
        for result in findings.rivals(target):
            spent = findings.costs[result.place]
            out.append(
                CostRow(
                    target=target,
                    arm=result.arm,
                    strategy=result.strategy,
                    figure=result.link,
                    evaluation=result.evaluation,
                    steps=result.steps,
                    images=roughly(spent.images),
                    hours=hours(spent.hours),
                    energy=energy(spent.energy),
                    hardware=spent.hardware,
                )
            )
    return tuple(out)


def _robustness(
    findings: Findings,
    variants: Sequence[Result],
    order: Callable[[Result], float],
    name: Callable[[Result], str],
    key: str,
) -> tuple[Robustness, ...]:
    """Each variant beside the whole method from the same start, after as many steps."""
    out: list[Robustness] = []
    both = [*(result for result in variants if result.own), *findings.wholes(variants)]
    for (target, evaluation), results in _groups(both):
        names = list(dict.fromkeys(name(result) for result in sorted(results, key=order)))
        starts = Counter(strategy for strategy, _ in {(result.strategy, result.origin) for result in results})
        rows, lines = [], []
        for (strategy, origin, steps), some in _alike(results):
            mine = {name(result): result for result in some}
            whole = next((result for result in some if not result.variant), None)
            arm = strategy + (f" from {origin}" if starts[strategy] > 1 else "")
            losses = tuple(_loss(findings, mine[column], whole) if column in mine else None for column in names)
            rows.append((f"{arm}, {thousands(steps)} steps", strategy, losses))
            points = tuple(sorted((float(names.index(n)), c.mean, c.spread) for n, c in mine.items()))
            lines.append(Line(arm, strategy, points))
        metric = in_words(results[0].metric)
        said = "; ".join(
            f"{line.arm} " + ", ".join(f"{unbroken(percent(y))} with {names[int(x)]}" for x, y, _ in line.points)
            for line in lines
        )
        alt = f"Test {metric} on {target}, {evaluation}: {said}"
        svg = draw(over, names, lines, metric, alt, f"{key}-{len(out)}")
        out.append(Robustness(target, evaluation, tuple(names), tuple(rows), Chart(svg, f"{target}, {evaluation}")))
    return tuple(out)


def _alike(results: Sequence[Result]) -> list[tuple[tuple[str, str, int], list[Result]]]:
    """Results by strategy, start and steps, in the order of the strategies."""
    ordered = sorted(results, key=lambda c: (arm_order(c.strategy), c.origin, c.steps))
    return [(k, list(some)) for k, some in groupby(ordered, key=lambda c: (c.strategy, c.origin, c.steps))]


def _groups(found: Sequence[Result]) -> list[tuple[tuple[str, str], list[Result]]]:
    """Results by target and evaluation."""
    ordered = sorted(found, key=lambda result: (result.target, result.evaluation))
    return [(key, list(some)) for key, some in groupby(ordered, key=lambda result: (result.target, result.evaluation))]


def _loss(findings: Findings, result: Result, whole: Result | None) -> Variant:
    by = against(findings, result, whole)
    lost = _said(by) if by is not None else "" if result.variant else "the whole"
    return Variant(result.link, lost)


def _said(by: Difference) -> str:
    """A difference in points, with its interval: `−1.3 (−2.0 to −0.5)`, `+0.2 (tie)`."""
    inside = "; ".join(part for part in (interval(by.low, by.high), by.reserve) if part)
    return f"{signed(by.points)}{f' ({inside})' if inside else ''}"
