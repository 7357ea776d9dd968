"""Evaluations that a comparison needs and that no run has: they are made as those of the other sides were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hptctl import options

if TYPE_CHECKING:
    from hptctl.compare.arms import Subject
    from hptctl.runs import Kind, Run

OF_THE_BACKBONE = {"backbone", "pooling"}
"""What an evaluation takes over from that of another backbone for a network that was never trained alone."""
OF_ITS_OWN = {"weights", "allow_partial", "processes"}
"""And what it does not take over."""


@dataclass(frozen=True)
class EvaluatedNow:
    """Makes the evaluations that are missing (`arms.Missing`)."""

    experiment: str
    """MLflow's, for their runs."""
    image_size: int | None
    """The side of the views in pixels; None for that of the others."""

    def is_weights(self, name: str) -> bool:
        from hptctl.runs.weights import is_weights

        return is_weights(name)

    def evaluate(self, subject: Subject, kind: Kind, among: Sequence[Subject]) -> Run:
        from hpt.config import EvaluateConfig, resolve
        from hpt.errors import ConfigError
        from hptctl import console
        from hptctl.runs import launch
        from hptctl.runs.weights import evaluated_defaults

        name = subject if isinstance(subject, str) else subject.name
        own = evaluated_defaults(name)  # none of a network that was never trained
        inherited = _as_others(among, kind) or _as_pretrained(among)
        if inherited is None:
            raise ConfigError(
                "no run among these says on which images to evaluate",
                f"name one, or `hptctl evaluate {kind} {name} --dataset ...` and compare the evaluations",
            )
        of_backbone = {key: value for key, value in (own or inherited).items() if key in OF_THE_BACKBONE}
        taken = {key: value for key, value in inherited.items() if key not in OF_THE_BACKBONE}
        flags = of_backbone | {"kind": kind, "weights": name, "image_size": self.image_size}
        config = resolve(EvaluateConfig, inherited=taken, flags=flags)
        if (run := launch.find_evaluation(config)) is None:
            run = launch.create_evaluation(config, launch.Origin(options.command_line(), self.experiment))
            console.note(f"{name} has no such evaluation: run '{run.name}' makes it")
        if run.status().state != "finished":
            launch.execute(run)
        return run


def _as_others(among: Sequence[Subject], kind: Kind) -> dict[str, object] | None:
    """The configuration of the first evaluation of this kind."""
    from hpt.config import EvaluateConfig
    from hptctl.compare.arms import evaluations_of

    for subject in among:
        if not isinstance(subject, str):
            having = evaluations_of(subject, kind) if subject.spec().kind == "pretrain" else [subject]
            if having and having[-1].spec().kind == kind:
                return having[-1].config(EvaluateConfig).model_dump(exclude=OF_ITS_OWN)
    return None


def _as_pretrained(among: Sequence[Subject]) -> dict[str, object] | None:
    """What an evaluation of the first pretraining takes over from it."""
    from hptctl.runs.weights import evaluated_defaults

    for subject in among:
        if not isinstance(subject, str) and subject.spec().kind == "pretrain":
            return evaluated_defaults(subject.name)
    return None
