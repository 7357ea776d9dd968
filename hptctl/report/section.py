"""One dataset: how long to pretrain, how much sooner, what the representation did on the way, what is confused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from hpt.errors import RunError
from hptctl import tracking
from hptctl.charts import svg as charts
from hptctl.charts.drawing import draw
from hptctl.charts.svg import percent
from hptctl.report import words
from hptctl.report.answer import bars_of
from hptctl.report.findings import Findings, best
from hptctl.report.frame import Cell
from hptctl.report.tables import Figure, figure
from hptctl.report.words import Chart, Link
from hptctl.runs import Run, class_tables, tracked_id

if TYPE_CHECKING:
    from hptctl.report.samples import Sample

CURVE_POINTS = 150
FEW_CLASSES = 12
"""Classes whose matrix of confusions still reads as a table."""
PAIRS = 8
MEASURES = {
    "probe/alignment": "alignment (lower: views of an image are nearer)",
    "probe/uniformity": "uniformity (lower: images are spread wider)",
    "probe/effective_rank": "effective rank",
}


@dataclass(frozen=True)
class Detail:
    """A figure of a dataset section: any length of pretraining, not only the one that the tables show."""

    evaluation: str
    arm: str
    strategy: str
    steps: int
    val: str
    figure: Figure
    against_base: str
    """In points, with the interval."""
    runs: tuple[Link, ...]
    """By name."""
    shown: bool
    """False: a length of pretraining that val did not choose."""


@dataclass(frozen=True)
class Speed:
    """How much sooner than `target`."""

    arm: str
    strategy: str
    figure: Link
    steps: int
    target_steps: str
    times: str
    span: str
    """The factor within the spread of the figure, from the slowest to the fastest."""


@dataclass(frozen=True)
class Trial:
    run: Link
    lr: str
    schedule: str
    val: str
    test: str
    state: str
    won: bool
    """It has the sweep's one test figure."""


@dataclass(frozen=True)
class HeatMap:
    """Val figures by learning rate and schedule; a table, since matplotlib takes 50 ms for each of many."""

    schedules: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[str, int], ...]], ...]
    """(lr, (figure, how good in percent of the sweep's range) for each schedule); nothing where there is no trial."""


@dataclass(frozen=True)
class Sweep:
    run: Link
    strategy: str
    steps: int
    evaluation: str
    metric: str
    state: str
    trials: tuple[Trial, ...]
    heat_map: HeatMap | None


@dataclass(frozen=True)
class Confusion:
    """What the best arm takes for what, in its first run."""

    arm: str
    run: Link
    classes: tuple[str, ...]
    """Of the matrix; none where there are too many to read."""
    rows: tuple[tuple[tuple[str, int], ...], ...]
    """(images, share of the row in percent)."""
    means: bool
    """The images are means over the run's reruns."""
    pairs: tuple[tuple[str, str, str], ...]
    """(class, what it is taken for, share), the most frequent first."""


@dataclass(frozen=True)
class Section:
    """One dataset."""

    id: str
    target: str
    charts: tuple[Chart, ...]
    speeds: tuple[Speed, ...]
    sweeps: tuple[Sweep, ...]
    confusion: Confusion | None
    details: tuple[Detail, ...]
    samples: tuple[Sample, ...]
    sampled: bool
    """Whether images were asked for."""


def section(findings: Findings, target: str, id: str, images: int = 0) -> Section:
    """All that the runs say of a dataset; reads the histories of the pretrainings that it draws, and so many images."""
    every = [cell for cell in findings.every if cell.target == target]
    drawn = [*_curves(every, id), *_budgets(findings, target, id)]
    newest = _newest_pretrainings(findings.frame, target)
    drawn += [chart for chart in (_loss(newest, target, id), _measures(newest, target, id)) if chart]
    # Every setting has a column, and slices of the whole are slow.
    frame = findings.frame[[column for column in _OF_A_SWEEP if column in findings.frame]]
    trials = frame[(frame["target"] == target) & (frame["parent_id"] != "")]
    sweeps = frame[(frame["kind"] == "sweep") & frame["run_id"].isin(trials["parent_id"])]
    return Section(
        id=id,
        target=target,
        charts=tuple(drawn),
        speeds=_speeds(findings, target),
        sweeps=tuple(_sweep(row, trials[trials["parent_id"] == row["run_id"]]) for _, row in sweeps.iterrows()),
        confusion=_confusion(findings, target),
        details=tuple(_detail(findings, cell) for cell in every),
        samples=_samples(findings, target, images) if images else (),
        sampled=images > 0,
    )


def _samples(findings: Findings, target: str, images: int) -> tuple[Sample, ...]:
    """Of the newest run whose dataset is on this machine."""
    from hptctl.report.samples import of  # with PyTorch, which nothing else of a report needs

    frame = findings.frame
    mine = frame[(frame["target"] == target) & frame["config.dataset"].ne("")].sort_values("end", ascending=False)
    for dataset in dict.fromkeys(mine["config.dataset"].dropna()):
        if found := of(str(dataset), images):
            return found
    return ()


def _detail(findings: Findings, cell: Cell) -> Detail:
    rivals = [c for c in findings.shown if (c.target, c.evaluation) == (cell.target, cell.evaluation)]
    base = best([c for c in rivals if c.strategy == "base" and c.own])
    shown = cell in findings.shown
    by = findings.difference(cell, base) if base is not None and base is not cell else None
    span = f" ({words.interval(by)})" if by is not None and by.measured else ""
    names = findings.frame["name"]
    return Detail(
        evaluation=cell.evaluation,
        arm=cell.arm,
        strategy=cell.strategy,
        steps=cell.steps,
        val=words.share(cell.val),
        figure=figure(findings, cell, rivals),
        against_base=f"{words.signed(by.points)}{span}" if by is not None else "",
        runs=tuple(Link(str(names[run_id]), run_id) for run_id in cell.run_ids),
        shown=shown,
    )


def _curves(every: Sequence[Cell], id: str) -> list[Chart]:
    """Test figure against steps, of each evaluation that has several lengths, and of the first in any case."""
    drawn = []
    for number, evaluation in enumerate(dict.fromkeys(cell.evaluation for cell in every)):
        mine = [cell for cell in every if cell.evaluation == evaluation and cell.own and not cell.variant]
        lengths = {cell.steps for cell in mine if cell.steps}
        if len(lengths) > 1 or (lengths and number == 0):
            drawn.append(_curve(mine, f"{id}-steps-{number}"))
    return drawn


def _curve(found: Sequence[Cell], key: str) -> Chart:
    lines = [
        charts.Line(arm, mine[0].strategy, tuple((c.steps, c.mean, c.spread) for c in mine))
        for arm in dict.fromkeys(cell.arm for cell in found)
        if (mine := [c for c in found if c.arm == arm])
    ]
    metric, evaluation = words.metric(found[0].metric), found[0].evaluation
    figures = "; ".join(
        f"{line.arm} " + ", ".join(f"{percent(y)} at {x:,.0f} steps" if x else percent(y) for x, y, _ in line.points)
        for line in lines
    )
    alt = f"Test {metric} on {found[0].target} against pretraining steps, {evaluation}: {figures}"
    return Chart(draw(charts.against_steps, lines, metric, alt, key), f"Length of pretraining, {evaluation}")


def _budgets(findings: Findings, target: str, id: str) -> list[Chart]:
    """Finetuning at each number of labels, where it is not the evaluation that the answer shows already."""
    drawn = []
    mine = [cell for cell in findings.shown if cell.target == target and cell.evaluation.startswith("finetuning")]
    if not mine or mine[0].evaluation == findings.rivals(target)[0].evaluation:
        return []
    for number, evaluation in enumerate(dict.fromkeys(cell.evaluation for cell in mine)):
        compared = [cell for cell in mine if cell.evaluation == evaluation]
        found = bars_of(compared)
        metric = words.metric(compared[0].metric)
        alt = f"Test {metric} on {target}, {evaluation}: {'; '.join(f'{bar.name} {bar.label}' for bar in found)}"
        svg = draw(charts.bars, found, alt, f"{id}-labels-{number}")
        drawn.append(Chart(svg, f"{evaluation[0].upper()}{evaluation[1:]}: test {metric}"))
    return drawn


def _newest_pretrainings(frame: pd.DataFrame, target: str) -> pd.DataFrame:
    """The newest finished pretraining of each strategy and length, of the method as published."""
    mine = frame[
        (frame["target"] == target)
        & (frame["kind"] == "pretrain")
        & (frame["standing"] == "finished")
        & (frame["strategy"] != "base")
        & (frame["policy"] == "baseline")
        & (frame["share"] == 1)
    ]
    mine = mine[["run_id", "strategy", "steps", "probes"]]
    return mine.drop_duplicates(["strategy", "steps"], keep="last").sort_values(["strategy", "steps"])


def _labelled(newest: pd.DataFrame) -> list[tuple[tuple[str, str], pd.Series]]:
    """((label, strategy), run); a label has the length where a strategy has several."""
    lengths = newest["strategy"].value_counts()
    out = []
    for _, run in newest.iterrows():
        strategy = str(run["strategy"])
        label = strategy if lengths[strategy] == 1 else f"{strategy} {charts.compact(run['steps'])}"
        out.append(((label, strategy), run))
    return out


def _loss(newest: pd.DataFrame, target: str, id: str) -> Chart | None:
    curves: dict[tuple[str, str], list[tuple[float, float]]] = {}
    logged = tracking.histories((str(id), "loss") for id in newest["run_id"])
    for key, run in _labelled(newest):
        if points := _thinned(logged[run["run_id"], "loss"]):
            curves[key] = points
    if not curves:
        return None
    ends = "; ".join(f"{label} ends at {points[-1][1]:.2f}" for (label, _), points in curves.items())
    alt = f"InfoNCE loss of the pretrainings on {target} by step: {ends}"
    return Chart(draw(charts.losses, curves, alt, f"{id}-loss"), "Pretraining loss, newest run of each length")


def _measures(newest: pd.DataFrame, target: str, id: str) -> Chart | None:
    """What the runs saw when they looked at their backbones on the way."""
    panels: dict[str, dict[tuple[str, str], list[tuple[float, float]]]] = {}
    longest = newest.drop_duplicates("strategy", keep="last")
    logged = tracking.histories((str(run["run_id"]), probe) for _, run in longest.iterrows() for probe in run["probes"])
    for key, run in _labelled(longest):
        for probe in sorted(run["probes"], key=lambda name: (name in MEASURES, name)):  # kNN first
            name = MEASURES.get(probe) or f"kNN on val, {words.metric(probe.removeprefix('probe/knn_'))}"
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
    svg = draw(charts.measures, panels, alt, f"{id}-measures")
    return Chart(
        svg, "The representation on its way, longest run of each strategy; effective ranks compare within a run"
    )


def _thinned(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """At most CURVE_POINTS means over neighbouring steps; a logarithmic axis has no place for step 0."""
    kept = [(max(step, 1), value) for step, value in points if math.isfinite(value)]
    size = -(-len(kept) // CURVE_POINTS) or 1
    chunks = [kept[i : i + size] for i in range(0, len(kept), size)]
    return [(sum(x for x, _ in c) / len(c), sum(y for _, y in c) / len(c)) for c in chunks]


def _speeds(findings: Findings, target: str) -> tuple[Speed, ...]:
    out = []
    for found in findings.faster(target):
        needed, cell = found.speed_up, found.cell
        span = ""
        if found.slowest and found.fastest and words.times(found.slowest) != words.times(found.fastest):
            span = f"{words.times(found.slowest)} to {words.times(found.fastest)}"
        out.append(
            Speed(
                arm=cell.arm,
                strategy=cell.strategy,
                figure=Link(percent(cell.mean), cell.run_ids[0]),
                steps=cell.steps,
                target_steps=f"{needed.bound} {needed.steps:,.0f}".strip(),
                times=words.times(needed),
                span=span,
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
    except (RunError, ValueError):  # a table that somebody has edited
        return None
    if not classes:
        return None
    few = len(classes) <= FEW_CLASSES
    means = any(n != round(n) for each in counts for n in each)
    return Confusion(
        arm=top.arm,
        run=Link(str(row["name"]), id),
        classes=tuple(classes) if few else (),
        means=means,
        rows=tuple(
            tuple((f"{n:,.1f}" if means else f"{n:,.0f}", round(100 * n / (sum(each) or 1))) for n in each)
            for each in counts
            if few
        ),
        pairs=tuple((pair.actual, pair.predicted, percent(pair.share)) for pair in pairs),
    )


_OF_A_SWEEP = ["run_id", "parent_id", "kind", "name", "target", "strategy", "steps", "standing", "evaluation", "metric"]
_OF_A_SWEEP += ["val", "test", "config.finetune.lr", "config.finetune.schedule"]


def _sweep(sweep: pd.Series, trials: pd.DataFrame) -> Sweep:
    ordered = trials.sort_values("val", ascending=False, kind="stable", na_position="last")
    metric = words.metric(str(ordered["metric"].max()))  # trials that have not ended do not know it
    rows = tuple(
        Trial(
            run=Link(str(row["name"]), str(row["run_id"])),
            lr=_config(row, "finetune.lr"),
            schedule=_config(row, "finetune.schedule"),
            val=words.share(float(row["val"])),
            test=words.share(float(row["test"])),
            state=str(row["standing"]),
            won=math.isfinite(float(row["test"])),
        )
        for _, row in ordered.iterrows()
    )
    scored = zip(rows, ordered["val"], strict=True)
    return Sweep(
        run=Link(str(sweep["name"]), str(sweep["run_id"])),
        strategy=str(sweep["strategy"]),
        steps=int(sweep["steps"]),
        evaluation=str(ordered["evaluation"].iloc[0]),
        metric=metric,
        state=str(sweep["standing"]),
        trials=rows,
        heat_map=_heat_map([(t.lr, t.schedule, float(v)) for t, v in scored if math.isfinite(v)]),
    )


def _heat_map(scored: Sequence[tuple[str, str, float]]) -> HeatMap | None:
    """The best of the trials at each place; None where there is one place only."""
    best_at: dict[tuple[str, str], float] = {}
    for lr, schedule, val in scored:
        best_at[lr, schedule] = max(val, best_at.get((lr, schedule), val))
    if len(best_at) < 2:
        return None
    low, high = min(best_at.values()), max(best_at.values())
    schedules = sorted({schedule for _, schedule in best_at}, key=lambda s: _number(s.partition("-")[0]))

    def at(lr: str, schedule: str) -> tuple[str, int]:
        val = best_at.get((lr, schedule))
        return (
            ("", 0) if val is None else (percent(val), round(100 * (val - low) / (high - low)) if high > low else 100)
        )

    lrs = sorted({lr for lr, _ in best_at}, key=_number)
    return HeatMap(tuple(schedules), tuple((lr, tuple(at(lr, schedule) for schedule in schedules)) for lr in lrs))


def _config(row: pd.Series, key: str) -> str:
    value = row.get(f"config.{key}")
    return value if isinstance(value, str) else ""


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.inf
