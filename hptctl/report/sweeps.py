"""The sweeps of a dataset: their trials, and val by learning rate and schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from hpt.metrics import in_words
from hptctl.format import percent, unbroken
from hptctl.report.results import RunLink


@dataclass(frozen=True)
class TrialRow:
    """One trial of a sweep."""

    run: RunLink
    lr: str
    schedule: str
    val: str
    test: str
    state: str
    won: bool
    """Whether val chose it, so that it has the sweep's only test figure."""


@dataclass(frozen=True)
class HeatMap:
    """Val by learning rate and schedule. It is a table, since drawing one of many takes matplotlib 50 ms."""

    schedules: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[str, int], ...]], ...]
    """(lr, (figure, percent of the sweep's range) for each schedule); the figure is empty where no trial was made."""


@dataclass(frozen=True)
class SweepTable:
    """A sweep, with its trials sorted by val."""

    run: RunLink
    strategy: str
    steps: int
    evaluation: str
    metric: str
    state: str
    trials: tuple[TrialRow, ...]
    heat_map: HeatMap | None


def sweeps(frame: pd.DataFrame, target: str) -> tuple[SweepTable, ...]:
    """The sweeps on a dataset."""
    # Without the columns of settings, since slices of all columns are slow.
    frame = frame[[column for column in _COLUMNS if column in frame]]
    trials = frame[(frame["target"] == target) & (frame["parent_id"] != "")]
    of = frame[(frame["kind"] == "sweep") & frame["run_id"].isin(trials["parent_id"])]
    return tuple(_table(row, trials[trials["parent_id"] == row["run_id"]]) for _, row in of.iterrows())


_COLUMNS = ["run_id", "parent_id", "kind", "name", "target", "strategy", "steps", "standing", "evaluation", "metric"]
_COLUMNS += ["val", "test", "config.finetune.lr", "config.finetune.schedule"]


def _table(sweep: pd.Series, trials: pd.DataFrame) -> SweepTable:
    ordered = trials.sort_values("val", ascending=False, kind="stable", na_position="last")
    metric = in_words(str(ordered["metric"].max()))  # unfinished trials have none
    rows = tuple(
        TrialRow(
            run=RunLink(str(row["name"]), str(row["run_id"])),
            lr=_config(row, "finetune.lr"),
            schedule=_config(row, "finetune.schedule"),
            val=unbroken(percent(float(row["val"]))),
            test=unbroken(percent(float(row["test"]))),
            state=str(row["standing"]),
            won=math.isfinite(float(row["test"])),
        )
        for _, row in ordered.iterrows()
    )
    scored = zip(rows, ordered["val"], strict=True)
    return SweepTable(
        run=RunLink(str(sweep["name"]), str(sweep["run_id"])),
        strategy=str(sweep["strategy"]),
        steps=int(sweep["steps"]),
        evaluation=str(ordered["evaluation"].iloc[0]),
        metric=metric,
        state=str(sweep["standing"]),
        trials=rows,
        heat_map=_heat_map([(t.lr, t.schedule, float(v)) for t, v in scored if math.isfinite(v)]),
    )


def _heat_map(scored: Sequence[tuple[str, str, float]]) -> HeatMap | None:
    """The best val for each learning rate and schedule; None where all trials have the same ones."""
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
            ("", 0)
            if val is None
            else (unbroken(percent(val)), round(100 * (val - low) / (high - low)) if high > low else 100)
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
