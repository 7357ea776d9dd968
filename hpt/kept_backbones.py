"""Where a pretraining's folder has the backbones that were kept on the way: `backbones/step-500.safetensors`."""

from __future__ import annotations

from pathlib import Path

FOLDER = "backbones"


def path_of(run: Path, step: int) -> Path:
    """The file of the backbone after `step` steps in a run's folder, whether it was kept or not."""
    return run / FOLDER / f"step-{step}.safetensors"


def steps_of(run: Path) -> list[int]:
    """The steps whose backbones a run's folder has, ascending."""
    return sorted(int(path.stem.removeprefix("step-")) for path in (run / FOLDER).glob("step-*.safetensors"))
