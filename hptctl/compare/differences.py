"""Which results of a report differ, and how sure that is of all of its comparisons together.

Chance in the images is measured by the predictions that runs kept, or else by the binomial law; chance in the trainings
by their seeds.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np

from hpt import predictions
from hpt.errors import HptError, RunError
from hpt.files import write_text
from hpt.metrics import Scores
from hpt.predictions import Predictions
from hpt.statistics import (
    FEW_IMAGES,
    NOT_SURE_BECAUSE,
    SEEDS,
    Chance,
    chance_of,
    difference,
    holm,
    mean_variance,
    moderated,
    p_values,
    resample,
    undecided,
)
from hpt.user_folders import cache_folder
from hptctl.compare.arms import model_of
from hptctl.runs import Run, tracked_id

log = logging.getLogger("hptctl.compare")

RESAMPLES = 1000
"""Resamples of the test images. `hptctl compare --resamples 1000` gives the same intervals; its default of 2,000 takes
twice as long."""
LEVEL = 0.95
VERSION = 2
"""To be raised whenever the same predictions give other variances than before."""
SHARES = ("top1", "top5")
"""Metrics that are a share of the images, so that the binomial law holds for them."""

PairVerdict = Literal["win", "loss", "ahead", "behind", "tie", "not sure", "open"]
"""Of the first against the second. `win` and `loss` hold together with all others of a report; `ahead` and `behind`
look like that, but of a single seed; `tie` and `not sure` as `hpt.statistics.Verdict`; `open`: nothing tells what
chance may do."""


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
    def figures(self) -> tuple[float, ...]:
        """The figure of each training."""

    @property
    def run_ids(self) -> tuple[str, ...]: ...

    @property
    def trainings(self) -> tuple[str, ...]:
        """What each run is an evaluation of: runs of the same name are reruns of one seed."""

    @property
    def trained(self) -> bool:
        """Whether another seed would give another backbone."""

    @property
    def reruns(self) -> int:
        """Reruns behind the figure of each run; 0 where a rerun gives the same figure, as of kNN."""

    @property
    def rerun_std(self) -> float:
        """Their standard deviation, a share; NaN where it is not known."""

    @property
    def test_images(self) -> int:
        """Their number; 0 where it is not known."""


Pair = tuple[tuple[str, ...], tuple[str, ...]]
"""The runs of both sides."""


@dataclass(frozen=True)
class Difference:
    """A figure less another one; all values are shares."""

    points: float
    """The difference of the two means."""
    low: float
    high: float
    """`low` and `high` are the ends of the 95 % interval of this difference alone; NaN where there is none."""
    verdict: PairVerdict
    detectable: float
    """The difference that would have been seen, as one of the report's, with a chance of 80 %; NaN where unknown."""
    measured: bool
    """Whether the chance in the images comes from predictions on the same images, and not from the binomial law."""

    @property
    def bounded(self) -> bool:
        """Whether there is an interval."""
        return math.isfinite(self.low)

    @property
    def reserve(self) -> str:
        """What a figure that stands for the difference must be read with; empty where there is a verdict."""
        return RESERVES.get(self.verdict, "")

    @property
    def because(self) -> str:
        """Why it is no win or loss; empty where it is one."""
        return REASONS.get(self.verdict, "")

    def __neg__(self) -> Difference:
        return replace(self, points=-self.points, low=-self.high, high=-self.low, verdict=OPPOSITE[self.verdict])


RESERVES: dict[PairVerdict, str] = {
    "tie": "tie",
    "not sure": "not sure",
    "ahead": "one seed",
    "behind": "one seed",
    "open": "not judged",
}
REASONS: dict[PairVerdict, str] = {
    "tie": "chance may have made the difference",
    "not sure": NOT_SURE_BECAUSE,
    "ahead": "one seed cannot tell",
    "behind": "one seed cannot tell",
    "open": "chance unknown",
}
OPPOSITE: dict[PairVerdict, PairVerdict] = {
    "win": "loss",
    "loss": "win",
    "ahead": "behind",
    "behind": "ahead",
    "tie": "tie",
    "not sure": "not sure",
    "open": "open",
}


@dataclass(frozen=True)
class Stake:
    """What a comparison has at stake in a report."""

    share: float = 1.0
    """Its part of the 5 % of false verdicts that all comparisons have together, in proportion."""
    tries: float = 1.0
    """By how much its p-value is raised for others that stood to choice and were not chosen."""


@dataclass
class _Measurement:
    """What the predictions of a group of results tell, to be kept between reports."""

    images: int = 0
    units: dict[tuple[str, ...], list[float]] = field(default_factory=dict)
    """The figure of each seed, or of each rerun of a single seed."""
    variances: dict[Pair, float] = field(default_factory=dict)
    """The variance of a difference that comes from the images."""

    def document(self) -> dict[str, Any]:
        return {
            "images": self.images,
            "units": [[ids, units] for ids, units in self.units.items()],
            "variances": [[a, b, variance] for (a, b), variance in self.variances.items()],
        }

    @classmethod
    def of(cls, document: dict[str, Any]) -> _Measurement:
        return cls(
            document["images"],
            {tuple(ids): units for ids, units in document["units"]},
            {(tuple(a), tuple(b)): variance for a, b, variance in document["variances"]},
        )


M = TypeVar("M", bound=Measured)


class Differences(Generic[M]):
    """Any two results on one dataset under one evaluation, compared; all verdicts hold together.

    They are a family in the sense of multiple testing: of all verdicts of a report one or more is false by chance in at
    most 5 % of reports, by Holm's method. How far seeds vary is learnt from all results of an evaluation together
    (`hpt.statistics.moderated`).
    """

    def __init__(
        self,
        groups: Iterable[Sequence[M]],
        folders: Mapping[str, Path],
        stake: Callable[[M, M], Stake] = lambda a, b: Stake(),
    ) -> None:
        """Compare all pairs within each group, whose results have dataset and evaluation in common.

        What their predictions tell is kept in the user's cache folder: 16 datasets of some thousand images take minutes
        once, and nothing from then on. `folders`: of runs by their ids; those without predictions there are compared by
        their figures.
        """
        measured = [(group, _kept(group, folders)) for group in groups]
        spreads = _spreads([(result, found) for group, found in measured for result in group])
        compared: list[_Comparison] = []
        for group, found in measured:
            for a, b in combinations(group, 2):
                pair = a.run_ids, b.run_ids
                images, paired = _image_variance(a, b, found)
                if images is not None:
                    sides = [spreads[each] for each in pair]
                    chance = chance_of(images, [each.part for each in sides], [each.seeds for each in sides])
                    compared.append(_Comparison(pair, a.mean - b.mean, chance, paired, stake(a, b)))
        # What is of a single seed is no verdict: it speaks for itself alone, and leaves the others their whole 5 %.
        family = [each for each in compared if each.chance.controlled]
        alone = [each for each in compared if not each.chance.controlled]
        self.judged = len(family)
        """Comparisons whose verdicts hold together."""
        own = p_values([each.chance for each in family], [each.points for each in family])
        raised = [min(1.0, p_value * each.stake.tries) for p_value, each in zip(own, family, strict=True)]
        adjusted = holm(raised, [each.stake.share for each in family])
        whole = sum(each.stake.share for each in family)
        own = p_values([each.chance for each in alone], [each.points for each in alone])
        self._found = {each.pair: each.judged(p_value, 1.0) for each, p_value in zip(alone, own, strict=True)} | {
            each.pair: each.judged(p_value, each.stake.share / whole / each.stake.tries)
            for each, p_value in zip(family, adjusted, strict=True)
        }

    def __call__(self, a: M, b: M) -> Difference:
        """a less b."""
        if a is b:
            return Difference(0.0, 0.0, 0.0, "tie", 0.0, True)
        if (found := self._found.get((a.run_ids, b.run_ids))) is not None:
            return found
        if (found := self._found.get((b.run_ids, a.run_ids))) is not None:
            return -found
        return Difference(a.mean - b.mean, math.nan, math.nan, "open", math.nan, False)


@dataclass(frozen=True)
class _Comparison:
    pair: Pair
    points: float
    chance: Chance
    measured: bool
    stake: Stake

    def judged(self, p_value: float, part: float) -> Difference:
        """The comparison by an adjusted p-value, where it has that part of the 5 %."""
        margin = self.chance.margin(LEVEL)
        verdict: PairVerdict = undecided(self.points - margin, self.points + margin)
        if p_value < 1 - LEVEL:
            verdict = "win" if self.chance.controlled else "ahead"
            verdict = verdict if self.points > 0 else OPPOSITE[verdict]
        seen = self.chance.detectable(1 - (1 - LEVEL) * part)
        return Difference(self.points, self.points - margin, self.points + margin, verdict, seen, self.measured)


@dataclass(frozen=True)
class _Spread:
    """What the trainings behind a result leave to chance."""

    part: tuple[float, float]
    """Variance of the mean, and its degrees of freedom."""
    seeds: int | None
    """As `hpt.statistics.Resampled.seeds`."""


def _spreads(results: Sequence[tuple[M, _Measurement]]) -> dict[tuple[str, ...], _Spread]:
    """The spread of each result, by its runs. Those of enough seeds under one evaluation learn from each other."""
    out = {result.run_ids: _spread(result, found) for result, found in results}
    sharing: dict[str, list[tuple[str, ...]]] = {}
    for result, _ in results:
        if result.trained and len(result.figures) >= SEEDS:
            sharing.setdefault(result.evaluation, []).append(result.run_ids)
    for mine in sharing.values():
        counts = [int(out[ids].part[1]) + 1 for ids in mine]
        variances = [(out[ids].part[0] * seeds, seeds - 1) for ids, seeds in zip(mine, counts, strict=True)]
        for ids, seeds, (variance, degrees) in zip(mine, counts, moderated(variances), strict=True):
            out[ids] = replace(out[ids], part=(variance / seeds, degrees))
    return out


def _spread(result: Measured, found: _Measurement) -> _Spread:
    """Of the seeds; of a backbone that nothing trained, the reruns are all the chance there is."""
    units = found.units.get(result.run_ids, list(result.figures))
    part, reruns = mean_variance(units), len(units)
    if len(units) == 1 and result.reruns > 1 and math.isfinite(result.rerun_std):
        part, reruns = (result.rerun_std**2 / result.reruns, result.reruns - 1.0), result.reruns
    if result.trained or len(result.figures) > 1:
        return _Spread(part, len(result.figures))
    return _Spread(part, reruns if reruns > 1 or result.reruns else None)


def _image_variance(a: Measured, b: Measured, found: _Measurement) -> tuple[float | None, bool]:
    """The variance of a difference that comes from the images, and whether predictions tell it; None where nothing
    does."""
    if 0 < min(a.test_images, b.test_images) < FEW_IMAGES:
        return None, False
    if (variance := found.variances.get((a.run_ids, b.run_ids))) is not None:
        return variance, True
    if a.metric not in SHARES or not (a.test_images and b.test_images):
        return None, False
    # The images are the same for both, which can only make the difference more certain than it is taken for here.
    return sum(max(each.mean * (1 - each.mean), 0.0) / each.test_images for each in (a, b)), False


def _kept(group: Sequence[Measured], folders: Mapping[str, Path]) -> _Measurement:
    """What a group's predictions tell, from the cache as long as they are unchanged."""
    stamps = [(each, stamp) for each in group if (stamp := _stamp(each, folders)) is not None]
    if len(stamps) < 2:
        return _Measurement()
    about = [VERSION, np.__version__, RESAMPLES, [(c.metric, c.mean, c.run_ids, c.trainings, s) for c, s in stamps]]
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]
    file = cache_folder() / "intervals" / f"{key}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        return _Measurement.of(json.loads(file.read_bytes()))
    found = _measure([each for each, _ in stamps], folders)
    with suppress(OSError):  # with a full or read-only disk, the time is spent again
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(found.document()))
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


def _measure(results: Sequence[Measured], folders: Mapping[str, Path]) -> _Measurement:
    """The pairs whose predictions are of the same images."""
    alike: list[Measured] = []
    scores: list[list[Scores]] = []
    first: Predictions | None = None
    for result in results:
        try:
            kept = [predictions.read(folders[id], "test") for id in result.run_ids]
        except RunError as error:
            log.warning("%s: compared by its figures", error)
            continue
        first = first or kept[0]
        if all(_same_images(first, each) for each in kept):
            alike.append(result)
            scores.append([each.scores for each in kept])
    if first is None or len(alike) < 2:
        return _Measurement()
    models = [
        model_of(each, result.trainings, trained=result.trained) for each, result in zip(scores, alike, strict=True)
    ]
    out = _Measurement(len(first.labels))
    try:
        resampled = resample(alike[0].metric, models, first.labels, resamples=RESAMPLES)
        for (a, of_a), (b, of_b) in combinations(zip(alike, resampled, strict=True), 2):
            out.variances[a.run_ids, b.run_ids] = difference(of_a, of_b).chance.images
    except HptError as error:
        log.warning("%s, %s: %s: compared by their figures", alike[0].target, alike[0].evaluation, error)
        return _Measurement()
    out.units = {result.run_ids: each.units.tolist() for result, each in zip(alike, resampled, strict=True)}
    return out


def _same_images(a: Predictions, b: Predictions) -> bool:
    return all(np.array_equal(getattr(a, key), getattr(b, key)) for key in ("names", "labels", "classes"))
