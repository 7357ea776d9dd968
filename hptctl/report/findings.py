"""What follows from the results: differences, verdicts, speed-ups and costs. Page and formats put them into words."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, permutations
from pathlib import Path
from typing import Literal

import pandas as pd

from hpt.data.embedded import is_toy
from hpt.statistics import SpeedUp, speed_up
from hptctl.compare.differences import Difference, Differences, PairVerdict, Stake
from hptctl.report.cost import OF_A_COST, PretrainingCost, cost
from hptctl.report.frame import without_folders
from hptctl.report.names import EVALUATIONS, FLOOR, arm_order, evaluation_order
from hptctl.report.results import Result, at_best_length, by_val, published, results

FURTHER = ("target", "hpt", "hpt-bn")
"""Strategies that train on the target images; `base` does not."""
Verdict = Literal["gain", "ahead", "tie", "not sure", "behind", "loss", "below", "unjudged", "open"]
"""Of further pretraining on a dataset. `ahead` and `behind` look better and worse than the base, of a single seed;
`tie` and `not sure` as `hpt.statistics.Verdict`; `below`: better than the base, but worse than an untrained backbone;
`unjudged`: nothing tells what chance may do;
`open`: the base or a further pretraining is missing."""
VERDICTS: dict[PairVerdict, Verdict] = {
    "win": "gain",
    "ahead": "ahead",
    "tie": "tie",
    "not sure": "not sure",
    "open": "unjudged",
    "behind": "behind",
    "loss": "loss",
}
OF_THE_FLOOR = {
    "--preset": "preset",
    "--backbone": "config.backbone",
    "--image-size": "config.image_size",
    "--labels": "config.labels",
}
"""What an untrained backbone has in common with what it stands beside: options, and columns of the frame."""
ANSWERS = 0.9
"""The part of all that is at stake that goes to the answers, one for each dataset."""


@dataclass(frozen=True)
class Faster:
    """How much longer `target` must train to reach the figure of another strategy."""

    result: Result
    speed_up: SpeedUp
    slowest: SpeedUp | None
    """The speed-up for the figure less its spread; None where the spread is not known."""
    fastest: SpeedUp | None
    """The speed-up for the figure plus its spread; None where the spread is not known."""


@dataclass(frozen=True)
class Score:
    """On how many datasets one arm was better than another, not told apart from it for sure, and worse."""

    wins: int
    ties: int
    losses: int


@dataclass(frozen=True)
class Findings:
    """The runs (`frame`, indexed by run id), their results, and what follows from them."""

    frame: pd.DataFrame
    every: tuple[Result, ...]
    """Every result, by evaluation in the order of their weight."""
    chosen: tuple[Result, ...]
    """For each arm the result at the length of pretraining that val chose."""
    shown: tuple[Result, ...]
    """Those of the method as published, which are compared over datasets."""
    difference: Differences[Result]
    costs: dict[tuple[str, str, str, int], PretrainingCost]
    """The cost of each result, by its place."""
    reproducible: bool = False
    """Whether the frame is without what depends on when, where and under which name a run ran."""

    @cached_property
    def targets(self) -> list[str]:
        """Datasets, each with what tells it apart from others of its name."""
        return sorted(self._every_on)

    def every_on(self, target: str) -> list[Result]:
        """The results on a dataset."""
        return self._every_on[target]

    def shown_on(self, target: str) -> list[Result]:
        """Those of the tables."""
        return self._shown_on.get(target, [])

    @cached_property
    def _every_on(self) -> dict[str, list[Result]]:
        return _by_target(self.every)

    @cached_property
    def _shown_on(self) -> dict[str, list[Result]]:
        return _by_target(self.shown)

    def toy(self, target: str) -> bool:
        """Whether what answers for a dataset rests on a base that was pretrained on the embedded `shapes`, so that
        nothing follows for anybody's images."""
        return any(
            is_toy(str(self.frame["dataset"][id]))
            for result in self.rivals(target)
            for run_id in result.run_ids
            for id in self._before(run_id)
        )

    def behind(self) -> set[str]:
        """The runs that the figures rest on: those that count, and the pretrainings before them."""
        counted = [run_id for result in self.every for run_id in result.run_ids]
        return {*counted, *(id for run_id in counted for id in self._before(run_id))}

    def _before(self, run_id: str) -> Iterator[str]:
        """The pretrainings before the one that an evaluation is of, back to the first."""
        source = self.frame["source_id"]
        id = source.get(source.get(run_id, ""), "")
        while id in source.index:
            yield id
            id = source[id]

    @property
    def evaluations(self) -> list[str]:
        return list(dict.fromkeys(result.evaluation for result in self.every))

    def rivals(self, target: str) -> list[Result]:
        """The results that answer for a dataset: of its weightiest evaluation, for backbones that saw its images."""
        return _rivals(self.shown_on(target))

    def further(self, target: str) -> tuple[Result | None, Result | None]:
        """The further pretraining that val chose, and the base that it is compared with."""
        return _further(self.rivals(target))

    def floor(self, target: str) -> Result | None:
        """An untrained backbone under the evaluation that answers."""
        return best([result for result in self.rivals(target) if result.strategy == FLOOR])

    def floor_command(self, target: str) -> str:
        """The command that evaluates an untrained backbone as the rivals are; empty where there is one."""
        rivals = self.rivals(target)
        own = [result for result in rivals if result.strategy != "weights"] or rivals
        first = self.frame.loc[own[0].run_ids[0]]
        if self.floor(target) is not None or "config.dataset" not in first or first["kind"] not in EVALUATIONS:
            return ""
        dataset = str(first["config.dataset"])
        dataset = without_folders(dataset) if self.reproducible else _from_here(dataset)
        words = ["hptctl", "evaluate", str(first["kind"]), FLOOR, "-d", dataset]
        for option, column in OF_THE_FLOOR.items():
            value = str(first.get(column) or "None")
            words += [option, value] if value not in {"None", "nan"} else []
        return shlex.join(words)

    def id_of(self, run_id: str) -> str:
        """What a run is cited by: its id in the store, or what its result rests on."""
        return str(self.frame["shown_id"][run_id]) if self.reproducible else run_id

    def neighbours(self, target: str) -> list[Result]:
        """The results by kNN of the strategies that answer for a dataset, unless kNN is what answers."""
        arms = {result.arm for result in self.rivals(target) if not result.evaluation.startswith("kNN")}
        return [result for result in self.shown_on(target) if result.evaluation == "kNN" and result.arm in arms]

    def beside(self, result: Result) -> list[Result]:
        """The results of the tables on the same dataset under the same evaluation."""
        return [each for each in self.shown_on(result.target) if each.evaluation == result.evaluation]

    def less_base(self, result: Result) -> Difference | None:
        """A result less that of the base; None where the base is missing, and for the base itself."""
        bases = [each for each in self.beside(result) if each.strategy == "base" and each.own]
        return against(self, result, best(bases))

    def verdict(self, target: str) -> Verdict:
        """How the further pretraining that val chose compares with the base and the floor."""
        trained, base = self.further(target)
        if trained is None or base is None:
            return "open"
        floor, found = self.floor(target), self.difference(trained, base).verdict
        if found in {"win", "ahead"} and floor is not None and trained.mean < floor.mean:
            return "below"
        return VERDICTS[found]

    def wholes(self, variants: Sequence[Result]) -> list[Result]:
        """What these are variants of: the whole method from the same start, after as many steps."""
        wanted = {_kin(result) for result in variants}
        return [result for result in self.every if not result.variant and result.own and _kin(result) in wanted]

    def scores(self, evaluation: str) -> dict[tuple[str, str], Score]:
        """The score of each arm (first) against each other (second), over the datasets that have both."""
        counts: dict[tuple[str, str], list[int]] = {}
        for shown in self._shown_on.values():
            mine = [result for result in shown if result.evaluation == evaluation and result.own]
            for a, b in permutations(mine, 2):
                if a.arm != b.arm:
                    at = {"win": 0, "loss": 2}.get(self.difference(a, b).verdict, 1)
                    counts.setdefault((a.arm, b.arm), [0, 0, 0])[at] += 1
        in_order = sorted(counts, key=lambda pair: [arm_order(arm) for arm in pair])
        return {pair: Score(*counts[pair]) for pair in in_order}

    def faster(self, target: str) -> list[Faster]:
        """hpt and hpt-bn at each length against the curve of `target`, under the evaluation that answers."""
        rivals = self.rivals(target)
        mine = [
            result
            for result in self.every_on(target)
            if result.evaluation == rivals[0].evaluation and result.own and result.published and result.steps
        ]
        curves = [
            [(c.steps, c.mean) for c in some]
            for _, some in _by_arm([result for result in mine if result.strategy == "target"])
        ]
        if not curves:
            return []
        curve = max(curves, key=lambda points: (len(points), max(points)))
        return [
            Faster(
                result,
                speed_up(result.steps, result.mean, curve),
                *(
                    speed_up(result.steps, result.mean + sign * result.spread, curve)
                    if math.isfinite(result.spread)
                    else None
                    for sign in (-1, 1)
                ),
            )
            for result in mine
            if result.strategy in {"hpt", "hpt-bn"}
        ]


def gather(frame: pd.DataFrame, *, reproducible: bool = False) -> Findings:
    """Results, differences and costs of the runs (`frame.tidy`); reads the predictions that they kept."""
    by_id = frame.set_index("run_id", drop=False)
    every = sorted(results(frame), key=lambda c: (evaluation_order(c.evaluation), arm_order(c.arm), c.target, c.steps))
    chosen = at_best_length(every)
    folders = {str(id): Path(folder) for id, folder in by_id["folder"].items() if folder}
    shown = published(chosen)
    kin = {_kin(result) for result in every if result.variant}
    compared = [*chosen, *(result for result in every if _kin(result) in kin and result not in chosen)]
    in_order = sorted(compared, key=lambda c: (c.target, c.evaluation))
    groups = [list(some) for _, some in groupby(in_order, key=lambda c: (c.target, c.evaluation))]
    # As dictionaries, since 300 look-ups in a frame take half a second.
    narrow = by_id.reindex(columns=list(OF_A_COST)).to_dict("index")
    return Findings(
        frame=by_id,
        every=tuple(every),
        chosen=tuple(chosen),
        shown=tuple(shown),
        difference=Differences(groups, folders, _stakes(every, shown, groups)),
        costs={result.place: cost(result, narrow) for result in every},
        reproducible=reproducible,
    )


def _from_here(dataset: str) -> str:
    """A dataset as a command in the working folder names it: whoever has the folder has it at another place."""
    path = Path(dataset)
    return f"./{path.relative_to(Path.cwd())}" if path.is_relative_to(Path.cwd()) else dataset


def best(found: Sequence[Result]) -> Result | None:
    """The result that val chooses; test takes no part."""
    return max(found, key=by_val, default=None)


def against(findings: Findings, result: Result, other: Result | None) -> Difference | None:
    """A result less another one; None where that is missing or the same."""
    return findings.difference(result, other) if other is not None and other is not result else None


def _by_target(found: Sequence[Result]) -> dict[str, list[Result]]:
    out: dict[str, list[Result]] = {}
    for result in found:
        out.setdefault(result.target, []).append(result)
    return out


def _rivals(mine: Sequence[Result]) -> list[Result]:
    """Of the results of the tables on a dataset."""
    first = [result for result in mine if result.evaluation == mine[0].evaluation]
    return [result for result in first if result.own] or first


def _further(rivals: Sequence[Result]) -> tuple[Result | None, Result | None]:
    bases = [result for result in rivals if result.strategy == "base"]
    return best([result for result in rivals if result.strategy in FURTHER]), best(bases)


def _stakes(
    every: Sequence[Result], shown: Sequence[Result], groups: Sequence[Sequence[Result]]
) -> Callable[[Result, Result], Stake]:
    """What each comparison has at stake.

    Most goes to the answers: on each dataset the further pretraining that val chose against the base. Val saw other
    images, but the same seeds, so what it chose of k may owe it to a lucky seed, which can only raise its figure: its
    p-value is raised k/2 times. Every other comparison stands for all lengths that val chose among.
    """
    lengths = Counter((result.target, result.evaluation, result.arm) for result in every)

    def candidates(results: Sequence[Result]) -> int:
        return sum(lengths[each.target, each.evaluation, each.arm] for each in results)

    answers: dict[frozenset[Result], float] = {}
    for mine in _by_target(shown).values():
        rivals = _rivals(mine)
        trained, base = _further(rivals)
        if trained is not None and base is not None:
            stood = candidates([each for each in rivals if each.strategy in FURTHER])
            stood *= candidates([each for each in rivals if each.strategy == "base"])
            answers[frozenset((trained, base))] = max(1.0, stood / 2)
    others = max(1, sum(len(group) * (len(group) - 1) // 2 for group in groups) - len(answers))

    def stake(a: Result, b: Result) -> Stake:
        if (tries := answers.get(frozenset((a, b)))) is not None:
            return Stake(ANSWERS / len(answers), tries)
        return Stake((1 - ANSWERS) / others, candidates([a]) * candidates([b]))

    return stake


def _kin(result: Result) -> tuple[str, str, str, str, int]:
    """What a variant has in common with the whole method."""
    return result.target, result.evaluation, result.strategy, result.origin, result.steps


def _by_arm(found: Sequence[Result]) -> list[tuple[str, list[Result]]]:
    arms = dict.fromkeys(result.arm for result in found)
    return [(arm, [result for result in found if result.arm == arm]) for arm in arms]
