"""What to do next: commands in their order, each with the reason, from what was measured and nothing else."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hpt.config import PRESETS, PretrainConfig, resolve
from hpt.errors import HptError
from hpt.statistics import FEW_IMAGES
from hpt.timing import step_seconds
from hptctl.advice.backbones import Backbone
from hptctl.advice.measured import ESTIMATED, Measured, Worth
from hptctl.advice.words import labels_in_words
from hptctl.format import count, duration, signed, thousands

FEW_TO_LABEL = 5
"""Training images of each class that are asked for where there are no labels."""


@dataclass(frozen=True)
class Step:
    """One thing to do."""

    why: str
    commands: tuple[str, ...] = ()


def steps(found: Measured) -> Iterator[Step]:
    """What to do next, the most pressing first."""
    dataset = _dataset(found)
    if found.copies.across:
        yield Step(
            f"{count(found.copies.across, 'image')} of val or test are copies of images that are trained on: leave them"
            " out, and measure again",
            (f"hptctl datasets check {dataset} --quarantine",),
        )
    if found.opened.base is None:
        yield Step("name a base, which an adaptation would start from", (f"hptctl advise {dataset} --base WEIGHTS",))
        return
    if found.no_curves:
        yield from _without_labels(found)
        return
    if not found.worths:
        yield _adapt(found, "what adaptation brings is not known until it is tried")
        yield Step("then ask again: its curve is compared with the base's", (f"hptctl advise {dataset}",))
    best = max(found.worths, key=lambda worth: worth.gain.value, default=None)
    if best is not None and best.verdict == "gain":
        yield from _confirm(found, best)
    elif best is not None:
        yield from _try_otherwise(found, best)
    yield from _labels(found, best)


def _without_labels(found: Measured) -> Iterator[Step]:
    assert found.opened.base is not None
    for task in found.dense:
        start = found.opened.adapted[0].weights if found.opened.adapted else found.opened.base.weights
        yield Step(
            f"its {'boxes' if task == 'detection' else 'masks'} say what a backbone is worth there",
            (f"hptctl evaluate {task} {shlex.quote(start)} -d {_dataset(found)}",),
        )
    if not found.opened.adapted:
        yield _adapt(found, "adaptation needs no labels, and ends by itself where the features get worse")
    adapted = "".join(f" --adapted {shlex.quote(each.weights)}" for each in found.opened.adapted)
    yield Step(
        f"label some: {FEW_TO_LABEL} images of each class for train and {FEW_IMAGES} or more for val, in a table of"
        " path,split,label; only labels tell a gain",
        (f"hptctl advise labelled.csv --base {shlex.quote(found.opened.base.weights)}{adapted}",),
    )


def _confirm(found: Measured, best: Worth) -> Iterator[Step]:
    assert found.opened.base is not None
    dataset, base, name = _dataset(found), shlex.quote(found.opened.base.weights), best.backbone
    adapted, tested = shlex.quote(name.weights), _run_name(name, "probe")
    made: tuple[str, ...] = ()
    if found.how == ESTIMATED:
        made, base = (_pretrain(found, "base", steps=None) + " --name advised-base",), "advised-base"
    yield Step(
        "test it: until here val was looked at, and test images never",
        (
            *made,
            f"hptctl evaluate linear {base} -d {dataset}{_options(found)} --name base-probe",
            f"hptctl evaluate linear {adapted} -d {dataset}{_options(found)} --name {tested}",
            f"hptctl compare {tested} base-probe",
        ),
    )
    yield Step(
        "finetune it: labels then teach the whole network, and not a head alone",
        (f"hptctl sweep finetune {adapted} -d {dataset}{_options(found)}",),
    )
    if name.run is not None:
        seed = int(name.run.spec().config["seed"]) + 1
        yield Step(
            "one pretraining is one seed: a second one says whether the gain is the way's or this run's",
            (_pretrain(found, name.strategy, steps=name.run.spec().config["steps"], seed=seed),),
        )


def _try_otherwise(found: Measured, best: Worth) -> Iterator[Step]:
    run = best.backbone.run
    if best.verdict == "loss":
        yield Step("do without: the base is better on these images, and costs nothing")
    if run is not None:
        length = int(run.spec().config["steps"])
        tried = {each.strategy for each in found.opened.adapted}
        if best.verdict == "none":
            yield Step(
                f"adapt longer: {count(length, 'step')} may be too few; it ends by itself where it gets worse",
                (_pretrain(found, best.backbone.strategy, steps=5 * length) + " --stop-when-worse",),
            )
        if "hpt-bn" not in tried:
            yield Step(
                "train BatchNorm alone: of few images the whole network may forget what it knew",
                (_pretrain(found, "hpt-bn", steps=length),),
            )


def _labels(found: Measured, best: Worth | None) -> Iterator[Step]:
    rise = best.rise if best is not None and best.gain.value > 0 else found.base_rise
    if rise is None or found.curves is None or len(found.curves.rungs) < 2:
        return
    first, *_, every = found.curves.rungs
    said = f"the last doubling of labels brought {signed(rise.value)} points"
    said += f" ({signed(rise.low)} to {signed(rise.high)})"
    if rise.sign > 0:
        yield Step(f"label more: {said}, and the curve still rises at {thousands(every)}")
    elif best is not None and best.verdict == "gain":
        enough = labels_in_words(best.enough, first, every)
        yield Step(f"label no more for now: {said}; {enough} do what all did")
    else:
        yield Step(f"more labels alone may bring little: {said}")


def _adapt(found: Measured, why: str) -> Step:
    config = _planned(found)
    try:
        seconds = step_seconds(config) * config.steps
        told = f" (about {duration(seconds)} here, by a quick measurement of the model alone)"
    except HptError:  # it is measured by runs, not by an advice
        told = ""
    return Step(f"{why}{told}", (_pretrain(found, "hpt", steps=None) + " --stop-when-worse",))


def _planned(found: Measured) -> PretrainConfig:
    config = found.opened.config
    flags: dict[str, Any] = {"strategy": "hpt", "dataset": config.dataset, "backbone": config.backbone}
    flags |= {"image_size": config.image_size, "preset": config.preset, "device": config.device}
    return resolve(PretrainConfig, flags=flags | {"precision": config.precision})


def _pretrain(found: Measured, strategy: str, *, steps: int | None, seed: int | None = None) -> str:
    assert found.opened.base is not None
    words = ["hptctl pretrain", f"-s {strategy}", f"-d {_dataset(found)}"]
    words += [f"-w {shlex.quote(found.opened.base.weights)}"]
    words += [f"--steps {steps}"] if steps is not None else []
    words += [f"--seed {seed}"] if seed is not None else []
    return " ".join(words) + _options(found)


def _options(found: Measured) -> str:
    """The preset and the size of views, where they are not the defaults."""
    config = found.opened.config
    size = PRESETS[config.preset]["evaluate"].get("image_size", 224)
    preset = f" --preset {config.preset}" if config.preset != "paper" else ""
    return preset + (f" --image-size {config.image_size}" if config.image_size != size else "")


def _dataset(found: Measured) -> str:
    return shlex.quote(found.opened.config.dataset)


def _run_name(backbone: Backbone, suffix: str) -> str:
    name = backbone.run.name if backbone.run is not None else "adapted"
    return shlex.quote(f"{name}-{suffix}")
