"""The results that a reader compares: test figures, as means over runs that differ only in their seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from hptctl.compare.arms import is_trained
from hptctl.format import percent, unbroken
from hptctl.report.frame import counted


@dataclass(frozen=True)
class RunLink:
    """A link to the row of a run in the table of all runs."""

    text: str
    run_id: str


@dataclass(frozen=True)
class Result:
    """The test figure of runs that differ only in their seeds. All figures are shares, 0 to 1."""

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
    order = ["target", "evaluation", "arm", "strategy", "steps"]
    out = []
    # Without the columns of settings, which would be copied with each group: 2 s for 1,300 runs.
    for key, runs in counted(frame)[[*order, *_COLUMNS]].groupby(order, sort=True):
        target, evaluation, arm, strategy, steps = key
        first = runs.iloc[0]
        runs = runs.sort_values(["pretrain_seed", "seed"])
        by_training = runs.groupby("training", sort=False)
        figures, vals = by_training["test"].mean(), by_training["val"].mean()
        mean = float(figures.mean())
        std = None if len(figures) == 1 else float(figures.std(ddof=1))
        images = int(runs["test_images"].min())
        by_pretraining = runs["pretrain_seed"].is_unique and runs["pretrain_seed"].ne("").all()
        seeds = runs["pretrain_seed"] if by_pretraining else runs["pretrain_seed"] + "/" + runs["seed"]
        out.append(
            Result(
                target=str(target),
                evaluation=str(evaluation),
                arm=str(arm),
                strategy=str(strategy),
                own=bool(runs["own"].all()),
                steps=int(str(steps)),
                origin=str(first["origin"]),
                policy=str(first["policy"]),
                share=float(first["share"]),
                chain=tuple(first["chain"]),
                metric=str(first["metric"]),
                mean=mean,
                std=std,
                val=float(vals.mean()),
                spread=_sampling_noise(mean, images) if std is None else std,
                run_ids=tuple(runs["run_id"]),
                seeds=tuple(seed.strip("/") for seed in seeds),
                figures=tuple(map(float, figures)),
                trainings=tuple(runs["training"]),
                trained=is_trained(str(strategy), str(first["kind"])),
                reruns=int(first["reruns"]),
                rerun_std=math.sqrt(float((runs["test_std"] ** 2).mean())),
                test_images=images,
                lr_at_edge=bool(runs["lr_at_edge"].ne("").any()),
                decayed=bool(runs["decayed"].all()),
            )
        )
    return out


_COLUMNS = ["run_id", "own", "origin", "policy", "share", "chain", "metric", "val", "test", "test_images"]
_COLUMNS += ["pretrain_seed", "seed", "training", "kind", "decayed", "reruns", "test_std", "lr_at_edge"]


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
