"""What is left to do of a study, in images and in hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from hpt.config import (
    DENSE,
    PROTOCOL_LABELS,
    UNTRAINED,
    DetectionConfig,
    EvaluateConfig,
    PretrainConfig,
    SegmentationConfig,
    parse_labels,
)
from hpt.data.dataset import Dataset
from hpt.errors import DataError
from hpt.processes import choose_device
from hpt.schedule import parse_schedule
from hptctl import runs
from hptctl.runs.weights import saved_steps
from hptctl.study.definition import Cell
from hptctl.study.progress import Found, Progress
from hptctl.sweep.plan import configs


@dataclass(frozen=True)
class CellCost:
    """What the rest of a cell takes."""

    images: int
    """The number of images that go through the model forward and backward."""
    forward: int
    """The number of images that go through the model forward only."""
    seconds: float
    """The time on this machine: of a pretraining by the speed of such runs that it has done, else by the measured speed
    of the bare model; NaN where that was not measured."""


def costs(progress: Progress, cells: Sequence[Cell], *, measured: bool) -> dict[str, CellCost]:
    """What is left to do of each cell; seconds only where `measured`, which takes some itself."""
    from hpt.timing import image_seconds

    speeds: dict[tuple[str, int, str, str], tuple[float, float]] = {}
    done = _speeds(progress) if measured else {}
    out = {}
    for cell in cells:
        config, found = cell.config, progress[cell.id]
        images, forward = (0, 0) if found.state == "done" else _images(cell, progress)
        seconds = float("nan")
        if measured and (speed := _speed(done, config)) is not None:
            seconds = images / speed
        elif measured:
            key = (config.backbone, config.image_size, config.device, config.precision)
            if key not in speeds and images + forward:
                speeds[key] = image_seconds(config)
            training, looking = speeds.get(key, (0.0, 0.0))
            seconds = (images * training + forward * looking) / int(getattr(config, "processes", 1))
        out[cell.id] = CellCost(images, forward, seconds)
    return out


Like = tuple[str | None, int | None, str | None, str]
"""What pretrainings of one speed have in common: backbone, image size, strategy, and what they computed on."""


def _speeds(progress: Progress) -> dict[Like, float]:
    """The images per second of pretrainings that were done, the median over all that was logged."""
    found: dict[Like, list[float]] = {}
    for run, spec, status in progress.runs:
        if spec.kind == "pretrain" and status.facts.hardware is not None:
            tags, machine = spec.tags, _machine(status.facts.hardware)
            logged = [line["images_per_second"] for line in run.metrics() if "images_per_second" in line]
            found.setdefault((tags.backbone, tags.image_size, tags.strategy, machine), []).extend(logged[1:])
    return {like: median(logged) for like, logged in found.items() if logged}


def _speed(speeds: dict[Like, float], config: PretrainConfig | EvaluateConfig) -> float | None:
    if not speeds or not isinstance(config, PretrainConfig):
        return None
    from hptctl.runs.worker import hardware

    machine = _machine(hardware(choose_device(config.device), config.processes))
    return speeds.get((config.backbone, config.image_size, config.strategy, machine))


def _machine(hardware: str) -> str:
    """Without the version of PyTorch."""
    return hardware.partition(", torch")[0]


def _images(cell: Cell, progress: Progress) -> tuple[int, int]:
    """Images through the model with and without a backward pass, for what is left of a cell."""
    config, sizes = cell.config, progress.sizes(cell.config)
    if isinstance(config, PretrainConfig):
        if config.strategy == "base":
            return 0, round((sizes["train"] + sizes["val"]) * config.share)
        left = config.steps - _steps_done(progress[cell.id])
        return left * config.batch_size, left * config.batch_size
    evaluated = sizes["val"] + sizes["test"]
    statistics = sizes["train"] + sizes["val"] if config.weights == UNTRAINED else 0
    if config.kind == "knn":
        return 0, statistics + sizes["train"] + evaluated
    if config.kind in DENSE:
        return _dense_images(config, evaluated)
    labels = _labels(config, progress.readable(config), sizes["train"])
    if config.kind == "linear":
        drawn = config.linear.views * labels or config.linear.steps * min(config.linear.batch_size, labels or 10**9)
        return 0, statistics + drawn + evaluated
    tunes = configs(config) if cell.sweep else [config]
    images = forward = 0
    for each in tunes:
        batch = min(each.finetune.batch_size, labels or each.finetune.batch_size)
        schedule, used = parse_schedule(each.finetune.schedule), labels or PROTOCOL_LABELS
        steps = schedule.steps(used, batch)
        images += steps * batch
        forward += -(-steps // (each.finetune.eval_every or schedule.look_every(used, batch))) * sizes["val"]
    return images, statistics + forward + sizes["test"]


def _dense_images(config: EvaluateConfig, evaluated: int) -> tuple[int, int]:
    """Images of `image_size` that cost as much as what a dense evaluation looks at, heads aside."""
    if config.kind == "detection":
        section: DetectionConfig | SegmentationConfig = config.detection
        side, whole = sum(config.detection.sides) / 2, config.detection.test_side
    else:
        section, side, whole = config.segmentation, config.segmentation.crop, config.segmentation.side
    each, looked = ((length / config.image_size) ** 2 for length in (side, whole))
    return round(section.steps * section.batch_size * each), round(3 * evaluated * looked)


def _labels(config: EvaluateConfig, dataset: Dataset | None, train: int) -> int:
    """Training labels that an evaluation will use; 0 where that is not known.

    `train` is the published number of training images, by which those of a dataset that is not here are reckoned.
    """
    from hpt.evaluate.labels import choose

    if dataset is None:
        wanted = config.labels or (str(PROTOCOL_LABELS) if config.kind == "finetune" else "all")
        kind, value = parse_labels(wanted)
        known = {"all": train, "count": min(train, int(value)), "share": round(train * value)}
        return known.get(kind, 0)
    if not dataset.classes:
        return 0
    try:
        return len(choose(dataset.split("train")[1], len(dataset.classes), config, dataset.classes))
    except DataError:
        return 0


def _steps_done(found: Found) -> int:
    return saved_steps(runs.get(found.run)) if found.state == "stopped" else 0
