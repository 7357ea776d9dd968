"""The backbone and the images that `features` and `layers` describe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

if TYPE_CHECKING:
    from torch import Tensor

    from hpt.config import EvaluateConfig
    from hpt.data.dataset import Dataset
    from hpt.weights import Loaded

Split = Annotated[str, typer.Option("--split", help="train, val, test or all.")]


class Subject(NamedTuple):
    """A backbone that is described."""

    backbone: str
    state: Mapping[str, Tensor]
    """torchvision's keys without `fc`."""
    sha256: str
    """Of its file; empty for one that was never trained."""


def opened(run: str | None, flags: dict[str, Any], sets: list[str] | None) -> tuple[EvaluateConfig, Subject, Dataset]:
    """The configuration, backbone and dataset that a command asks for; of no run, the newest pretraining's."""
    from hpt import floor
    from hpt.config import EvaluateConfig, resolve
    from hpt.data.dataset import load
    from hptctl import console, runs
    from hptctl.runs.weights import evaluated_defaults, is_untrained

    weights = run or runs.newest().name
    config = resolve(
        EvaluateConfig,
        inherited=evaluated_defaults(weights),
        sets=sets or (),
        flags=flags | {"kind": "knn", "weights": weights},
    )
    loaded = None if is_untrained(weights) else read_weights(weights, config.backbone)
    with console.Display() as display:
        side = config.data.side(config.image_size)
        data = load(config.dataset, config.data, side=side, progress=display.progress)
        if loaded is None:
            return config, Subject(config.backbone, floor.untrained(config, data, display.progress), ""), data
    return config, Subject(loaded.backbone, loaded.state, loaded.sha256), data


def read_weights(name: str, backbone: str) -> Loaded:
    """The weights that a name stands for: a run's, RUN@STEP's, a file's or known ones."""
    from hptctl.runs.weights import find_weights
    from hptctl.runs.weights import read_weights as read

    return read(find_weights(name)[0], backbone=backbone)
