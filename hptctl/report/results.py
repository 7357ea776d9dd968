"""The results that a reader compares: test figures, as means over runs that differ only in their seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from hptctl.compare.arms import is_trained
from hptctl.format import percent, unbroken
from hptctl.report.frame import counted


@dataclass(frozen=True)
class RunLink:
    """A link to the row of a run in the table of all runs."""

    text: str
    run_id: str


@dataclass(frozen=True, eq=False)
class Result:
    """The test figure of runs that differ only in their seeds, itself alone. All figures are shares, 0 to 1."""

    target: str
    evaluation: str
    arm: str
    strategy: str
    own: bool
    """Whether the backbone was pretrained on the dataset that it is evaluated on, or on unknown data."""
    steps: int
    """Pretraining steps behind the backbone."""
    origin: str
    """What the pretraining started from: the name of a run or of weights."""
    policy: str
    """The augmentation policy of the pretraining."""
    share: float
    """The share of the pretraining images that was used."""
    chain: tuple[str, ...]
    """Datasets pretrained on one after the other, the last one included; the initial weights are not part of it."""
    metric: str
    mean: float
    std: float | None
    """Sample standard deviation over seeds; None for a single seed."""
    val: float
    """Mean of the headline metric on val over trainings; NaN where it was not logged."""
    spread: float
    """What charts draw to either side: `std`, or two binomial standard errors for a single seed."""
    run_ids: tuple[str, ...]
    seeds: tuple[str, ...]
    figures: tuple[float, ...]
    """The figure of each training; evaluations of one training are averaged."""
    trainings: tuple[str, ...]
    """What each run is an evaluation of."""
    trained: bool
    """Whether another seed would give another backbone: not of `base`, and not of weights as they are."""
    reruns: int
    """Reruns behind the figure of each run; 0 where a rerun gives the same figure, as of kNN."""
    rerun_std: float
    """Their standard deviation, a share, over the runs; NaN where it is not known."""
    test_images: int
    """Their number; 0 where it is not known."""
    lr_at_edge: bool
    """Whether val chose an end of the probe's grid of learning rates, so that a better one may lie beyond."""
    decayed: bool
    """Whether the learning rate of the pretraining had come to its end, as the published figures have it."""

    @property
    def variant(self) -> bool:
        """Whether the result is of the studies of robustness: fewer augmentations, or a share of the images."""
        return self.policy != "baseline" or self.share < 1

    @property
    def published(self) -> bool:
        """Whether the result is of the method as published: no variant, and trained until its learning rate ended."""
        return self.decayed and not self.variant

    @property
    def figure(self) -> str:
        """The mean as the page prints it."""
        return unbroken(percent(self.mean))

    @property
    def link(self) -> RunLink:
        """The mean, as a link to the first of its runs."""
        return RunLink(self.figure, self.run_ids[0])

    @property
    def place(self) -> tuple[str, str, str, int]:
        """What identifies the result: (target, evaluation, arm, steps)."""
        return self.target, self.evaluation, self.arm, self.steps


def results(frame: pd.DataFrame) -> list[Result]:
    """Every result, sorted by target, evaluation, arm and steps."""
    # Without pandas from here on: grouping each result's few runs by training takes it milliseconds.
    rows = counted(frame)[_COLUMNS].to_dict("records")
    groups: dict[tuple[str, str, str, str, int], list[dict[str, Any]]] = {}
    for row in rows:
        key = row["target"], row["evaluation"], row["arm"], row["strategy"], int(row["steps"])
        groups.setdefault(key, []).append({str(name): value for name, value in row.items()})
    return [_result(*key, groups[key]) for key in sorted(groups)]


def _result(target: str, evaluation: str, arm: str, strategy: str, steps: int, group: list[dict[str, Any]]) -> Result:
    first = group[0]
    runs = sorted(group, key=lambda run: (run["pretrain_seed"], run["seed"]))
    by_training: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        by_training.setdefault(run["training"], []).append(run)
    figures = [statistics.fmean(run["test"] for run in some) for some in by_training.values()]
    mean = statistics.fmean(figures)
    std = None if len(figures) == 1 else statistics.stdev(figures)
    images = min(int(run["test_images"]) for run in runs)
    pretrain_seeds = [run["pretrain_seed"] for run in runs]
    by_pretraining = all(pretrain_seeds) and len({*pretrain_seeds}) == len(runs)
    return Result(
        target=target,
        evaluation=evaluation,
        arm=arm,
        strategy=strategy,
        own=all(run["own"] for run in runs),
        steps=steps,
        origin=first["origin"],
        policy=first["policy"],
        share=first["share"],
        chain=first["chain"],
        metric=first["metric"],
        mean=mean,
        std=std,
        val=known_mean(known_mean(run["val"] for run in some) for some in by_training.values()),
        spread=_sampling_noise(mean, images) if std is None else std,
        run_ids=tuple(run["run_id"] for run in runs),
        seeds=tuple(
            (seed if by_pretraining else f"{seed}/{run['seed']}").strip("/")
            for seed, run in zip(pretrain_seeds, runs, strict=True)
        ),
        figures=tuple(figures),
        trainings=tuple(run["training"] for run in runs),
        trained=is_trained(strategy, first["kind"]),
        reruns=int(first["reruns"]),
        rerun_std=math.sqrt(known_mean(run["test_std"] ** 2 for run in runs)),
        test_images=images,
        lr_at_edge=any(run["lr_at_edge"] for run in runs),
        decayed=all(run["decayed"] for run in runs),
    )


_COLUMNS = ["target", "evaluation", "arm", "strategy", "steps", "run_id", "own", "origin", "policy", "share", "chain"]
_COLUMNS += ["metric", "val", "test", "test_std", "test_images", "pretrain_seed", "seed", "training", "kind", "decayed"]
_COLUMNS += ["reruns", "lr_at_edge"]


def known_mean(values: Iterable[float]) -> float:
    """The mean of those that are known; NaN where none is."""
    known = [value for value in values if not math.isnan(value)]
    return statistics.fmean(known) if known else math.nan


def at_best_length(found: Sequence[Result]) -> list[Result]:
    """For each arm the length of pretraining that is best on val; test takes no part in the choice."""
    best: dict[tuple[str, str, str], Result] = {}
    for result in found:
        key = (result.target, result.evaluation, result.arm)
        if key not in best or by_val(result) > by_val(best[key]):
            best[key] = result
    return list(best.values())


def published(found: Sequence[Result]) -> list[Result]:
    """The results of the method as published; of a strategy that has no such result on a dataset, what it has."""
    whole = {(c.target, c.evaluation, c.strategy) for c in found if c.published}
    return [c for c in found if c.published or (c.target, c.evaluation, c.strategy) not in whole]


def _sampling_noise(share: float, images: int) -> float:
    """Two standard errors of a share of so many test images; infinite where their number is not known."""
    return 2 * math.sqrt(max(share * (1 - share), 0.0) / images) if images else math.inf


def by_val(result: Result) -> tuple[float, int]:
    """What results are chosen by: val, and the longer pretraining where val has no preference."""
    return (-math.inf if math.isnan(result.val) else result.val), result.steps
