"""One dataset: every result, curves, speed-ups, the representation during pretraining, sweeps, confusions, images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hpt.errors import RunError
from hpt.metrics import in_words
from hptctl import tracking
from hptctl.charts.bars import bars
from hptctl.charts.curves import Line, against_steps, losses, measures
from hptctl.charts.drawing import Chart, draw
from hptctl.format import compact, interval, percent, signed, thousands, times, unbroken
from hptctl.report.answer import bars_of
from hptctl.report.findings import Findings, best
from hptctl.report.results import Result, RunLink
from hptctl.report.samples import PICTURES, Sample, of_file, samples_of
from hptctl.report.sweeps import SweepTable, sweeps
from hptctl.report.tables import TableFigure, figure
from hptctl.runs import Run, class_tables, tracked_id

History = dict[tuple[str, str], list[tuple[int, float]]]
"""(step, value) by step, of each (run id, metric)."""
CURVE_POINTS = 150
FEW_CLASSES = 12
"""Up to so many classes, the matrix of confusions is readable as a table."""
PAIRS = 8
MEASURES = {
    "probe/alignment": "alignment (lower: views of an image are nearer)",
    "probe/uniformity": "uniformity (lower: images are spread wider)",
    "probe/effective_rank": "effective rank",
}


@dataclass(frozen=True)
class Detail:
    """A result on the dataset, at any length of pretraining, not only at the one that the tables show."""

    evaluation: str
    arm: str
    strategy: str
    steps: int
    val: str
    figure: TableFigure
    against_base: str
    """The difference in points, with its interval; empty for the base itself."""
    runs: tuple[RunLink, ...]
    """Links to its runs by their names."""
    shown: bool
    """Whether the tables show it; val did not choose the other lengths."""


@dataclass(frozen=True)
class SpeedUpRow:
    """How much sooner than `target` a strategy reached its figure."""

    arm: str
    strategy: str
    figure: RunLink
    steps: int
    target_steps: str
    times: str
    span: str
    """The range of the factor within the spread of the figure; empty where its ends read the same."""


@dataclass(frozen=True)
class Confusion:
    """Which classes the first run of the best arm confuses."""

    arm: str
    run: RunLink
    classes: tuple[str, ...]
    """Classes of the matrix; empty where there are too many to read."""
    rows: tuple[tuple[tuple[str, int], ...], ...]
    """(images, share of the row in percent)."""
    means: bool
    """Whether the numbers of images are means over reruns."""
    pairs: tuple[tuple[str, str, str], ...]
    """(class, class predicted instead, share of the class), the most frequent first."""


@dataclass(frozen=True)
class Section:
    """The section of one dataset."""

    id: str
    target: str
    charts: tuple[Chart, ...]
    speeds: tuple[SpeedUpRow, ...]
    sweeps: tuple[SweepTable, ...]
    confusion: Confusion | None
    details: tuple[Detail, ...]
    samples: tuple[Sample, ...]
    sampled: bool
    """Whether images were asked for."""
    pictures: tuple[Sample, ...]
    """Test images with their boxes or masks beside those predicted, by the best arm that left some."""


def section(findings: Findings, target: str, id: str, images: int = 0, *, whole: bool = True) -> Section:
    """The section of a dataset; reads the histories of the pretrainings that it draws, and so many images.

    One that is not `whole` has the figures alone: no charts of its own, sweeps or confusions.
    """
    return Section(
        id=id,
        target=target,
        charts=_charts(findings, target, id) if whole else (),
        speeds=_speeds(findings, target),
        sweeps=sweeps(findings.frame, target) if whole else (),
        confusion=_confusion(findings, target) if whole else None,
        details=tuple(_detail(findings, result) for result in findings.every_on(target)),
        samples=_samples(findings, target, images) if images else (),
        sampled=images > 0,
        pictures=_pictures(findings, target, images) if images else (),
    )


def _charts(findings: Findings, target: str, id: str) -> tuple[Chart, ...]:
    drawn = [*_curves(findings.every_on(target), id), *_budgets(findings, target, id)]
    first = _first_seeds(findings.frame, target)
    logged = _logged(first)
    drawn += [chart for chart in (_loss(first, logged, target, id), _measures(first, logged, target, id)) if chart]
    return tuple(drawn)


def _pictures(findings: Findings, target: str, images: int) -> tuple[Sample, ...]:
    """What dense evaluations drew, of the arm that is best."""
    rows = findings.frame.set_index("run_id")
    for result in sorted(findings.every_on(target), key=lambda result: -result.mean):
        for run_id in result.run_ids:
            folder = str(rows.loc[run_id, "folder"] or "")
            drawn = sorted(Path(folder, PICTURES).glob("test-*.jpg")) if folder else []
            if drawn:
                caption = f"{result.arm}: truth, and what it predicts"
                return tuple(of_file(path, caption) for path in drawn[:images])
    return ()


def _samples(findings: Findings, target: str, images: int) -> tuple[Sample, ...]:
    """Images of the dataset, where it is on this machine."""
    frame = findings.frame
    mine = frame[(frame["target"] == target) & frame["config.dataset"].ne("")]
    for dataset in dict.fromkeys(mine["config.dataset"].dropna()):
        if found := samples_of(str(dataset), images):
            return found
    return ()


def _detail(findings: Findings, result: Result) -> Detail:
    by = findings.less_base(result)
    span = f" ({interval(by.low, by.high)})" if by is not None and by.bounded else ""
    names = findings.frame["name"]
    return Detail(
        evaluation=result.evaluation,
        arm=result.arm,
        strategy=result.strategy,
        steps=result.steps,
        val=unbroken(percent(result.val)),
        figure=figure(findings, result),
        against_base=f"{signed(by.points)}{span}" if by is not None else "",
        runs=tuple(RunLink(str(names[run_id]), run_id) for run_id in result.run_ids),
        shown=result in findings.shown_on(result.target),
    )


def _curves(every: Sequence[Result], id: str) -> list[Chart]:
    """Charts of test figure against steps: the first evaluation, and each that has several lengths."""
    drawn = []
    for number, evaluation in enumerate(dict.fromkeys(result.evaluation for result in every)):
        mine = [result for result in every if result.evaluation == evaluation and result.own and not result.variant]
        lengths = {result.steps for result in mine if result.steps}
        if len(lengths) > 1 or (lengths and number == 0):
            drawn.append(_curve(mine, f"{id}-steps-{number}"))
    return drawn


def _curve(found: Sequence[Result], key: str) -> Chart:
    lines = [
        Line(arm, mine[0].strategy, tuple((c.steps, c.mean, c.spread) for c in mine), mine[0].decayed)
        for arm in dict.fromkeys(result.arm for result in found)
        if (mine := [c for c in found if c.arm == arm])
    ]
    metric, evaluation = in_words(found[0].metric), found[0].evaluation
    figures = "; ".join(
        f"{line.arm} "
        + ", ".join(
            f"{unbroken(percent(y))} at {thousands(x)} steps" if x else unbroken(percent(y)) for x, y, _ in line.points
        )
        for line in lines
    )
    alt = f"Test {metric} on {found[0].target} against pretraining steps, {evaluation}: {figures}"
    return Chart(draw(against_steps, lines, metric, alt, key), f"Length of pretraining, {evaluation}")


def _budgets(findings: Findings, target: str, id: str) -> list[Chart]:
    """Charts of finetuning at each number of labels, unless the answer shows finetuning already."""
    drawn = []
    mine = [result for result in findings.shown_on(target) if result.evaluation.startswith("finetuning")]
    if not mine or mine[0].evaluation == findings.rivals(target)[0].evaluation:
        return []
    for number, evaluation in enumerate(dict.fromkeys(result.evaluation for result in mine)):
        compared = [result for result in mine if result.evaluation == evaluation]
        found = bars_of(compared)
        metric = in_words(compared[0].metric)
        alt = f"Test {metric} on {target}, {evaluation}: {'; '.join(f'{bar.name} {bar.label}' for bar in found)}"
        svg = draw(bars, found, alt, f"{id}-labels-{number}")
        drawn.append(Chart(svg, f"{evaluation[0].upper()}{evaluation[1:]}: test {metric}"))
    return drawn


def _first_seeds(frame: pd.DataFrame, target: str) -> pd.DataFrame:
    """The finished pretraining of the first seed of each strategy and length, of the method as published; the newest
    where there are several."""
    mine = frame[
        (frame["target"] == target)
        & (frame["kind"] == "pretrain")
        & (frame["standing"] == "finished")
        & (frame["strategy"] != "base")
        & (frame["policy"] == "baseline")
        & (frame["share"] == 1)
    ]
    lengths = ["strategy", "steps"]
    seeds = mine.assign(seed=pd.to_numeric(mine["seed"])).sort_values("end", ascending=False, kind="stable")
    found = seeds.sort_values([*lengths, "seed"], kind="stable").drop_duplicates(lengths)
    return found[["run_id", "strategy", "steps", "probes", "folder"]]


def _labelled(found: pd.DataFrame) -> list[tuple[tuple[str, str], pd.Series]]:
    """((label, strategy), run) for each pretraining; the label has the length where a strategy has several."""
    lengths = found["strategy"].value_counts()
    out = []
    for _, run in found.iterrows():
        strategy = str(run["strategy"])
        label = strategy if lengths[strategy] == 1 else f"{strategy} {compact(run['steps'])}"
        out.append(((label, strategy), run))
    return out


def _logged(pretrainings: pd.DataFrame) -> History:
    """The loss of each of these pretrainings, and of the longest of each strategy what it saw of its backbone: from
    its folder, or where that is not at hand from the store, which is asked for each metric of each run."""
    longest = set(pretrainings.drop_duplicates("strategy", keep="last")["run_id"])
    found: History = {}
    elsewhere: list[tuple[str, str]] = []
    for id, probes, folder in zip(*(pretrainings[key] for key in ("run_id", "probes", "folder")), strict=True):
        metrics = ["loss", *(probes if id in longest else ())]
        run = Run(Path(folder))
        if not folder or tracked_id(run) != id or not run.metrics_file.exists():
            elsewhere += [(id, metric) for metric in metrics]
            continue
        lines = list(run.metrics())
        for metric in metrics:
            found[id, metric] = sorted((int(line["step"]), line[metric]) for line in lines if metric in line)
    return found | (tracking.histories(elsewhere) if elsewhere else {})


def _loss(first: pd.DataFrame, logged: History, target: str, id: str) -> Chart | None:
    curves: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for key, run in _labelled(first):
        if points := _thinned(logged[run["run_id"], "loss"]):
            curves[key] = points
    if not curves:
        return None
    ends = "; ".join(f"{label} ends at {points[-1][1]:.2f}" for (label, _), points in curves.items())
    alt = f"InfoNCE loss of the pretrainings on {target} by step: {ends}"
    return Chart(draw(losses, curves, alt, f"{id}-loss"), "Pretraining loss, first seed of each length")


def _measures(first: pd.DataFrame, logged: History, target: str, id: str) -> Chart | None:
    """A chart of the representation during pretraining: kNN, alignment, uniformity, effective rank."""
    panels: dict[str, dict[tuple[str, str], list[tuple[float, float]]]] = {}
    longest = first.drop_duplicates("strategy", keep="last")
    for key, run in _labelled(longest):
        for probe in sorted(run["probes"], key=lambda name: (name in MEASURES, name)):  # kNN first
            name = MEASURES.get(probe) or f"kNN on val, {in_words(probe.removeprefix('probe/knn_'))}"
            points = [(float(x), y) for x, y in logged[run["run_id"], probe] if math.isfinite(y)]
            if points:
                panels.setdefault(name, {})[key] = points
    if not panels:
        return None
    ends = "; ".join(
        f"{name}: "
        + ", ".join(f"{label} from {points[0][1]:.3g} to {points[-1][1]:.3g}" for (label, _), points in c.items())
        for name, c in panels.items()
    )
    alt = f"What pretrainings on {target} saw of their backbones on the way. {ends}"
    svg = draw(measures, panels, alt, f"{id}-measures")
    return Chart(
        svg,
        "The representation on its way, first seed of each longest length; effective ranks compare within a run",
    )


def _thinned(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """At most CURVE_POINTS means over neighbouring steps; step 0 counts as 1, since the axis is logarithmic."""
    kept = [(max(step, 1), value) for step, value in points if math.isfinite(value)]
    size = -(-len(kept) // CURVE_POINTS) or 1
    chunks = [kept[i : i + size] for i in range(0, len(kept), size)]
    return [(sum(x for x, _ in c) / len(c), sum(y for _, y in c) / len(c)) for c in chunks]


def _speeds(findings: Findings, target: str) -> tuple[SpeedUpRow, ...]:
    out = []
    for found in findings.faster(target):
        needed, result = found.speed_up, found.result
        ends = [times(each.factor, each.bound) for each in (found.slowest, found.fastest) if each]
        out.append(
            SpeedUpRow(
                arm=result.arm,
                strategy=result.strategy,
                figure=result.link,
                steps=result.steps,
                target_steps=f"{needed.bound} {thousands(needed.steps)}".strip(),
                times=times(needed.factor, needed.bound),
                span=" to ".join(ends) if len(set(ends)) > 1 else "",
            )
        )
    return tuple(out)


def _confusion(findings: Findings, target: str) -> Confusion | None:
    top = best(findings.rivals(target))
    assert top is not None
    id = top.run_ids[0]
    row = findings.frame.loc[id]
    run = Run(Path(str(row["folder"])))
    if not row["folder"] or tracked_id(run) != id:
        return None
    try:
        classes, counts = class_tables.confusion(run, "test")
        pairs = class_tables.confused(run, "test")[:PAIRS]
    except (RunError, ValueError):  # a table that was edited by hand
        return None
    if not classes:
        return None
    few = len(classes) <= FEW_CLASSES
    means = any(n != round(n) for each in counts for n in each)
    return Confusion(
        arm=top.arm,
        run=RunLink(str(row["name"]), id),
        classes=tuple(classes) if few else (),
        means=means,
        rows=tuple(
            tuple((f"{n:,.1f}" if means else thousands(n), round(100 * n / (sum(each) or 1))) for n in each)
            for each in counts
            if few
        ),
        pairs=tuple((pair.actual, pair.predicted, unbroken(percent(pair.share))) for pair in pairs),
    )
