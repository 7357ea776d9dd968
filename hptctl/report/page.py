"""The report as one self-contained HTML file: no script, no network, the same bytes for the same runs.

The templates' context is the frozen dataclasses below: what a page may say is written down here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import hptctl
from hpt.errors import ConfigError, RunError
from hpt.files import write_text
from hpt.strategies import STRATEGIES
from hptctl import tracking
from hptctl.report import charts
from hptctl.report.charts import percent
from hptctl.report.frame import (
    Cell,
    Deviation,
    arm_order,
    at_best_length,
    cells,
    counted,
    deviations,
    evaluation_order,
    tidy,
)

METRICS = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auroc": "mean AUROC",
    "map": "mean average precision",
}
CURVE_POINTS = 150


@dataclass(frozen=True)
class Summary:
    """What was written."""

    datasets: int
    """Dataset sections."""
    runs: int
    """Runs in the provenance table, of all kinds and states."""
    bytes: int
    path: Path


@dataclass(frozen=True)
class Link:
    text: str
    run_id: str


@dataclass(frozen=True)
class Chart:
    svg: Markup
    caption: str


@dataclass(frozen=True)
class Comparison:
    """The best arm against another one."""

    arm: str
    points: str
    """`3.1 points above`, or `level with`."""
    tie: bool


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
    metric: str
    evaluation: str
    comparisons: tuple[Comparison, ...]
    not_run: tuple[str, ...]
    chart: Chart


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
        return "1 seed" if len(self.runs) == 1 else f"{len(self.runs)} seeds"


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
class Detail:
    """A figure of a dataset section: any length of pretraining, not only the one that the tables show."""

    evaluation: str
    arm: str
    strategy: str
    steps: int
    val: str
    figure: Figure
    runs: tuple[Link, ...]
    """By name."""
    shown: bool
    """False: a length of pretraining that val did not choose."""


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
class Sweep:
    run: Link
    strategy: str
    steps: int
    evaluation: str
    metric: str
    state: str
    trials: tuple[Trial, ...]
    heat_map: Chart | None


@dataclass(frozen=True)
class Section:
    """One dataset."""

    id: str
    target: str
    charts: tuple[Chart, ...]
    sweeps: tuple[Sweep, ...]
    details: tuple[Detail, ...]


@dataclass(frozen=True)
class Provenance:
    """One run, as somebody needs it who checks or repeats it."""

    run_id: str
    name: str
    kind: str
    strategy: str
    dataset: str
    steps: int
    seed: str
    labels: str
    test: str
    standing: str
    ended: str
    digest: str
    data: str
    split: str
    weights: str
    made_by: str
    command: str


@dataclass(frozen=True)
class Page:
    title: str
    experiments: tuple[str, ...]
    newest: str
    counts: str
    lead: str
    answers: tuple[Answer, ...]
    deviations: tuple[tuple[str, tuple[Deviation, ...]], ...]
    """By stage."""
    presets: tuple[str, ...]
    """Presets other than the protocol's own, among the runs that count."""
    tables: tuple[Table, ...]
    sections: tuple[Section, ...]
    provenance: tuple[Provenance, ...]


def render(experiment: str | None, out: Path, only: Collection[str] | None = None) -> Summary:
    """Write the report on an experiment (None: on the whole store) to `out`, atomically; `only` on some runs of it.

    Raises:
        RunError: no store, no such experiment, or no finished evaluation in it.
        ConfigError: `out` cannot be written.
    """
    records = tracking.read_runs(experiment)
    if only is not None:
        records = [record for record in records if record.run_id in only or record.parent_id in only]
    frame = tidy(records)
    if frame.empty or counted(frame).empty:
        where = f"experiment '{experiment}' of {tracking.uri()}" if experiment else tracking.uri()
        raise RunError(f"no finished evaluation runs in {where}", "`hptctl evaluate linear` first")
    page = build(frame)
    html = _environment().get_template("report.html.j2").render(page=page)
    try:
        write_text(out, html)
    except OSError as error:
        raise ConfigError(f"the report cannot be written to {out}: {error.strerror}", "choose another --out") from None
    return Summary(len(page.sections), len(page.provenance), len(html.encode()), out)


def build(frame: pd.DataFrame) -> Page:
    """All that the page says, from the runs (`frame.tidy`); reads only the loss curves that it draws."""
    every = sorted(cells(frame), key=lambda c: (evaluation_order(c.evaluation), arm_order(c.arm), c.steps))
    shown = at_best_length(every)
    targets = sorted({cell.target for cell in every})
    ids = {target: f"dataset-{i}" for i, target in enumerate(targets, 1)}
    answers = tuple(_answer([c for c in shown if c.target == target], ids[target]) for target in targets)
    runs = counted(frame)
    return Page(
        title="Does further pretraining help?",
        experiments=tuple(sorted(set(frame["experiment"]))),
        newest=_when(float(frame["end"].max())),
        counts=", ".join(
            (
                _count(len(targets), "dataset"),
                _count(len(set(runs["arm"])), "strategy", "strategies"),
                _count(len(runs), "evaluation that counts", "evaluations that count"),
                _count(len(frame), "run in all", "runs in all"),
            )
        ),
        lead=_lead(answers),
        answers=answers,
        deviations=tuple((stage, tuple(found)) for stage, found in groupby(deviations(frame), key=lambda d: d.stage)),
        presets=tuple(sorted(set(runs["preset"]) - {"", "paper"})),
        tables=tuple(
            _table(evaluation, [c for c in shown if c.evaluation == evaluation])
            for evaluation in dict.fromkeys(cell.evaluation for cell in every)
        ),
        sections=tuple(
            _section(ids[target], target, [c for c in every if c.target == target], shown, frame) for target in targets
        ),
        provenance=tuple(_provenance(row) for _, row in frame.sort_index(ascending=False).iterrows()),
    )


def _answer(shown: Sequence[Cell], section: str) -> Answer:
    headline = [cell for cell in shown if cell.evaluation == shown[0].evaluation]
    # A backbone of another dataset may win, but it does not answer the question: it never saw these images.
    rivals = [cell for cell in headline if cell.own] or headline
    best = max(rivals, key=lambda cell: cell.mean)
    others = [cell for cell in rivals if cell is not best]
    return Answer(
        section=section,
        target=best.target,
        verdict=_verdict(rivals),
        arm=best.arm,
        figure=Link(percent(best.mean), best.run_ids[0]),
        steps=best.steps,
        metric=_metric(best.metric),
        evaluation=best.evaluation,
        comparisons=tuple(Comparison(c.arm, _points(best.mean - c.mean), best.ties(c)) for c in others),
        not_run=tuple(name for name in ("base", "target") if name not in {cell.strategy for cell in rivals}),
        chart=_arms_chart(headline, section),
    )


def _verdict(rivals: Sequence[Cell]) -> str:
    bases = [cell for cell in rivals if cell.strategy == "base"]
    further = [cell for cell in rivals if cell.strategy in {"target", "hpt", "hpt-bn"}]
    if not bases or not further:
        return "open"
    base, best = (max(group, key=lambda cell: cell.mean) for group in (bases, further))
    if best.ties(base):
        return "tie"
    return "gain" if best.mean > base.mean else "loss"


def _lead(answers: Sequence[Answer]) -> str:
    """The answer over all datasets, in a sentence."""
    said = {
        "gain": "yes on {}",
        "tie": "a tie within noise on {}",
        "loss": "no on {}",
        "open": "not answered on {}, which lacks base or a further pretraining",
    }
    parts = []
    for verdict, text in said.items():
        names = [answer.target for answer in answers if answer.verdict == verdict]
        if names:
            several = f"{len(names)} of {_count(len(answers), 'dataset')}"
            parts.append(text.format(" and ".join(names) if len(names) < 3 else several))
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _arms_chart(headline: Sequence[Cell], key: str) -> Chart:
    bars = [
        charts.Bar(c.arm, c.strategy, c.mean, c.spread, "" if c.std is None else f" ± {100 * c.std:.1f}")
        for c in headline
    ]
    target, metric, evaluation = headline[0].target, _metric(headline[0].metric), headline[0].evaluation
    figures = "; ".join(f"{bar.arm} {percent(bar.value)}{bar.note}" for bar in bars)
    alt = f"Test {metric} on {target}, {evaluation}: {figures}"
    return Chart(charts.arms(bars, alt, f"{key}-arms"), f"Test {metric}, {evaluation}")


def _table(evaluation: str, shown: Sequence[Cell]) -> Table:
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
            tuple(_figure(cell, rivals[t]) if (cell := by_place.get((arm, t))) else None for t in targets),
        )
        for arm in sorted(found, key=arm_order)
    )
    return Table(evaluation, tuple((t, _metric(rivals[t][0].metric)) for t in targets), rows)


def _figure(cell: Cell, rivals: Sequence[Cell]) -> Figure:
    best = max(rivals, key=lambda c: c.mean)
    mark = "best" if cell is best else "tie" if cell.ties(best) else ""
    return Figure(
        value=percent(cell.mean),
        std="" if cell.std is None else f"± {100 * cell.std:.1f}",
        runs=tuple(Link(seed or "run", run_id) for seed, run_id in zip(cell.seeds, cell.run_ids, strict=True)),
        steps=cell.steps,
        mark=mark if len(rivals) > 1 else "",  # the best of one is no news
    )


def _section(id: str, target: str, every: Sequence[Cell], shown: Sequence[Cell], frame: pd.DataFrame) -> Section:
    drawn = []
    for number, evaluation in enumerate(dict.fromkeys(cell.evaluation for cell in every)):
        mine = [cell for cell in every if cell.evaluation == evaluation and cell.own]
        lengths = {cell.steps for cell in mine if cell.steps}
        # A single length is in the tables; the evaluation that answers for the dataset is drawn even then.
        if len(lengths) > 1 or (lengths and number == 0):
            drawn.append(_steps_chart(mine, f"{id}-steps-{number}"))
    if loss := _loss_chart(target, frame, f"{id}-loss"):
        drawn.append(loss)
    rivals = {
        evaluation: [c for c in shown if c.target == target and c.evaluation == evaluation]
        for evaluation in {cell.evaluation for cell in every}
    }
    names = dict(zip(frame["run_id"], frame["name"], strict=True))
    trials = frame[(frame["target"] == target) & (frame["parent_id"] != "")]
    sweeps = frame[(frame["kind"] == "sweep") & frame["run_id"].isin(trials["parent_id"])]
    return Section(
        id=id,
        target=target,
        charts=tuple(drawn),
        sweeps=tuple(
            _sweep(row, trials[trials["parent_id"] == row["run_id"]], f"{id}-sweep-{number}")
            for number, (_, row) in enumerate(sweeps.iterrows(), 1)
        ),
        details=tuple(
            Detail(
                evaluation=cell.evaluation,
                arm=cell.arm,
                strategy=cell.strategy,
                steps=cell.steps,
                val=_share(cell.val),
                figure=_figure(cell, rivals[cell.evaluation]),
                runs=tuple(Link(names[run_id], run_id) for run_id in cell.run_ids),
                shown=cell in shown,
            )
            for cell in every
        ),
    )


def _steps_chart(found: Sequence[Cell], key: str) -> Chart:
    lines = [
        charts.Line(arm, mine[0].strategy, tuple((c.steps, c.mean, c.spread) for c in mine))
        for arm in dict.fromkeys(cell.arm for cell in found)
        if (mine := [c for c in found if c.arm == arm])
    ]
    metric, evaluation = _metric(found[0].metric), found[0].evaluation
    figures = "; ".join(
        f"{line.arm} " + ", ".join(f"{percent(y)} at {x:,.0f} steps" if x else percent(y) for x, y, _ in line.points)
        for line in lines
    )
    alt = f"Test {metric} on {found[0].target} against pretraining steps, {evaluation}: {figures}"
    return Chart(charts.against_steps(lines, metric, alt, key), f"Length of pretraining, {evaluation}")


def _loss_chart(target: str, frame: pd.DataFrame, key: str) -> Chart | None:
    mine = frame[
        (frame["target"] == target)
        & (frame["kind"] == "pretrain")
        & (frame["standing"] == "finished")
        & (frame["strategy"] != "base")
    ]
    newest = mine.drop_duplicates(["strategy", "steps"], keep="last").sort_values(["strategy", "steps"])
    lengths = newest["strategy"].value_counts()
    curves: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _, run in newest.iterrows():
        strategy = str(run["strategy"])
        label = strategy if lengths[strategy] == 1 else f"{strategy} {charts.compact(run['steps'])}"
        points = _thinned(tracking.history(str(run["run_id"]), "loss"))
        if points:
            curves[label, strategy] = points
    if not curves:
        return None
    ends = "; ".join(f"{label} ends at {points[-1][1]:.2f}" for (label, _), points in curves.items())
    alt = f"InfoNCE loss of the pretrainings on {target} by step: {ends}"
    caption = "Pretraining loss, newest run of each length"
    return Chart(charts.losses(curves, alt, key), caption)


def _thinned(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """At most CURVE_POINTS means over neighbouring steps; a logarithmic axis has no place for step 0."""
    kept = [(max(step, 1), value) for step, value in points if math.isfinite(value)]
    size = -(-len(kept) // CURVE_POINTS) or 1
    chunks = [kept[i : i + size] for i in range(0, len(kept), size)]
    return [(sum(x for x, _ in c) / len(c), sum(y for _, y in c) / len(c)) for c in chunks]


def _sweep(sweep: pd.Series, trials: pd.DataFrame, key: str) -> Sweep:
    ordered = trials.sort_values("val", ascending=False, kind="stable", na_position="last")
    metric = _metric(str(ordered["metric"].max()))  # trials that have not ended do not know it
    rows = tuple(
        Trial(
            run=Link(str(row["name"]), str(row["run_id"])),
            lr=_config(row, "finetune.lr"),
            schedule=_config(row, "finetune.schedule"),
            val=_share(float(row["val"])),
            test=_share(float(row["test"])),
            state=str(row["standing"]),
            won=math.isfinite(float(row["test"])),
        )
        for _, row in ordered.iterrows()
    )
    scored = {(t.lr, t.schedule): float(v) for t, v in zip(rows, ordered["val"], strict=True) if math.isfinite(v)}
    heat_map = None
    if len(scored) > 1:
        lrs = sorted({lr for lr, _ in scored}, key=_number)
        schedules = sorted({schedule for _, schedule in scored}, key=lambda s: _number(s.partition("-")[0]))
        figures = "; ".join(f"lr {lr}, {schedule}: {percent(v)}" for (lr, schedule), v in scored.items())
        alt = f"Val {metric} of the trials of {sweep['name']}: {figures}"
        svg = charts.heat_map(scored, lrs, schedules, alt, key)
        heat_map = Chart(svg, f"Val {metric} by learning rate and schedule")
    return Sweep(
        run=Link(str(sweep["name"]), str(sweep["run_id"])),
        strategy=str(sweep["strategy"]),
        steps=int(sweep["steps"]),
        evaluation=str(ordered["evaluation"].iloc[0]),
        metric=metric,
        state=str(sweep["standing"]),
        trials=rows,
        heat_map=heat_map,
    )


def _provenance(row: pd.Series) -> Provenance:
    seeds = [str(row["pretrain_seed"]), str(row["seed"])]
    return Provenance(
        run_id=str(row["run_id"]),
        name=str(row["name"]),
        kind=str(row["kind"]),
        strategy=str(row["arm"]),
        dataset=str(row["dataset"]),
        steps=int(row["steps"]),
        seed="/".join(seed for seed in seeds if seed),
        labels=str(row["labels"]),
        test=_share(float(row["test"])),
        standing=str(row["standing"]),
        ended=_when(float(row["end"])),
        digest=str(row["digest"])[:10],
        data=str(row["data_fingerprint"])[:10],
        split=str(row["split_fingerprint"])[:10],
        weights=str(row["weights_sha256"])[:10],
        made_by=" ".join(part for part in (str(row["version"]), str(row["commit"])[:10], str(row["hardware"])) if part),
        command=str(row["command"]),
    )


def templates() -> Path:
    """Inside the package, as the wheel ships them, or beside it, as they lie in a checkout."""
    package = Path(hptctl.__file__).parent
    return next(place for place in (package / "templates", package.parent / "templates") if place.is_dir())


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(templates()),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["thousands"] = lambda number: f"{number:,}"
    return environment


def _metric(name: str) -> str:
    return METRICS.get(name, name.replace("_", " "))


def _points(difference: float) -> str:
    points = abs(100 * difference)
    return "level with" if points < 0.05 else f"{points:.1f} points {'above' if difference > 0 else 'below'}"


def _share(value: float) -> str:
    return "" if math.isnan(value) else percent(value)


def _when(seconds: float) -> str:
    return "" if math.isnan(seconds) else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def _config(row: pd.Series, key: str) -> str:
    value = row.get(f"config.{key}")
    return value if isinstance(value, str) else ""


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.inf
