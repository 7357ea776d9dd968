"""Which results of a report differ: by intervals from the predictions that runs kept, or else by their spread."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from hpt import predictions
from hpt.errors import HptError, RunError
from hpt.files import write_text
from hpt.metrics import Scores
from hpt.predictions import Predictions
from hpt.user_folders import cache_folder
from hptctl.compare.intervals import pairwise
from hptctl.runs import Run, tracked_id

log = logging.getLogger("hptctl.compare")

RESAMPLES = 1000
"""Resamples of the test images. `hptctl compare --resamples 1000` gives the same intervals; its default of 2,000 takes
twice as long."""
LEVEL = 0.95
VERSION = 1
"""To be raised whenever the same predictions give other intervals than before."""


class Measured(Protocol):
    """What is compared: the test figure of runs that differ in nothing but their seeds."""

    @property
    def target(self) -> str:
        """The dataset."""

    @property
    def evaluation(self) -> str: ...

    @property
    def metric(self) -> str: ...

    @property
    def mean(self) -> float:
        """The figure, a share."""

    @property
    def spread(self) -> float:
        """What a difference must exceed to count where there is no interval; a share."""

    @property
    def run_ids(self) -> tuple[str, ...]: ...


Pairs = dict[tuple[tuple[str, ...], tuple[str, ...]], tuple[float, float]]
"""The ends of an interval, by the runs of both sides."""


@dataclass(frozen=True)
class Difference:
    """A figure less another one; all values are shares."""

    points: float
    """The difference of the two means."""
    low: float
    high: float
    """`low` and `high` are the ends of the 95 % interval; NaN where there is none and the spread decided."""
    tie: bool

    @property
    def measured(self) -> bool:
        """Whether there is an interval."""
        return math.isfinite(self.low)

    def __neg__(self) -> Difference:
        return Difference(-self.points, -self.high, -self.low, self.tie)


class Differences:
    """Any two results on one dataset under one evaluation, compared."""

    def __init__(self, groups: Iterable[Sequence[Measured]], folders: Mapping[str, Path]) -> None:
        """Compute the intervals of all pairs within each group, whose results have dataset and evaluation in common.

        They are kept in the user's cache folder: 16 datasets of some thousand images take minutes once, and
        nothing from then on. `folders`: of runs by their ids; those without predictions there get no interval.
        """
        self._intervals: Pairs = {}
        for group in groups:
            self._intervals |= _kept(group, folders)

    def __call__(self, a: Measured, b: Measured) -> Difference:
        """a less b: a tie where 0 lies in the interval, or, without one, within the larger spread of the two."""
        points = a.mean - b.mean
        if a is b:
            return Difference(0.0, 0.0, 0.0, True)
        if (found := self._intervals.get((a.run_ids, b.run_ids))) is not None:
            return Difference(points, *found, tie=found[0] <= 0 <= found[1])
        if (found := self._intervals.get((b.run_ids, a.run_ids))) is not None:
            return Difference(points, -found[1], -found[0], tie=found[0] <= 0 <= found[1])
        return Difference(points, math.nan, math.nan, tie=abs(points) <= max(a.spread, b.spread))


def _kept(group: Sequence[Measured], folders: Mapping[str, Path]) -> Pairs:
    """Intervals of a group's pairs, from the cache as long as its predictions are unchanged."""
    stamps = [(each, stamp) for each in group if (stamp := _stamp(each, folders)) is not None]
    if len(stamps) < 2:
        return {}
    about = [VERSION, np.__version__, RESAMPLES, LEVEL, [(c.metric, c.mean, c.run_ids, s) for c, s in stamps]]
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]
    file = cache_folder() / "intervals" / f"{key}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        return {(tuple(a), tuple(b)): (low, high) for a, b, low, high in json.loads(file.read_bytes())}
    found = _measure([each for each, _ in stamps], folders)
    with suppress(OSError):  # with a full or read-only disk, the time is spent again
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps([[a, b, low, high] for (a, b), (low, high) in found.items()]))
    return found


def _stamp(result: Measured, folders: Mapping[str, Path]) -> list[tuple[int, int]] | None:
    """Size and time of change of each file of predictions behind a result; None where a run has none."""
    out = []
    for id in result.run_ids:
        folder = folders.get(id)
        if folder is None or tracked_id(Run(folder)) != id:  # another run may have taken its place
            return None
        try:
            stat = predictions.path_of(folder, "test").stat()
        except OSError:
            return None
        out.append((stat.st_size, stat.st_mtime_ns))
    return out


def _measure(results: Sequence[Measured], folders: Mapping[str, Path]) -> Pairs:
    """Intervals of the pairs whose predictions are of the same images."""
    alike: list[Measured] = []
    scores: list[list[Scores]] = []
    first: Predictions | None = None
    for result in results:
        try:
            kept = [predictions.read(folders[id], "test") for id in result.run_ids]
        except RunError as error:
            log.warning("%s: no interval", error)
            continue
        first = first or kept[0]
        if all(_same_images(first, each) for each in kept):
            alike.append(result)
            scores.append([each.scores for each in kept])
    if first is None or len(alike) < 2:
        return {}
    try:
        found = pairwise(alike[0].metric, scores, first.labels, resamples=RESAMPLES, level=LEVEL)
    except HptError as error:
        log.warning("%s, %s: %s: no intervals", alike[0].target, alike[0].evaluation, error)
        return {}
    return {(alike[a].run_ids, alike[b].run_ids): (by.low, by.high) for (a, b), by in found.items()}


def _same_images(a: Predictions, b: Predictions) -> bool:
    return all(np.array_equal(getattr(a, key), getattr(b, key)) for key in ("names", "labels", "classes"))
