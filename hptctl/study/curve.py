"""The convergence curve of one pretraining: the backbones that it kept on its way, evaluated alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpt.config import EvaluateConfig
from hpt.errors import RunError
from hpt.files import write_text
from hpt.metrics import in_words
from hptctl import console, tracking
from hptctl.format import percent, thousands, unbroken
from hptctl.runs import Run, launch
from hptctl.runs.launch import Origin
from hptctl.runs.record import recorded


@dataclass(frozen=True)
class CurvePoint:
    """One backbone's evaluation."""

    step: int
    """Pretraining steps behind the backbone."""
    run: Run

    def figure(self, split: str) -> float:
        """The headline metric on a split."""
        status = self.run.status()
        return status.results[f"{split}/{status.facts.metric}"]

    def spread(self, split: str) -> float | None:
        """Its standard deviation over reruns; None where there was a single run."""
        status = self.run.status()
        return status.results.get(f"{split}/{status.facts.metric}_std")


def backbones(run: Run) -> dict[int, str]:
    """The backbones of a pretraining by steps, each as `--weights` takes it.

    Raises:
        RunError: the run is not a pretraining, kept no backbone on its way, or is not finished.
    """
    spec, status = run.spec(), run.status()
    if spec.kind != "pretrain":
        raise RunError(f"run '{run.name}' is a {spec.kind} run", "name a pretraining")
    if status.state != "finished":
        raise RunError(
            f"run '{run.name}' is not finished ({status.state})", f"go on with `hptctl pretrain --resume {run.name}`"
        )
    kept_best = status.facts.kept_step
    final = recorded(spec.tags.steps, "its steps") if kept_best is None else kept_best
    kept = [step for step in spec.config.get("save_at", ()) if step != final]
    if not kept:
        raise RunError(f"run '{run.name}' kept no backbones on its way", "pretrain with --save-at 50,500")
    return {step: f"{run.name}@{step}" for step in kept} | {final: run.name}


def evaluate(config: EvaluateConfig, origin: Origin) -> Run:
    """The finished evaluation of this configuration: an existing one, one that is gone on with, or a new one."""
    run = launch.find_evaluation(config)
    if run is None:
        run = launch.create_evaluation(config, origin)
    elif run.status().state == "finished":
        console.note(f"run '{run.name}' is finished already")
        return run
    console.note(f"run '{run.name}' in {run.path}")
    launch.execute(run)
    return run


def draw(run: Run, kind: str, points: Sequence[CurvePoint]) -> Path:
    """`artifacts/curve-<kind>.svg` in the pretraining's folder: the test figure against steps, the backbones that were
    kept on the way apart from the last."""
    from hptctl.charts.curves import Line, against_steps
    from hptctl.charts.svg import standalone

    metric = in_words(recorded(points[0].run.status().facts.metric, "its metric"))
    drawn = tuple((float(p.step), p.figure("test"), p.spread("test") or 0.0) for p in points)
    strategy = recorded(run.spec().tags.strategy, "its strategy")
    figures = ", ".join(f"{unbroken(percent(y))} at {thousands(x)} steps" for x, y, _ in drawn)
    alt = f"Test {metric} of {run.name} against pretraining steps, {kind}: {figures}"
    # The last one alone saw its learning rate decay: its distance from the others is no effect of its length.
    lines = [Line("on its way", strategy, drawn[:-1], decayed=False), Line(strategy, strategy, drawn[-1:])]
    svg = against_steps(lines, metric, alt, f"{run.name}-{kind}")
    path = run.path / "artifacts" / f"curve-{kind}.svg"
    path.parent.mkdir(exist_ok=True)
    write_text(path, standalone(svg))
    tracking.carry(run)
    return path
