"""The results that a reader compares: test figures, as means over runs that differ only in their seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

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
    """Mean of the headline metric on val; NaN where it was not logged."""
    spread: float
    """What a difference must exceed to count: `std`, or two binomial standard errors for a single seed."""
    run_ids: tuple[str, ...]
    seeds: tuple[str, ...]

    @property
    def variant(self) -> bool:
        """Whether the result is of the studies of robustness: fewer augmentations, or a share of the images."""
        return self.policy != "baseline" or self.share < 1

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
        mean = float(runs["test"].mean())
        alone = len(runs) == 1
        std = None if alone else float(runs["test"].std(ddof=1))
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
                val=float(runs["val"].mean()),
                spread=_sampling_noise(mean, int(runs["test_images"].min())) if std is None else std,
                run_ids=tuple(runs["run_id"]),
                seeds=tuple(seed.strip("/") for seed in seeds),
            )
        )
    return out


_COLUMNS = ["run_id", "own", "origin", "policy", "share", "chain", "metric", "val", "test", "test_images"]
_COLUMNS += ["pretrain_seed", "seed"]


def at_best_length(found: Sequence[Result]) -> list[Result]:
    """For each arm the length of pretraining that is best on val; test takes no part in the choice."""
    best: dict[tuple[str, str, str], Result] = {}
    for result in found:
        key = (result.target, result.evaluation, result.arm)
        if key not in best or _val(result) > _val(best[key]):
            best[key] = result
    return list(best.values())


def published(found: Sequence[Result]) -> list[Result]:
    """The results of the method as published; of a strategy that has only variants on a dataset, those."""
    whole = {(c.target, c.evaluation, c.strategy) for c in found if not c.variant}
    return [c for c in found if not c.variant or (c.target, c.evaluation, c.strategy) not in whole]


def _sampling_noise(share: float, images: int) -> float:
    """Two standard errors of a share of so many test images; infinite where their number is not known."""
    return 2 * math.sqrt(max(share * (1 - share), 0.0) / images) if images else math.inf


def _val(result: Result) -> tuple[float, int]:
    return (-math.inf if math.isnan(result.val) else result.val), result.steps
