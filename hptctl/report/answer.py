"""The first screen: what the runs answer, in a sentence and a picture, then dataset by dataset."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hpt.strategies import STRATEGIES
from hptctl.charts import svg as charts
from hptctl.charts.drawing import draw
from hptctl.charts.svg import percent
from hptctl.compare.intervals import Difference
from hptctl.report import words
from hptctl.report.findings import Findings, best
from hptctl.report.frame import Cell
from hptctl.report.words import Chart, Link


@dataclass(frozen=True)
class Comparison:
    """The best arm against another one."""

    arm: str
    points: str
    """`3.1 points above`, or `level with`."""
    tie: bool
    interval: str
    """95 %; nothing where the spread decided."""


@dataclass(frozen=True)
class Answer:
    """Whether further pretraining helps on one dataset."""

    section: str
    target: str
    verdict: str
    """gain, tie, loss or open: the best further pretraining against `base`."""
    arm: str
    figure: Link
    steps: int
    cost: str
    """Images seen, and hours of what; nothing where it is not known."""
    metric: str
    evaluation: str
    comparisons: tuple[Comparison, ...]
    missing: tuple[str, ...]
    single_seeds: tuple[str, ...]
    """Arms of one seed, where not all of them are; `all` where they are."""
    chart: Chart


def answer(findings: Findings, target: str, section: str) -> Answer:
    """The answer for one dataset, whose section has the id `section`."""
    rivals = findings.rivals(target)
    top = best(rivals)
    assert top is not None
    others = [cell for cell in rivals if cell is not top]
    spent = findings.costs[top.place]
    alone = tuple(cell.arm for cell in rivals if cell.std is None)
    compared = [cell for cell in findings.shown if cell.target == target and cell.evaluation == top.evaluation]
    return Answer(
        section=section,
        target=target,
        verdict=findings.verdict(target),
        arm=top.arm,
        figure=Link(percent(top.mean), top.run_ids[0]),
        steps=top.steps,
        cost=", ".join(
            part
            for part in (
                f"{words.images(spent.images)} images" if spent.images > 0 else "",
                f"{words.hours(spent.hours)} on {spent.hardware}" if spent.hours > 0 and spent.hardware else "",
            )
            if part
        ),
        metric=words.metric(top.metric),
        evaluation=top.evaluation,
        comparisons=tuple(_comparison(cell.arm, findings.difference(top, cell)) for cell in others),
        missing=tuple(name for name in ("base", "target") if name not in {cell.strategy for cell in rivals}),
        single_seeds=("all",) if len(alone) == len(rivals) else alone,
        chart=_arms(compared, section),
    )


def lead(answers: Sequence[Answer]) -> str:
    """The answer over all datasets, in a sentence."""
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
            several = f"{len(names)} of {words.count(len(answers), 'dataset')}"
            parts.append(text.format(" and ".join(names) if len(names) < 3 else several))
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def winners(findings: Findings) -> str:
    """How many datasets each strategy is best on, or level with the best; nothing where none has a rival."""
    counts = dict.fromkeys(STRATEGIES, 0)
    contested = [target for target in findings.targets if len(findings.rivals(target)) > 1]
    for target in contested:
        rivals = findings.rivals(target)
        top = best(rivals)
        assert top is not None
        level = {cell.strategy for cell in rivals if cell is top or findings.difference(cell, top).tie}
        for strategy in level & set(counts):
            counts[strategy] += 1
    said = [f"{strategy} on {count}" for strategy, count in sorted(counts.items(), key=lambda each: -each[1]) if count]
    return (
        f"Best, or level with the best: {words.listed(said)} of {words.count(len(contested), 'dataset')}."
        if said
        else ""
    )


def picture(findings: Findings) -> Chart | None:
    """For each dataset the best further pretraining less the base; None where no dataset has both."""
    found, said = [], []
    for target in findings.targets:
        trained, base = findings.further(target)
        if trained is None or base is None:
            found.append(charts.Bar(target, "", math.nan, math.nan, math.nan, words.MISSING))
            said.append(f"{target}: no comparison, {'base' if base is None else 'further pretraining'} is missing")
            continue
        by = findings.difference(trained, base)
        low, high = _ends(by, max(trained.spread, base.spread))
        label = (
            f"{words.signed(by.points)} {trained.strategy} {charts.compact(trained.steps)}{' tie' if by.tie else ''}"
        )
        found.append(charts.Bar(target, trained.strategy, by.points, low, high, label))
        span = f" (95 % interval {words.interval(by)})" if by.measured else ""
        said.append(
            f"{target}: {trained.arm} after {trained.steps:,} steps {words.signed(by.points)} points against base{span}"
            f"{', a tie' if by.tie else ''}"
        )
    if all(math.isnan(bar.value) for bar in found):
        return None
    alt = f"What the best further pretraining brings over base, in points of the test figure. {'; '.join(said)}"
    caption = (
        "The best further pretraining, after how many steps, and what it brings over base: points of the test figure"
    )
    return Chart(draw(charts.bars, found, alt, "picture", differences=True), caption)


def _ends(by: Difference, spread: float) -> tuple[float, float]:
    return (by.low, by.high) if by.measured else (by.points - spread, by.points + spread)


def _comparison(arm: str, by: Difference) -> Comparison:
    span = f"{100 * by.low:.1f} to {100 * by.high:.1f}".replace("-", "−") if by.measured else ""
    return Comparison(arm, words.points(by.points), by.tie, span)


def _arms(compared: Sequence[Cell], key: str) -> Chart:
    found = bars_of(compared)
    first = compared[0]
    metric = words.metric(first.metric)
    figures = "; ".join(f"{bar.name} {bar.label}" for bar in found)
    alt = f"Test {metric} on {first.target}, {first.evaluation}: {figures}"
    return Chart(draw(charts.bars, found, alt, f"{key}-arms"), f"Test {metric}, {first.evaluation}")


def bars_of(compared: Sequence[Cell]) -> list[charts.Bar]:
    """A row a cell, with one spread to either side."""
    return [
        charts.Bar(
            cell.arm,
            cell.strategy,
            cell.mean,
            cell.mean - cell.spread,
            cell.mean + cell.spread,
            percent(cell.mean) + ("" if cell.std is None else f" ± {100 * cell.std:.1f}"),
        )
        for cell in compared
    ]
