"""The sweeps of a dataset: their trials, and val by learning rate and schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
    trials: dict[str, list[dict[str, Any]]] = {}
    of_target = frame[(frame["target"] == target) & (frame["parent_id"] != "")]
    # Without pandas from here on: what it does for a few trials takes it milliseconds.
    for trial in of_target.reindex(columns=_COLUMNS).to_dict("records"):
        trials.setdefault(trial["parent_id"], []).append({str(name): value for name, value in trial.items()})
    of = frame[frame["run_id"].isin(list(trials)) & (frame["kind"] == "sweep")]
    return tuple(_table(sweep, trials[sweep["run_id"]]) for sweep in of.reindex(columns=_COLUMNS).to_dict("records"))


_COLUMNS = ["run_id", "parent_id", "kind", "name", "target", "strategy", "steps", "standing", "evaluation", "metric"]
_COLUMNS += ["val", "test", "config.finetune.lr", "config.finetune.schedule"]


def _table(sweep: Mapping[Any, Any], trials: Sequence[dict[str, Any]]) -> SweepTable:
    ordered = sorted(trials, key=lambda trial: -trial["val"] if math.isfinite(trial["val"]) else math.inf)
    rows = tuple(
        TrialRow(
            run=RunLink(trial["name"], trial["run_id"]),
            lr=_config(trial, "finetune.lr"),
            schedule=_config(trial, "finetune.schedule"),
            val=unbroken(percent(trial["val"])),
            test=unbroken(percent(trial["test"])),
            state=trial["standing"],
            won=math.isfinite(trial["test"]),
        )
        for trial in ordered
    )
    scored = zip(rows, (trial["val"] for trial in ordered), strict=True)
    return SweepTable(
        run=RunLink(sweep["name"], sweep["run_id"]),
        strategy=sweep["strategy"],
        steps=int(sweep["steps"]),
        evaluation=ordered[0]["evaluation"],
        metric=in_words(max(trial["metric"] for trial in ordered)),  # unfinished trials have none
        state=sweep["standing"],
        trials=rows,
        heat_map=_heat_map([(t.lr, t.schedule, v) for t, v in scored if math.isfinite(v)]),
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


def _config(row: Mapping[str, Any], key: str) -> str:
    value = row.get(f"config.{key}")
    return value if isinstance(value, str) else ""


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.inf
