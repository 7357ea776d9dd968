"""The first screen: the answer of the runs as a sentence and a chart, then dataset by dataset."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from hpt.metrics import in_words
from hpt.statistics import FEW_IMAGES, SEEDS
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
from hptctl.report.findings import Findings, Verdict, best
from hptctl.report.names import FLOOR, MISSING
from hptctl.report.results import Result, RunLink


@dataclass(frozen=True)
class Rival:
    """An arm that the one that val chose is compared with."""

    arm: str
    points: str
    """`3.1 points above`, or `not told apart from`."""
    aside: str
    """The 95 % interval in points; of a tie also what would have been seen; else why it is no win or loss."""


@dataclass(frozen=True)
class Answer:
    """Whether further pretraining helps on one dataset."""

    section: str
    target: str
    verdict: Verdict
    arm: str
    """What val chose."""
    figure: RunLink
    steps: int
    cost: str
    """Images seen, and hours on which hardware; empty where neither is known."""
    metric: str
    evaluation: str
    rivals: tuple[Rival, ...]
    missing: tuple[str, ...]
    single_seeds: tuple[str, ...]
    """Trained arms with a single seed; `all` where every one has."""
    caveats: tuple[str, ...]
    """What a reader must know beside the verdict, a sentence each."""
    floor: str
    """The command that evaluates an untrained backbone, where that is missing; empty elsewhere."""
    base_and_floor: Literal["", "worse", "level"]
    """Whether the base is worse than an untrained backbone, or has a lower figure that chance may have made."""
    toy: bool
    """Whether the base is a toy."""
    chart: Chart


def answer(findings: Findings, target: str, section: str) -> Answer:
    """The answer for one dataset, whose section has the id `section`."""
    rivals = findings.rivals(target)
    top = best(rivals)
    assert top is not None
    others = [result for result in rivals if result is not top]
    spent = findings.costs[top.place]
    trained = [result for result in rivals if result.trained]
    alone = tuple(result.arm for result in trained if len(result.figures) == 1)
    wanted = ("base", "target", FLOOR)
    compared = findings.beside(top)
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
        missing=tuple(name for name in wanted if name not in {result.strategy for result in rivals}),
        single_seeds=("all",) if len(alone) == len(trained) else alone,
        caveats=tuple(_caveats(findings, target)),
        floor=findings.floor_command(target),
        base_and_floor=_base_and_floor(findings, target),
        toy=findings.toy(target),
        chart=_arms(compared, section),
    )


def lead(answers: Sequence[Answer]) -> str:
    """The answer over all datasets, as one sentence; a base that is no base comes first."""
    said: dict[Verdict, str] = {
        "gain": "yes on {}",
        "ahead": "it looks better on {}, but one seed cannot tell",
        "below": "nothing can be said on {}, where an untrained network does better",
        "tie": "no difference was found on {}",
        "not sure": "not sure on {}, where a difference does not hold among all verdicts",
        "behind": "it looks worse on {}, but one seed cannot tell",
        "loss": "no on {}",
        "unjudged": "not to be judged on {}",
        "open": "not answered on {}, which lacks base or a further pretraining",
    }
    parts = []
    for verdict, text in said.items():
        names = [each.target for each in answers if each.verdict == verdict]
        if names:
            parts.append(text.format(_some(names, len(answers))))
    sentence = "; ".join(parts)
    first = ""
    for how, words in (("worse", "worse"), ("level", "no better")):
        if names := [each.target for each in answers if each.base_and_floor == how]:
            joint = ", and " if first else "The base is "
            first += f"{joint}{words} than an untrained network on {_some(names, len(answers))}"
    return f"{first}: {sentence}." if first else f"{sentence[0].upper()}{sentence[1:]}."


def _some(names: Sequence[str], of: int) -> str:
    return " and ".join(names) if len(names) < 3 else f"{len(names)} of {count(of, 'dataset')}"


def winners(findings: Findings) -> str:
    """On how many datasets val chose each strategy; empty where no dataset has two results."""
    contested = [target for target in findings.targets if len(findings.rivals(target)) > 1]
    chosen = Counter(top.strategy for target in contested if (top := best(findings.rivals(target))) is not None)
    said = [f"{strategy} on {wins}" for strategy, wins in chosen.most_common()]
    return f"Val chose {listed(said)} of {count(len(contested), 'dataset')}." if said else ""


def _base_and_floor(findings: Findings, target: str) -> Literal["", "worse", "level"]:
    _, base = findings.further(target)
    floor = findings.floor(target)
    if base is None or floor is None or base.mean >= floor.mean:
        return ""
    return "worse" if findings.difference(base, floor).verdict in {"loss", "behind"} else "level"


def _caveats(findings: Findings, target: str) -> Iterator[str]:
    trained, base = findings.further(target)
    floor = findings.floor(target)
    if base is not None and floor is not None and base.mean < floor.mean:
        yield (
            f"The base has {base.figure}, an untrained network {floor.figure}: such a base, or this evaluation at this "
            "size, says little about pretraining."
        )
    if at_edge := [result.arm for result in findings.rivals(target) if result.lr_at_edge]:
        yield f"The probe's best learning rate ends its grid for {listed(at_edge)}: a wider grid may rank anew."
    if trained is None or base is None:
        return
    found = findings.difference(trained, base)
    if found.verdict in {"ahead", "behind"}:
        lacking = [
            f"{SEEDS - len(result.figures)} of {result.arm}"
            for result in (trained, base)
            if result.trained and len(result.figures) < SEEDS
        ]
        yield f"To know, run more seeds: {listed(lacking or ['of the evaluation of base'])}."
    elif 0 < trained.test_images < FEW_IMAGES:
        yield f"{count(trained.test_images, 'test image')} tell nothing of a difference: a verdict takes {FEW_IMAGES}."
    elif found.verdict == "open":
        yield "Nothing tells how much of the difference is chance: the runs' predictions are not at hand."
    near = {(result.arm, result.steps): result for result in findings.neighbours(target)}
    mine, other = near.get((trained.arm, trained.steps)), near.get((base.arm, base.steps))
    if mine is not None and other is not None:
        by_knn = mine.mean - other.mean
        if by_knn * found.points < 0 and above_or_below(by_knn) != above_or_below(0):
            yield (
                f"kNN says otherwise: by it {trained.arm} is {above_or_below(by_knn)} {base.arm}, so the evaluation"
                " decides as much as the pretraining."
            )


def picture(findings: Findings) -> Chart | None:
    """A chart of the further pretraining that val chose less the base, by dataset; None where no dataset has both."""
    found, said = [], []
    for target in findings.targets:
        trained, base = findings.further(target)
        if trained is None or base is None:
            found.append(Bar(target, "", math.nan, math.nan, math.nan, MISSING))
            said.append(f"{target}: no comparison, {'base' if base is None else 'further pretraining'} is missing")
            continue
        by = findings.difference(trained, base)
        low, high = _ends(by, max(trained.spread, base.spread))
        label = f"{signed(by.points)} {trained.strategy} {compact(trained.steps)} {by.reserve}".rstrip()
        found.append(Bar(target, trained.strategy, by.points, low, high, label))
        span = f" (95 % interval {interval(by.low, by.high)})" if by.bounded else ""
        said.append(
            f"{target}: {trained.arm} after {thousands(trained.steps)} steps"
            f" {signed(by.points)} points against base{span}"
            f"{f', {by.reserve}' if by.reserve else ''}"
        )
    if all(math.isnan(bar.value) for bar in found):
        return None
    alt = f"What the further pretraining that val chose brings over base, in points on test. {'; '.join(said)}"
    caption = (
        "The further pretraining that val chose, after how many steps, and what it brings over base: points on test"
    )
    return Chart(draw(bars, found, alt, "picture", differences=True), caption)


def _ends(by: Difference, spread: float) -> tuple[float, float]:
    return (by.low, by.high) if by.bounded else (by.points - spread, by.points + spread)


def _rival(arm: str, by: Difference) -> Rival:
    said = [f"{points(by.low)} to {points(by.high)}"] if by.bounded else []
    if by.verdict == "tie" and by.detectable:  # 0 where the predictions are the same
        seen = f"{points(by.detectable)} would" if by.detectable < 1 else "no difference could"
        said.append(f"{seen} have been seen")
    if by.verdict == "not sure":
        said.append(f"not sure: {by.because}")
    elif by.verdict != "tie" and by.because:
        said.append(by.because)
    return Rival(arm, "not told apart from" if by.verdict == "tie" else above_or_below(by.points), "; ".join(said))


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
