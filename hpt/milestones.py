"""Backbones that a pretraining keeps on its way: at the steps asked for, and the one that its looks favour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from hpt import weights
from hpt.callbacks import Log, Watch
from hpt.config import PretrainConfig

FOLDER = "backbones"


def path_of(run: Path, step: int) -> Path:
    """Where the backbone of a run's folder after `step` steps lies, if it was kept."""
    return run / FOLDER / f"step-{step}.safetensors"


def steps_of(run: Path) -> list[int]:
    """Steps whose backbones a run's folder has, ascending."""
    return sorted(int(path.stem.removeprefix("step-")) for path in (run / FOLDER).glob("step-*.safetensors"))


class Milestones:
    """What is done with the backbone after some steps of a run: called on its main process, known to all."""

    def __init__(
        self, config: PretrainConfig, backbone: nn.Module, folder: Path, watch: Watch | None, log: Log
    ) -> None:
        self.config, self.backbone, self.folder, self.watch, self.log = config, backbone, folder, watch, log
        self.best: tuple[int, float] | None = None
        """Step and figure of the best look, the earliest of equals."""
        self.seen: dict[str, float] = {}
        """Of the last look."""
        self.kept: dict[int, str] = {}
        """Steps asked for that have their backbone, and its sha256."""

    def due(self, step: int) -> bool:
        """Whether something is to be done after `step` steps."""
        return step in self.config.save_at or self._look_due(step)

    def __call__(self, step: int) -> None:
        """Look, keep, or both."""
        asked = keep = step in self.config.save_at
        if self.watch is not None and self._look_due(step):
            self.seen = self.watch(self.backbone)
            self.log(self.seen, step)
            figure = self.seen[self.watch.favours]
            if self.best is None or figure > self.best[1]:
                self.best = step, figure
                keep = keep or self.config.keep_best
        if keep:
            path_of(self.folder, step).parent.mkdir(exist_ok=True)
            sha256 = self.save(path_of(self.folder, step), step)
            self.kept |= {step: sha256} if asked else {}

    def save(self, path: Path, step: int) -> str:
        """Write the backbone as it is after `step` steps; the file's sha256."""
        config = self.config
        facts = {"strategy": config.strategy, "backbone": config.backbone, "steps": str(step)}
        return weights.save(self.backbone.state_dict(), path, metadata=facts)

    def finish(self) -> int:
        """Where the run keeps its best, put that into the backbone; the steps behind it."""
        if not self.config.keep_best or self.best is None:
            return self.config.steps
        step = self.best[0]
        if step != self.config.steps:
            self.backbone.load_state_dict(load_file(path_of(self.folder, step)))
        return step

    def prune(self) -> None:
        """Remove what is no longer the best, once a checkpoint knows of the new one."""
        wanted = {*self.config.save_at, *([self.best[0]] if self.best else [])}
        for step in steps_of(self.folder):
            if step not in wanted:
                path_of(self.folder, step).unlink()

    def facts(self) -> dict[str, str]:
        """The backbones kept, what the looks favoured, and whether that is the run's."""
        found = {f"backbone_sha256_at_{step}": sha256 for step, sha256 in self.kept.items()}
        if self.best is None or self.watch is None:
            return found
        found |= {"best_step": str(self.best[0]), "best_by": self.watch.favours, "best_figure": f"{self.best[1]:.6g}"}
        return found | ({"kept_step": str(self.best[0])} if self.config.keep_best else {})

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must remember."""
        return {"best": list(self.best) if self.best else None, "seen": self.seen, "kept": self.kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`; a best backbone that is no longer there is looked for anew."""
        self.seen, self.kept = state["seen"], state["kept"]
        if state["best"] is not None:
            step, figure = state["best"]
            if not self.config.keep_best or path_of(self.folder, step).exists():
                self.best = int(step), float(figure)

    def _look_due(self, step: int) -> bool:
        interval = self.config.probe_interval
        return interval is not None and (step % interval == 0 or step == self.config.steps)
