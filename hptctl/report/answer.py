"""The first screen: the answer of the runs as a sentence and a chart, then dataset by dataset."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hpt.metrics import in_words
from hpt.strategies import STRATEGIES
from hptctl.charts.bars import Bar, bars
from hptctl.charts.drawing import Chart, draw
from hptctl.compare.differences import Difference
from hptctl.format import (
    above_or_below,
    compact,
    count,
    hours,
    interval,
    listed,
    points,
    roughly,
    signed,
    thousands,
    unbroken,
    with_spread,
)
from hptctl.report.findings import Findings, best
from hptctl.report.names import MISSING
from hptctl.report.results import Result, RunLink


@dataclass(frozen=True)
class Rival:
    """An arm that the best one is compared with."""

    arm: str
    points: str
    """`3.1 points above`, or `level with`."""
    tie: bool
    interval: str
    """The ends of the 95 % interval, in points; empty where the spread decided."""


@dataclass(frozen=True)
class Answer:
    """Whether further pretraining helps on one dataset."""

    section: str
    target: str
    verdict: str
    """gain, tie, loss or open: how the best further pretraining compares with `base`."""
    arm: str
    figure: RunLink
    steps: int
    cost: str
    """Images seen, and hours on which hardware; empty where neither is known."""
    metric: str
    evaluation: str
    rivals: tuple[Rival, ...]
    missing: tuple[str, ...]
    single_seeds: tuple[str, ...]
    """Arms with a single seed; `all` where every arm has a single seed."""
    chart: Chart


def answer(findings: Findings, target: str, section: str) -> Answer:
    """The answer for one dataset, whose section has the id `section`."""
    rivals = findings.rivals(target)
    top = best(rivals)
    assert top is not None
    others = [result for result in rivals if result is not top]
    spent = findings.costs[top.place]
    alone = tuple(result.arm for result in rivals if result.std is None)
    compared = [result for result in findings.shown if result.target == target and result.evaluation == top.evaluation]
    return Answer(
        section=section,
        target=target,
        verdict=findings.verdict(target),
        arm=top.arm,
        figure=top.link,
        steps=top.steps,
        cost=", ".join(
            part
            for part in (
                f"{roughly(spent.images)} images" if spent.images > 0 else "",
                f"{hours(spent.hours)} on {spent.hardware}" if spent.hours > 0 and spent.hardware else "",
            )
            if part
        ),
        metric=in_words(top.metric),
        evaluation=top.evaluation,
        rivals=tuple(_rival(result.arm, findings.difference(top, result)) for result in others),
        missing=tuple(name for name in ("base", "target") if name not in {result.strategy for result in rivals}),
        single_seeds=("all",) if len(alone) == len(rivals) else alone,
        chart=_arms(compared, section),
    )


def lead(answers: Sequence[Answer]) -> str:
    """The answer over all datasets, as one sentence."""
    said = {
        "gain": "yes on {}",
        "tie": "a tie within noise on {}",
        "loss": "no on {}",
        "open": "not answered on {}, which lacks base or a further pretraining",
    }
    parts = []
    for verdict, text in said.items():
        names = [each.target for each in answers if each.verdict == verdict]
        if names:
            several = f"{len(names)} of {count(len(answers), 'dataset')}"
            parts.append(text.format(" and ".join(names) if len(names) < 3 else several))
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def winners(findings: Findings) -> str:
    """On how many datasets each strategy is best or level with the best; empty where no dataset has two results."""
    counts = dict.fromkeys(STRATEGIES, 0)
    contested = [target for target in findings.targets if len(findings.rivals(target)) > 1]
    for target in contested:
        rivals = findings.rivals(target)
        top = best(rivals)
        assert top is not None
        level = {result.strategy for result in rivals if result is top or findings.difference(result, top).tie}
        for strategy in level & set(counts):
            counts[strategy] += 1
    said = [f"{strategy} on {wins}" for strategy, wins in sorted(counts.items(), key=lambda each: -each[1]) if wins]
    return f"Best, or level with the best: {listed(said)} of {count(len(contested), 'dataset')}." if said else ""


def picture(findings: Findings) -> Chart | None:
    """A chart of the best further pretraining less the base, by dataset; None where no dataset has both."""
    found, said = [], []
    for target in findings.targets:
        trained, base = findings.further(target)
        if trained is None or base is None:
            found.append(Bar(target, "", math.nan, math.nan, math.nan, MISSING))
            said.append(f"{target}: no comparison, {'base' if base is None else 'further pretraining'} is missing")
            continue
        by = findings.difference(trained, base)
        low, high = _ends(by, max(trained.spread, base.spread))
        label = f"{signed(by.points)} {trained.strategy} {compact(trained.steps)}{' tie' if by.tie else ''}"
        found.append(Bar(target, trained.strategy, by.points, low, high, label))
        span = f" (95 % interval {interval(by.low, by.high)})" if by.measured else ""
        said.append(
            f"{target}: {trained.arm} after {thousands(trained.steps)} steps"
            f" {signed(by.points)} points against base{span}"
            f"{', a tie' if by.tie else ''}"
        )
    if all(math.isnan(bar.value) for bar in found):
        return None
    alt = f"What the best further pretraining brings over base, in points of the test figure. {'; '.join(said)}"
    caption = (
        "The best further pretraining, after how many steps, and what it brings over base: points of the test figure"
    )
    return Chart(draw(bars, found, alt, "picture", differences=True), caption)


def _ends(by: Difference, spread: float) -> tuple[float, float]:
    return (by.low, by.high) if by.measured else (by.points - spread, by.points + spread)


def _rival(arm: str, by: Difference) -> Rival:
    span = f"{points(by.low)} to {points(by.high)}" if by.measured else ""
    return Rival(arm, above_or_below(by.points), by.tie, span)


def _arms(compared: Sequence[Result], key: str) -> Chart:
    found = bars_of(compared)
    first = compared[0]
    metric = in_words(first.metric)
    figures = "; ".join(f"{bar.name} {bar.label}" for bar in found)
    alt = f"Test {metric} on {first.target}, {first.evaluation}: {figures}"
    return Chart(draw(bars, found, alt, f"{key}-arms"), f"Test {metric}, {first.evaluation}")


def bars_of(compared: Sequence[Result]) -> list[Bar]:
    """A row for each result, with one spread to either side."""
    return [
        Bar(
            result.arm,
            result.strategy,
            result.mean,
            result.mean - result.spread,
            result.mean + result.spread,
            unbroken(with_spread(result.mean, result.std)),
        )
        for result in compared
    ]
