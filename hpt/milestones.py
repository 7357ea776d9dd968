"""What a pretraining does with its backbone on the way: looks at it, and keeps it after the steps asked for and where
the looks favour it.

A run that is to stop when it becomes worse (`stop_when_worse`) ends at the first look whose figure lies below that of
its start, the look at step 0, by more than the noise of that one: half of the 95 % interval of kNN over val's images,
or a tenth of the effective rank where there are no labels. It is judged by one look, not by several: what has once
fallen so far below its base seldom comes back, and the best backbone is kept in any case.
"""

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
        self.base: tuple[float, float] | None = None
        """The figure of the look at step 0, and its noise."""
        self.worse_at: int | None = None
        """The step at which the run was found worse than its base, where it is to stop then."""
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
            if self.config.stop_when_worse:
                self._judge(figure, self.watch.noise, step)
            if self.best is None or figure > self.best[1]:
                self.best = step, figure
                keep = keep or self.config.keeps_best
        if keep:
            kept_backbones.path_of(self.folder, step).parent.mkdir(exist_ok=True)
            sha256 = self.save(kept_backbones.path_of(self.folder, step), step)
            self.kept |= {step: sha256} if asked else {}

    def save(self, path: Path, step: int) -> str:
        """Write the backbone as it is after `step` steps; returns the file's sha256."""
        facts = {"strategy": self.config.strategy, "steps": str(step)} | kept_backbones.about(self.config)
        return weights.save(self.backbone.state_dict(), path, metadata=facts)

    def finish(self) -> int:
        """Put the best into the backbone, where the run keeps its best; returns the steps that it has taken."""
        last = self.config.steps if self.worse_at is None else self.worse_at
        if not self.config.keeps_best or self.best is None:
            return last
        step = self.best[0]
        if step != last:
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
        found |= {"kept_step": str(self.best[0])} if self.config.keeps_best else {}
        if self.worse_at is not None and self.base is not None:
            found |= {"worse_at": str(self.worse_at), "base_figure": f"{self.base[0]:.6g}"}
            found |= {"base_noise": f"{self.base[1]:.6g}"}
        return found

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must remember."""
        found = {"best": list(self.best) if self.best else None, "seen": self.seen, "kept": self.kept}
        return found | {"base": list(self.base) if self.base else None, "worse_at": self.worse_at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`; where the file of the best backbone is missing, the best is sought anew."""
        self.seen, self.kept = state["seen"], state["kept"]
        if state.get("base") is not None:  # a checkpoint of an earlier version has none
            self.base = float(state["base"][0]), float(state["base"][1])
        self.worse_at = state.get("worse_at")
        if state["best"] is not None:
            step, figure = state["best"]
            if not self.config.keeps_best or kept_backbones.path_of(self.folder, step).exists():
                self.best = int(step), float(figure)

    def _judge(self, figure: float, noise: float, step: int) -> None:
        """Remember the base's figure, or say that the run has fallen below it."""
        if self.base is None:
            self.base = figure, noise
        elif figure < self.base[0] - self.base[1] and self.worse_at is None:
            self.worse_at = step

    def _look_due(self, step: int) -> bool:
        interval = self.config.probe_interval
        return interval is not None and (step % interval == 0 or step == self.config.steps)
