"""The advice as a page; its template is `advice.html.j2`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hptctl import __version__
from hptctl.advice import words
from hptctl.advice.measured import Measured
from hptctl.advice.steps import Step
from hptctl.charts import curves, drawing
from hptctl.charts.drawing import Chart
from hptctl.format import thousands, unbroken


@dataclass(frozen=True)
class CurveTable:
    """An adaptation against the base, a row for each number of labels."""

    name: str
    strategy: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Page:
    """What the page says."""

    dataset: str
    verdict: str
    """`gain`, `loss`, `tie`, or `open` where nothing is known."""
    lead: tuple[str, ...]
    picture: Chart | None
    method: str
    tables: tuple[CurveTable, ...]
    steps: tuple[Step, ...]
    images: tuple[tuple[str, str], ...]
    costs: tuple[tuple[str, str], ...]
    caveats: tuple[str, ...]
    provenance: tuple[tuple[str, str], ...]
    command: str
    """That made the page."""


def build(found: Measured, following: Sequence[Step], command: str) -> Page:
    """All that the page says of what was measured, and of the steps that follow; `command` made it."""
    verdicts = {worth.verdict for worth in found.worths}
    return Page(
        dataset=found.opened.dataset.name,
        verdict=next((each for each in ("gain", "loss") if each in verdicts), "tie" if verdicts else "open"),
        lead=tuple(f"{line}." for line in words.answer(found)),
        picture=_picture(found),
        method=words.method(found) if found.curves is not None else "",
        tables=tuple(_tables(found)),
        steps=tuple(following),
        images=tuple(words.images(found)),
        costs=tuple(words.costs(found)),
        caveats=tuple(f"{line}." for line in words.caveats(found)),
        provenance=(*words.provenance(found), ("program", f"hptctl {__version__}")),
        command=command,
    )


def _tables(found: Measured) -> Iterator[CurveTable]:
    columns = tuple(column.removeprefix(">") for column in words.COLUMNS)
    for worth in found.worths:
        rows = tuple(tuple(map(unbroken, words.row(found, rung))) for rung in worth.rungs)
        yield CurveTable(worth.backbone.name, worth.backbone.strategy, columns, rows)
    if found.curves is not None and not found.worths:
        every = range(len(found.curves.rungs))
        rows = tuple(tuple(map(unbroken, words.base_row(found, rung))) for rung in every)
        yield CurveTable("the base", "base", ("labels", "base (95 %)"), rows)


def _picture(found: Measured) -> Chart | None:
    """The curves, with a dashed line from where the better of two is as good as the other with all labels."""
    measured = found.curves
    if measured is None:
        return None
    assert found.opened.base is not None
    base = [measured.figure(found.reference, rung) for rung in range(len(measured.rungs))]
    lines = [
        curves.LabelLine(
            found.opened.base.name,
            "base",
            tuple((n, each.value, each.low, each.high) for n, each in zip(measured.rungs, base, strict=True)),
        )
    ]
    equal: dict[float, curves.EquallyGood] = {}  # by level: of several adaptations, from the first that comes to it
    for worth in found.worths:
        points = tuple((r.labels, r.adapted.value, r.adapted.low, r.adapted.high) for r in worth.rungs)
        lines.append(curves.LabelLine(worth.backbone.name, worth.backbone.strategy, points))
        if worth.verdict != "none" and 0 < worth.enough.value < math.inf:
            level = base[-1].value if worth.verdict == "gain" else worth.rungs[-1].adapted.value
            labels = min(worth.enough.value, equal[level].labels if level in equal else math.inf)
            equal[level] = curves.EquallyGood(level, labels, measured.rungs[-1])
    alt = f"{found.metric} on val against training labels: " + "; ".join(
        f"{line.name} {', '.join(f'{100 * y:.1f} % with {thousands(n)}' for n, y, _, _ in line.points)}"
        for line in lines
    )
    caption = f"What labels buy, {words.FROZEN[found.head]}; bands are 95 % intervals." + (
        " Dashed: where one is as good as the other with all labels." if equal else ""
    )
    return Chart(drawing.draw(curves.by_labels, lines, tuple(equal.values()), found.metric, alt, "advice"), caption)
