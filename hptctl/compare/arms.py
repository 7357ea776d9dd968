"""The arms of a comparison: which evaluations represent the runs that were named, and whether they are comparable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Protocol

import numpy as np

from hpt import predictions
from hpt.errors import RunError
from hpt.metrics import Scores, weighted
from hpt.predictions import Predictions
from hpt.statistics import Model
from hptctl import runs
from hptctl.runs import Kind, Run
from hptctl.runs.record import Facts, recorded

KINDS: tuple[Kind, ...] = ("linear", "finetune", "knn", "detection", "segmentation")
"""Evaluations in the order of their weight: the first that all models have is compared."""


SIDES = {"detection": "test_side", "segmentation": "side"}
"""The field of its section that says the size of the images that a dense evaluation is tested on."""
FROZEN = ("base", "weights")
"""Strategies whose backbone nothing trained, so that no seed would give another one."""
Subject = Run | str
"""A run, or the name of weights."""


class Missing(Protocol):
    """Makes the evaluations that are missing."""

    def is_weights(self, name: str) -> bool:
        """Whether a name that no run has names weights."""

    def evaluate(self, subject: Subject, kind: Kind, among: Sequence[Subject]) -> Run:
        """The evaluation of a pretraining, or of weights, as those among which it is compared were made.

        Raises:
            ConfigError: none of them says how.
        """


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: an evaluation, or several of one model trained from several seeds."""

    name: str
    """The name that the user gave."""
    runs: tuple[Run, ...]
    predictions: Predictions
    """Scores of all runs' reruns, [R, n, C]."""
    model: Model
    """The scores of each training."""

    def figures(self, metric: str) -> list[float]:
        """The metric of each rerun."""
        kept = self.predictions
        once = np.ones((1, len(kept.labels)), dtype=np.float32)
        return [float(weighted(metric, scores, kept.labels)(once)[0]) for scores in kept.scores]

    def facts(self) -> Facts:
        """The facts of its first run."""
        return self.runs[0].status().facts


def arms(
    names: Sequence[str],
    split: str,
    kind: Kind | None = None,
    missing: Missing | None = None,
) -> list[Arm]:
    """The arms of a comparison, `a,b,c` pooling three runs; all on the same images.

    Args:
        names: of runs, or of weights.
        missing: what makes evaluations that are missing; None to refuse what has none.

    Raises:
        RunError: a run does not exist, is given twice, or lacks an evaluation or its predictions; or images, splits or
            classes differ. ConfigError: nothing says how to evaluate what is missing.
    """
    groups = [[_subject(part.strip(), missing) for part in name.split(",") if part.strip()] for name in names]
    every = [subject for group in groups for subject in group]
    kind = kind or _kind(every, refuse=missing is None)
    evaluations = [[_evaluation(subject, kind, every, missing) for subject in group] for group in groups]
    flat = [run.name for group in evaluations for run in group]
    if twice := next((name for name in flat if flat.count(name) > 1), None):
        raise RunError(f"run '{twice}' is given twice", "compare different runs")
    first = evaluations[0][0]
    found: list[Arm] = []
    for name, group in zip(names, evaluations, strict=True):
        for run in group:
            _refuse_other_images(first, run)
        kept = [predictions.read(run.path, split) for run in group]
        for run, each in zip(group, kept, strict=True):
            _refuse_other_predictions(kept[0] if not found else found[0].predictions, first, each, run)
        scores = [each.scores for each in kept]
        pooled = Predictions(kept[0].names, kept[0].labels, np.concatenate(scores), kept[0].classes)
        spec = group[0].spec()
        model = model_of(
            scores, [_training(run) for run in group], trained=is_trained(spec.tags.strategy or "", spec.kind)
        )
        found.append(Arm(name, tuple(group), pooled, model))
    return found


def is_trained(strategy: str, kind: str) -> bool:
    """Whether another seed would give another backbone: neither of `base` nor of weights as they are, unless they were
    finetuned."""
    return kind in ("finetune", "detection", "segmentation") or strategy not in FROZEN


def model_of(scores: Sequence[Scores], trainings: Sequence[str], *, trained: bool) -> Model:
    """What several evaluations come to as a side of a comparison: those of one training are reruns of one seed.

    Args:
        scores: [R, n, C] of each evaluation.
        trainings: what each evaluated, by any name.
    """
    by_training: dict[str, list[Scores]] = {}
    for each, training in zip(scores, trainings, strict=True):
        by_training.setdefault(training, []).append(each)
    return Model([np.concatenate(some) for some in by_training.values()], trained)


def headline(found: Sequence[Arm]) -> str:
    """The metric by which all arms were chosen.

    Raises:
        RunError: they were chosen by different metrics.
    """
    chose = {recorded(arm.facts().metric, "the metric that chose") for arm in found}
    if len(chose) > 1:
        raise RunError(
            f"the runs were chosen by different metrics ({', '.join(sorted(chose))})",
            f"say which one to compare: --metric {min(chose)}",
        )
    return chose.pop()


def unfair(found: Sequence[Arm]) -> list[str]:
    """What else than the backbone differs between the runs, a line for each difference."""
    out = []
    for key, what in (("labels_used", "numbers of training labels"), ("labels_fingerprint", "training labels")):
        values = {str(getattr(run.status().facts, key) or "") for arm in found for run in arm.runs}
        if len(values) > 1:
            shown = f" ({', '.join(sorted(values))})" if key == "labels_used" else ""
            out.append(f"the runs were given different {what}{shown}")
            break
    for key, what in (("backbone", "backbones"), ("image_size", "image sizes")):
        values = {str(_setting(run, key)) for arm in found for run in arm.runs}
        if len(values) > 1:
            out.append(f"the runs have different {what} ({', '.join(sorted(values))})")
    kinds = {run.spec().kind for arm in found for run in arm.runs}
    if len(kinds) > 1:
        out.append(f"the runs are evaluations of different kinds ({', '.join(sorted(kinds))})")
    for arm in found:
        if len(arm.runs) > len(arm.model.seeds):
            out.append(f"{arm.name}: evaluations of one pretraining are reruns of one seed, not further seeds")
    sides = [{_training(run) for run in arm.runs} for arm in found]
    if any(a & b for a, b in combinations(sides, 2)):
        out.append("the same pretraining is on both sides: they are compared as if they had been trained apart")
    return out


def _setting(run: Run, key: str) -> object:
    """A setting of an evaluation; the size of a detector's or segmenter's images, who have one of their own."""
    spec = run.spec()
    if key == "image_size" and spec.kind in SIDES:
        return spec.config[spec.kind][SIDES[spec.kind]]
    return spec.config[key]


def _training(run: Run) -> str:
    """The backbone that an evaluation is of; the evaluation itself, where no backbone was trained before it."""
    spec = run.spec()
    if (spec.tags.strategy or "") in FROZEN or spec.source_folder is None:
        return run.name
    return spec.tags.weights_file or spec.source_folder


def _subject(name: str, missing: Missing | None) -> Subject:
    """A run, or weights where evaluations can be made of them."""
    if missing is None or runs.find(name) is not None or not missing.is_weights(name):
        return runs.get(name)
    return name


def _kind(subjects: Sequence[Subject], *, refuse: bool) -> Kind:
    """The kind of evaluation that is compared: the first that all pretrainings have, those before others of which
    evaluations are given. Where some have none, it is one that others have, or else kNN, which takes seconds; or they
    are refused."""
    named = [each for each in subjects if isinstance(each, Run)]
    sources = [run for run in named if run.spec().kind == "pretrain"]
    given = {run.spec().kind for run in named}
    order = sorted(KINDS, key=lambda kind: kind not in given)
    common = [kind for kind in order if all(evaluations_of(run, kind) for run in sources)]
    if common and (sources or refuse):
        return common[0]
    if refuse:
        lacking = next(run for run in sources if not evaluations_of(run, "linear"))
        raise RunError(
            f"the pretrainings have no evaluation of one kind in common; '{lacking.name}' has no linear probe",
            f"`hptctl evaluate linear {lacking.name}` first",
        )
    known = [kind for kind in order if kind in given or any(evaluations_of(run, kind) for run in sources)]
    return known[0] if known else "knn"


def _evaluation(subject: Subject, kind: Kind, among: Sequence[Subject], missing: Missing | None) -> Run:
    """The run itself, a sweep's winner, a pretraining's newest evaluation of a kind, or one that is made now."""
    if isinstance(subject, str):
        assert missing is not None
        return missing.evaluate(subject, kind, among)
    run = subject
    spec, status = run.spec(), run.status()
    if spec.kind == "pretrain":
        if having := evaluations_of(run, kind):
            return having[-1]
        if missing is not None:
            return missing.evaluate(run, kind, among)
        raise RunError(
            f"run '{run.name}' has no finished {kind} evaluation", f"`hptctl evaluate {kind} {run.name}` first"
        )
    if status.state != "finished":
        raise RunError(f"run '{run.name}' is not finished ({status.state})", "let it finish first")
    return runs.get(recorded(status.facts.winner, "its winner")) if spec.kind == "sweep" else run


def evaluations_of(run: Run, kind: Kind) -> list[Run]:
    """Finished evaluations of a pretraining, on their own and not a sweep's trials, the oldest first."""
    folder = str(run.path.resolve())
    return [
        each
        for each in runs.all_runs()
        if (spec := each.spec()).kind == kind
        and spec.source_folder == folder
        and not runs.is_trial(each)
        and each.status().state == "finished"
    ]


def _refuse_other_images(first: Run, run: Run) -> None:
    mine, other = first.status().facts, run.status().facts
    for key, what in (("data_fingerprint", "images or labels"), ("split_fingerprint", "splits")):
        if getattr(mine, key) != getattr(other, key):
            seeds = [each.spec().config["data"]["split_seed"] for each in (first, run)]
            datasets = [each.spec().tags.dataset for each in (first, run)]
            why = f"split seeds {seeds[0]} and {seeds[1]}"
            if datasets[0] != datasets[1]:
                why = f"{datasets[0]} and {datasets[1]}"
            raise RunError(
                f"'{first.name}' and '{run.name}' were evaluated on different {what} ({why})",
                "evaluate both on one dataset and split",
            )


def _refuse_other_predictions(mine: Predictions, first: Run, other: Predictions, run: Run) -> None:
    for key in ("names", "labels", "classes"):
        if not np.array_equal(getattr(mine, key), getattr(other, key)):
            raise RunError(
                f"the predictions of '{run.name}' and '{first.name}' are of different {key}", "evaluate both again"
            )
