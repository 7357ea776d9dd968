"""Where a pretraining's folder has the backbones that were kept on the way, `backbones/step-500.safetensors`, and what
a backbone's file says of itself."""

from __future__ import annotations

from pathlib import Path

from hpt import step_files
from hpt.config import RESNETS, EvaluateConfig, PretrainConfig

FOLDER = "backbones"


def path_of(run: Path, step: int) -> Path:
    """The file of the backbone after `step` steps in a run's folder, whether it was kept or not."""
    return run / FOLDER / step_files.backbone_name(step)


def steps_of(run: Path) -> list[int]:
    """The steps whose backbones a run's folder has, ascending."""
    return step_files.steps(run / FOLDER, step_files.backbone_name)


def about(config: PretrainConfig | EvaluateConfig) -> dict[str, str]:
    """Which network's weights a file holds: its name and, where its tensors depend on it, the side of its images."""
    named = {"backbone": config.backbone}
    return named if config.backbone in RESNETS else named | {"image_size": str(config.image_size)}
