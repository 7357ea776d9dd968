"""The base, what it was adapted to, and the images to judge them by: found, read, and refused where they do not fit."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from hpt.architectures import hub
from hpt.config import EvaluateConfig, resolve
from hpt.data.dataset import Dataset, load
from hpt.data.names import find, name_of
from hpt.errors import ConfigError, RunError, WeightsError
from hpt.known_weights import KNOWN
from hptctl import console, runs
from hptctl.runs import Run, ancestry
from hptctl.runs.weights import backbone_of, evaluated_defaults, find_weights, read_weights, step_of
from hptctl.runs.worker import data_facts, refuse_leak

MOST_FOUND = 4
"""The most pretrainings that are taken where none is named, the newest."""


@dataclass(frozen=True)
class Cost:
    """What a pretraining cost, as its run recorded it; NaN where it did not."""

    steps: int
    images: float
    """Images that the model saw, counted at every step."""
    hours: float
    """At the speed that was measured on the way, without decoding and pauses."""
    watt_hours: float
    hardware: str


@dataclass(frozen=True)
class Backbone:
    """A backbone to judge: the base, or what it was adapted to."""

    name: str
    """As it is shown: a run's name, or what `--base` or `--adapted` named."""
    weights: str
    """What `--weights` would name."""
    strategy: str
    """Of its pretraining; `base` for the base, `weights` for what is no run."""
    run: Run | None
    sha256: str
    state: Mapping[str, Tensor]
    cost: Cost | None = None
    other_start: bool = False
    """Whether its pretraining is known to have started from other weights than the base."""


@dataclass(frozen=True)
class Asked:
    """What the command line names."""

    dataset: str
    base: str | None
    adapted: Sequence[str]
    backbone: str | None
    """Of weights that do not say."""
    default_base: str
    """Where none is named, and no pretraining tells it."""
    flags: Mapping[str, Any]
    """Fields of an evaluation's configuration; None for one that was not given."""
    sets: Sequence[str]


@dataclass(frozen=True)
class Opened:
    """What is judged, and on which images."""

    config: EvaluateConfig
    """Of every backbone but for its weights."""
    dataset: Dataset
    base: Backbone | None
    """None where no base is at hand."""
    adapted: tuple[Backbone, ...]
    notes: tuple[str, ...]
    """How it was found, a line each."""


def opened(asked: Asked) -> Opened:
    """Find, read and check everything.

    Raises:
        DataError: no such dataset. WeightsError, RunError: no such weights, or not of the base's architecture.
        ConfigError: nothing says what an adaptation started from. RunError: one was pretrained on test images.
    """
    named = [_named(text) for text in asked.adapted]
    found = [] if named else _finished_on(name_of(find(asked.dataset)))
    while True:
        first = named[0] if named else _of_run(found[-1]) if found else None
        start = _start(asked, first)
        config = _settings(asked, first, start)
        dataset = _load(config)
        same = [run for run in found if run.status().facts.data_fingerprint == dataset.fingerprint]
        if not found or same[-1:] == found[-1:]:
            break
        found = same  # its images have changed since the newest pretraining, whose settings were taken
    notes: list[str] = []
    base = _base(start, config, asked, notes)
    if base is None:
        return Opened(config, dataset, None, (), tuple(notes))
    if not named:
        named = [_of_run(run) for run in _fitting(same, base, config, asked, notes)]
    adapted = tuple(_adapted(each, base, config) for each in named)
    facts = data_facts(dataset)
    for run in dict.fromkeys(each.run for each in (base, *adapted) if each.run and len(dataset.splits["test"])):
        refuse_leak([run, *ancestry(run)], config, dataset, facts)
    return Opened(config, dataset, base, adapted, tuple(notes))


@dataclass(frozen=True)
class _Named:
    """Weights that are named, before they are read."""

    name: str
    file: Path
    run: Run | None


def _named(text: str) -> _Named:
    """What `--adapted` names."""
    file, run = find_weights(text)
    if run is not None and run.spec().tags.strategy == "base":
        raise RunError(
            f"run '{run.name}' is of strategy base, which trains nothing: the base is measured so in any case",
            "name a pretraining of strategy hpt or hpt-bn",
        )
    return _Named(text, file, run)


def _of_run(run: Run) -> _Named:
    return _Named(run.name, run.backbone.resolve(), run)


def _finished_on(dataset: str) -> list[Run]:
    """The finished adaptations on a dataset of that name, the oldest first."""

    def adapts(run: Run) -> bool:
        tags = run.spec().tags
        if run.spec().kind != "pretrain" or tags.dataset != dataset or tags.strategy not in ("hpt", "hpt-bn"):
            return False
        return run.status().state == "finished" and run.backbone.exists() and not runs.is_trial(run)

    return [run for run in runs.all_runs() if adapts(run)]


def _start(asked: Asked, first: _Named | None) -> str:
    """The weights that `--base` names, or that the first adaptation started from, or the default.

    Raises:
        ConfigError: an adaptation does not say what it started from.
    """
    if asked.base is not None or first is None:
        return asked.base or asked.default_base
    if first.run is None:
        raise ConfigError(f"'{first.name}' does not say what it was adapted from", "name that: --base WEIGHTS")
    tags = first.run.spec().tags
    if tags.weights is None:
        raise ConfigError(
            f"run '{first.run.name}' started from random weights, so it adapts nothing",
            "name what to compare it with: --base WEIGHTS",
        )
    by_name = tags.weights in KNOWN or hub.is_named(tags.weights) or runs.find(tags.weights) is not None
    return tags.weights if by_name else tags.weights_file or tags.weights  # a path may be relative to another folder


def _settings(asked: Asked, first: _Named | None, start: str) -> EvaluateConfig:
    """The configuration by which all are judged: that of the first pretraining, or else of the base."""
    if first is not None and first.run is not None:
        inherited = evaluated_defaults(str(first.run.path))
    elif asked.base is None:  # the default, which may not be at hand
        inherited = {"backbone": asked.backbone or KNOWN[start].backbone}
    else:
        inherited = evaluated_defaults(start, asked.backbone)
    flags = {**asked.flags, "dataset": asked.dataset, "kind": "knn", "weights": start}
    return resolve(EvaluateConfig, inherited=inherited, sets=asked.sets, flags=flags)


def _load(config: EvaluateConfig) -> Dataset:
    with console.Display() as display:
        side = config.data.side(config.image_size)
        return load(config.dataset, config.data, side=side, progress=display.progress)


def _base(start: str, config: EvaluateConfig, asked: Asked, notes: list[str]) -> Backbone | None:
    try:
        file, run = find_weights(start)
    except WeightsError as error:
        if asked.base is not None or asked.adapted:
            raise
        notes.append(f"no base is at hand, so nothing is said of one ({error.what}); --base names one")
        return None
    loaded = read_weights(file, backbone=config.backbone)
    return Backbone(_shown(start, file, run), start, "base", run, loaded.sha256, loaded.state)


def _shown(text: str, file: Path, run: Run | None) -> str:
    """How weights are called: a file by its name, a run's folder by the run's, and others as they were named."""
    return file.stem if Path(text).is_file() else run.name if run is not None and Path(text).is_dir() else text


def _fitting(
    found: Sequence[Run], base: Backbone, config: EvaluateConfig, asked: Asked, notes: list[str]
) -> Sequence[Run]:
    """Of the pretrainings that were found, those that started from the base, the newest ones; the notes say which."""
    of_it = [run for run in found if run.status().facts.weights_sha256 == base.sha256]
    if asked.base is not None:  # or over another one on the way
        of_it = [run for run in found if run.spec().config["backbone"] == config.backbone]
    taken = of_it[-MOST_FOUND:]
    if taken:
        notes.append(f"taken as adapted: {', '.join(run.name for run in taken)}, pretrained on these images")
    if left := [run.name for run in found if run not in taken]:
        notes.append(f"left out: {', '.join(left)}, older or of another base; --adapted takes them")
    return taken


def _adapted(named: _Named, base: Backbone, config: EvaluateConfig) -> Backbone:
    run = named.run
    backbone = backbone_of(named.name if run is None else str(run.path), config.backbone)
    if backbone != config.backbone:
        raise WeightsError(
            f"{named.name} is a {backbone}, and the base {base.name} a {config.backbone}: what an adaptation brings is"
            " the difference between two states of one network",
            "name the base that it started from as --base, or another --adapted",
        )
    loaded = read_weights(named.file, backbone=config.backbone)
    if run is None:
        return Backbone(_shown(named.name, named.file, None), named.name, "weights", None, loaded.sha256, loaded.state)
    began = run.status().facts.weights_sha256
    return Backbone(
        name=_shown(named.name, named.file, run),
        weights=named.name,
        strategy=run.spec().tags.strategy or "weights",
        run=run,
        sha256=loaded.sha256,
        state=loaded.state,
        cost=_cost(run, step_of(named.file)),
        other_start=began is not None and began != base.sha256,
    )


def _cost(run: Run, kept: int | None) -> Cost:
    """What a run took, or what it had taken when it kept a backbone on its way."""
    config, facts = run.spec().config, run.status().facts
    logged = [line for line in run.metrics() if kept is None or line["step"] <= kept]
    speeds = [line["images_per_second"] for line in logged if "images_per_second" in line]
    steps = kept if kept is not None else facts.worse_at or run.spec().tags.steps or 0
    seen = steps * float(config["batch_size"])
    speed = statistics.median(speeds[1:] or speeds) if speeds else math.nan  # the first step warms up
    energy = max((line["energy_wh"] for line in logged if "energy_wh" in line), default=math.nan)
    return Cost(steps, seen, seen / speed / 3600 if speed else math.nan, energy, facts.hardware or "")
