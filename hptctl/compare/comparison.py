"""The comparison of all pairs of arms: intervals, verdicts and tests, as JSON or as text."""

from __future__ import annotations

import statistics
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from hpt.metrics import hits
from hpt.statistics import (
    FEW_IMAGES,
    NOT_SURE_BECAUSE,
    SEEDS,
    Interval,
    McNemar,
    Verdict,
    difference,
    holm,
    mcnemar,
    resample,
    verdict,
)
from hptctl.compare.arms import Arm
from hptctl.format import count, interval, points, round_percent, signed, with_spread

OPPOSITE: dict[Verdict, Verdict] = {"win": "loss", "loss": "win", "tie": "tie", "not sure": "not sure"}


@dataclass(frozen=True)
class ArmPair:
    """What the images say of two arms."""

    a: str
    b: str
    interval: Interval
    adjusted: float
    """The interval's p-value, adjusted for the number of pairs (`holm`)."""
    verdict: Verdict
    """By the adjusted p-value; where it is not controlled, of these very trainings alone."""
    mcnemar: McNemar | None
    """Of accuracy; None where images have several labels, or the two have different numbers of reruns."""


@dataclass(frozen=True)
class Comparison:
    """Two or more arms, compared by one metric on the images of one split."""

    arms: Sequence[Arm]
    metric: str
    split: str
    pairs: Sequence[ArmPair]
    """The first arm with each other one, the second with those after it, ..."""

    @property
    def images(self) -> int:
        """Images that the arms are compared on."""
        return len(self.arms[0].predictions.labels)

    def document(self) -> dict[str, Any]:
        """All of it, for `--json`."""
        return {
            "metric": self.metric,
            "split": self.split,
            "images": self.images,
            "arms": [
                {
                    "name": arm.name,
                    "runs": [run.name for run in arm.runs],
                    "figures": arm.figures(self.metric),
                    "seeds": len(arm.model.seeds),
                }
                for arm in self.arms
            ],
            "pairs": [
                {"a": pair.a, "b": pair.b, "verdict": pair.verdict, "reason": self._because(pair)}
                | {key: value for key, value in asdict(pair.interval).items() if key not in {"a", "b", "chance"}}
                | {"a_mean": pair.interval.a, "b_mean": pair.interval.b}
                | {"p_value": pair.interval.p_value, "holm": pair.adjusted}
                | {"controlled": pair.interval.chance.controlled, "detectable": self._detectable(pair)}
                | {"mcnemar": asdict(pair.mcnemar) if pair.mcnemar else None}
                for pair in self.pairs
            ],
        }

    def sentences(self) -> tuple[str, str]:
        """The verdict on the only pair, and the figures that it rests on."""
        (pair,) = self.pairs
        by = pair.interval
        wide = f"{round_percent(by.level)} interval {interval(by.low, by.high)}"
        test = f"; McNemar p = {pair.mcnemar.p_value:.2g} (accuracy)" if pair.mcnemar else ""
        on = f"on {self.images} {self.split} images:"
        if pair.verdict in {"tie", "not sure"}:
            said = f"No difference found between {pair.a} and {pair.b} {on}"
            if pair.verdict == "not sure":
                said = f"Not sure whether {pair.a} and {pair.b} differ {on}"
            seeable = self._detectable(pair)  # 0 where the predictions are the same, which tells no size
            seen = f"; {points(seeable)} points would have been seen 4 times in 5" if seeable else ""
            return said, f"{signed(by.difference)} points of {self.metric}, {wide}{test}{seen}"
        better, worse = (pair.a, pair.b) if pair.verdict == "win" else (pair.b, pair.a)
        size = f"{points(abs(by.difference))} points of {self.metric}"
        return f"{better} is better than {worse} {on}", f"{size}; {pair.a} less {pair.b}: {wide}{test}"

    def caveats(self) -> list[str]:
        """What the verdicts do not say, a line each."""
        out = []
        if self.images >= FEW_IMAGES and any(pair.verdict == "not sure" for pair in self.pairs):
            out.append(f"not sure: {NOT_SURE_BECAUSE}; it counts as a tie in win/tie/loss")
        if self.images < FEW_IMAGES:
            out.append(f"{count(self.images, f'{self.split} image')} tell little: a verdict takes {FEW_IMAGES}")
        if self.images and len(np.unique(self.arms[0].predictions.labels)) == 1:
            out.append(f"all {self.split} images are of one class: a model that always says it is right on all of them")
        if alone := [arm.name for arm in self.arms if arm.model.trained and len(arm.model.seeds) == 1]:
            out.append(
                f"{', '.join(alone)}: one seed{' each' if len(alone) > 1 else ''}, so this holds for these very "
                f"trainings; to say it of the way they were trained, run {SEEDS - 1} more seeds"
            )
        return out

    def standings(self) -> list[tuple[str, str, str, str, str]]:
        """(letter, arm, figure, reruns, wins/ties/losses) of each arm, the best first."""
        rows = []
        for arm in self.arms:
            figures = arm.figures(self.metric)
            mean = statistics.fmean(figures)
            figure = with_spread(mean, statistics.stdev(figures) if len(figures) > 1 else None)
            won = Counter(pair.verdict for pair in self.pairs if pair.a == arm.name)
            won.update(OPPOSITE[pair.verdict] for pair in self.pairs if pair.b == arm.name)
            score = f"{won['win']}/{won['tie'] + won['not sure']}/{won['loss']}"
            rows.append((mean, (self._letters.get(arm.name, ""), arm.name, figure, str(len(figures)), score)))
        return [row for _, row in sorted(rows, key=lambda row: -row[0])]

    def differences(self) -> list[tuple[str, str, str, str, str, str]]:
        """(pair, points, interval, verdict, adjusted p-value, McNemar's) of each pair; arms go by their letters."""
        return [
            (
                f"{self._letters.get(pair.a, pair.a)} - {self._letters.get(pair.b, pair.b)}",
                signed(pair.interval.difference),
                interval(pair.interval.low, pair.interval.high),
                pair.verdict,
                f"{pair.adjusted:.2g}",
                "" if pair.mcnemar is None else f"{pair.mcnemar.p_value:.2g}",
            )
            for pair in self.pairs
        ]

    def _because(self, pair: ArmPair) -> str:
        """Why there is no verdict where the interval seems to give one; empty elsewhere."""
        if pair.verdict != "not sure":
            return ""
        return NOT_SURE_BECAUSE if self.images >= FEW_IMAGES else f"a verdict takes {FEW_IMAGES} images"

    def _detectable(self, pair: ArmPair) -> float:
        """The difference that would have been seen with a chance of 80 %, as one of so many pairs."""
        return pair.interval.chance.detectable(1 - (1 - pair.interval.level) / len(self.pairs))

    @property
    def _letters(self) -> dict[str, str]:
        """A letter for each arm, since names are long and come twice in a pair; none beyond z."""
        return dict(zip((arm.name for arm in self.arms), string.ascii_lowercase, strict=False))


def compare(
    found: Sequence[Arm], metric: str, split: str, *, resamples: int, seed: int = 0, level: float
) -> Comparison:
    """Compare every pair of arms.

    Raises:
        ConfigError: the task does not have that metric. HptError: these images leave it undefined.
    """
    labels = found[0].predictions.labels
    resampled = resample(metric, [arm.model for arm in found], labels, resamples=resamples, seed=seed)
    pairs_of = combinations(range(len(found)), 2)
    intervals = {(a, b): difference(resampled[a], resampled[b], level=level) for a, b in pairs_of}
    enough = len(labels) >= FEW_IMAGES
    adjusted = holm([by.p_value if enough else 1.0 for by in intervals.values()])
    right = [np.stack([hits(each, labels) for each in arm.predictions.scores]) for arm in found if labels.ndim == 1]
    pairs = []
    for ((a, b), by), p in zip(intervals.items(), adjusted, strict=True):
        matched = bool(right) and len(right[a]) == len(right[b])
        test = mcnemar(right[a], right[b]) if matched else None
        pairs.append(ArmPair(found[a].name, found[b].name, by, p, verdict(by, p), test))
    return Comparison(found, metric, split, pairs)
