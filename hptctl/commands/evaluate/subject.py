"""The backbone and the images that `features` and `layers` describe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from hpt.config import EvaluateConfig
    from hpt.data.dataset import Dataset
    from hpt.weights import Loaded

Split = Annotated[str, typer.Option("--split", help="train, val, test or all.")]


def opened(run: str | None, flags: dict[str, Any], sets: list[str] | None) -> tuple[EvaluateConfig, Loaded, Dataset]:
    """The configuration, weights and dataset that a command asks for; of no run, the newest pretraining's."""
    from hpt.config import EvaluateConfig, resolve
    from hpt.data.dataset import load
    from hptctl import console, runs
    from hptctl.runs.weights import evaluated_defaults

    weights = run or runs.newest().name
    config = resolve(
        EvaluateConfig,
        inherited=evaluated_defaults(weights),
        sets=sets or (),
        flags=flags | {"kind": "knn", "weights": weights},
    )
    loaded = read_weights(weights, config.backbone)
    with console.Display() as display:
        side = config.data.side(config.image_size)
        return config, loaded, load(config.dataset, config.data, side=side, progress=display.progress)


def read_weights(name: str, backbone: str) -> Loaded:
    """The weights that a name stands for: a run's, RUN@STEP's, a file's or known ones."""
    from hptctl.runs.weights import find_weights
    from hptctl.runs.weights import read_weights as read

    return read(find_weights(name)[0], backbone=backbone)
