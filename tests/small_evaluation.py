"""An evaluation of a second on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from hpt.callbacks import Callbacks
from hpt.config import EvaluateConfig
from hpt.data.dataset import Dataset
from hpt.evaluate import Common, evaluate
from hpt.processes import Processes

SETTINGS = {
    "weights": "unused",
    "dataset": "unused",
    "backbone": "resnet18",
    "image_size": 32,
    "device": "cpu",
    "keep_features": False,  # else a test would read what another has computed
    "linear": {"steps": 60, "batch_size": 64, "eval_every": 20, "views": 2, "lrs": [0.3, 3.0]},
    "finetune": {"schedule": "4-steps", "batch_size": 16, "micro_batch": 8, "eval_every": 2},
}


def config(kind: str, **changes: object) -> EvaluateConfig:
    return EvaluateConfig.model_validate(SETTINGS | {"kind": kind} | changes)


def run(
    settings: EvaluateConfig,
    dataset: Dataset,
    state: dict[str, Tensor],
    folder: Path,
    common: Common | None = None,
    processes: Processes | None = None,
    **callbacks: Any,
):
    logged: dict[int, dict[str, float]] = {}
    folder.mkdir(exist_ok=True)
    log = lambda metrics, step: logged.setdefault(step, {}).update(metrics)  # noqa: E731
    told = Callbacks(log=log, **callbacks)
    return evaluate(settings, dataset, state, folder, told, common=common, processes=processes), logged
