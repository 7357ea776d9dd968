"""What a run's folder records of it: `run.json` (what it is) and `status.json` (how it goes)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Kind = Literal["pretrain", "linear", "knn", "finetune", "sweep", "study"]

State = Literal["created", "running", "finished", "failed", "interrupted", "killed", "pruned"]


class Spec(BaseModel):
    """`run.json`: what the run is. Nothing in it changes once the run has started."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    name: str
    experiment: str
    created: float
    command: str
    config: dict[str, Any]
    source: str | None = None
    """Name of the pretraining whose backbone the run starts from or evaluates."""
    source_folder: str | None = None
    """Its folder."""
    parent: str | None = None
    """Name of the sweep that the run is a trial of, or of the study that asked for it."""
    tags: dict[str, str] = {}
    log_backbone: bool = False
    """Store `backbone.safetensors` in MLflow too."""


class Status(BaseModel):
    """`status.json`: how the run goes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: State = "created"
    pid: int = 0
    host: str = ""
    started: float | None = None
    ended: float | None = None
    reason: str = ""
    """One line: why it failed or stopped."""
    exit_code: int = 0
    results: dict[str, float] = {}
    """The figures that the run ended with."""
    facts: dict[str, str] = {}
    """What was found on the way: hashes of data and weights, counts, hardware, what val chose."""
