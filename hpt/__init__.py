"""Hierarchical pretraining as a library: no command line, no tracking, no pandas.

    from pathlib import Path
    import hpt

    config = hpt.resolve_config(hpt.PretrainConfig, flags={"strategy": "target", "dataset": "digits", "preset": "tiny"})
    dataset = hpt.load_dataset("digits", config.data, side=config.data.side(config.image_size))
    outcome = hpt.pretrain_backbone(config, dataset.pretraining_images(), None, Path("."))

    probe = {"kind": "knn", "weights": str(outcome.backbone), "dataset": "digits", "preset": "tiny"}
    config = hpt.resolve_config(hpt.EvaluateConfig, flags=probe)
    state = hpt.read_weights(outcome.backbone).state
    print(hpt.evaluate_backbone(config, dataset, state, Path("."), hpt.Callbacks()).metrics["test/top1"])

These names stay; the modules behind them may move. Each is imported when it is first used, so that `import hpt` loads
no PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpt.callbacks import Callbacks
    from hpt.config import EvaluateConfig, PretrainConfig
    from hpt.config import resolve as resolve_config
    from hpt.data.dataset import Dataset
    from hpt.data.dataset import load as load_dataset
    from hpt.encoder import build as build_backbone
    from hpt.errors import HptError, Interrupted, UserError
    from hpt.evaluate import EvaluationResult
    from hpt.evaluate import evaluate as evaluate_backbone
    from hpt.evaluate.embeddings import extract as extract_features
    from hpt.pretrain import Outcome
    from hpt.pretrain import pretrain as pretrain_backbone
    from hpt.weights import Loaded
    from hpt.weights import read as read_weights
    from hpt.weights import save as save_weights

__all__ = [
    "Callbacks",
    "Dataset",
    "EvaluateConfig",
    "EvaluationResult",
    "HptError",
    "Interrupted",
    "Loaded",
    "Outcome",
    "PretrainConfig",
    "UserError",
    "build_backbone",
    "evaluate_backbone",
    "extract_features",
    "load_dataset",
    "pretrain_backbone",
    "read_weights",
    "resolve_config",
    "save_weights",
]

# A function has its noun here, since `hpt.pretrain` and `hpt.evaluate` are modules.
_HOMES = {
    "Callbacks": ("hpt.callbacks", "Callbacks"),
    "Dataset": ("hpt.data.dataset", "Dataset"),
    "EvaluateConfig": ("hpt.config", "EvaluateConfig"),
    "EvaluationResult": ("hpt.evaluate", "EvaluationResult"),
    "HptError": ("hpt.errors", "HptError"),
    "Interrupted": ("hpt.errors", "Interrupted"),
    "Loaded": ("hpt.weights", "Loaded"),
    "Outcome": ("hpt.pretrain", "Outcome"),
    "PretrainConfig": ("hpt.config", "PretrainConfig"),
    "UserError": ("hpt.errors", "UserError"),
    "build_backbone": ("hpt.encoder", "build"),
    "evaluate_backbone": ("hpt.evaluate", "evaluate"),
    "extract_features": ("hpt.evaluate.embeddings", "extract"),
    "load_dataset": ("hpt.data.dataset", "load"),
    "pretrain_backbone": ("hpt.pretrain", "pretrain"),
    "read_weights": ("hpt.weights", "read"),
    "resolve_config": ("hpt.config", "resolve"),
    "save_weights": ("hpt.weights", "save"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hpt' has no attribute {name!r}")
    module, own = _HOMES[name]
    return getattr(importlib.import_module(module), own)


def __dir__() -> list[str]:
    return __all__
