"""What a pretraining does with its backbone on the way: looks at it, and keeps it after the steps asked for and where
the looks favour it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from hpt import kept_backbones, weights
from hpt.callbacks import Log, Watch
from hpt.config import PretrainConfig


class Milestones:
    """Looks at the backbone and keeps it after some steps of a run; every process has them, the main one calls them."""

    def __init__(
        self, config: PretrainConfig, backbone: nn.Module, folder: Path, watch: Watch | None, log: Log
    ) -> None:
        self.config, self.backbone, self.folder, self.watch, self.log = config, backbone, folder, watch, log
        self.best: tuple[int, float] | None = None
        """The step and the figure of the best look, the earliest of equals."""
        self.seen: dict[str, float] = {}
        """The figures of the last look."""
        self.kept: dict[int, str] = {}
        """The steps asked for whose backbone has been kept, and its sha256."""

    def due(self, step: int) -> bool:
        """Whether the backbone is to be looked at or kept after `step` steps."""
        return step in self.config.save_at or self._look_due(step)

    def __call__(self, step: int) -> None:
        """Look at the backbone after `step` steps, keep it, or both.

        Raises:
            HptError: its features are no longer finite.
        """
        asked = keep = step in self.config.save_at
        if self.watch is not None and self._look_due(step):
            self.seen = self.watch(self.backbone)
            self.log(self.seen, step)
            figure = self.seen[self.watch.favours]
            if self.best is None or figure > self.best[1]:
                self.best = step, figure
                keep = keep or self.config.keep_best
        if keep:
            kept_backbones.path_of(self.folder, step).parent.mkdir(exist_ok=True)
            sha256 = self.save(kept_backbones.path_of(self.folder, step), step)
            self.kept |= {step: sha256} if asked else {}

    def save(self, path: Path, step: int) -> str:
        """Write the backbone as it is after `step` steps; returns the file's sha256."""
        config = self.config
        facts = {"strategy": config.strategy, "backbone": config.backbone, "steps": str(step)}
        return weights.save(self.backbone.state_dict(), path, metadata=facts)

    def finish(self) -> int:
        """Put the best into the backbone, where the run keeps its best; returns the steps that it has taken."""
        if not self.config.keep_best or self.best is None:
            return self.config.steps
        step = self.best[0]
        if step != self.config.steps:
            self.backbone.load_state_dict(load_file(kept_backbones.path_of(self.folder, step)))
        return step

    def prune(self) -> None:
        """Remove backbones that are no longer the best, once a checkpoint knows of the new one."""
        wanted = {*self.config.save_at, *([self.best[0]] if self.best else [])}
        for step in kept_backbones.steps_of(self.folder):
            if step not in wanted:
                kept_backbones.path_of(self.folder, step).unlink()

    def facts(self) -> dict[str, str]:
        """The hashes of the backbones kept, what the looks favoured, and whether the run keeps that."""
        found = {f"backbone_sha256_at_{step}": sha256 for step, sha256 in self.kept.items()}
        if self.best is None or self.watch is None:
            return found
        found |= {"best_step": str(self.best[0]), "best_by": self.watch.favours, "best_figure": f"{self.best[1]:.6g}"}
        return found | ({"kept_step": str(self.best[0])} if self.config.keep_best else {})

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must remember."""
        return {"best": list(self.best) if self.best else None, "seen": self.seen, "kept": self.kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`; where the file of the best backbone is missing, the best is sought anew."""
        self.seen, self.kept = state["seen"], state["kept"]
        if state["best"] is not None:
            step, figure = state["best"]
            if not self.config.keep_best or kept_backbones.path_of(self.folder, step).exists():
                self.best = int(step), float(figure)

    def _look_due(self, step: int) -> bool:
        interval = self.config.probe_interval
        return interval is not None and (step % interval == 0 or step == self.config.steps)
