"""`hptctl demo`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hptctl import options
from hptctl.format import duration, percent, with_spread

BASE, TARGET = "shapes", "digits"


def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Where the demonstration's runs go.")] = Path("hptctl-demo"),
) -> None:
    """Do the whole job on embedded images, in minutes: base, four strategies, probes, a sweep, a report.

    A small base is pretrained on drawn shapes; the strategies adapt it to scans of handwritten digits. Beside them
    stands the floor, a network that was never trained. This base is a toy: the figures say nothing about your images.

    Example:

        hptctl demo
    """
    import os
    import time

    folder.mkdir(parents=True, exist_ok=True)  # before seconds of imports, since it may be a file

    from hpt.config import UNTRAINED, EvaluateConfig, PretrainConfig, resolve
    from hpt.data.embedded import TOY
    from hpt.errors import RunError
    from hpt.strategies import STRATEGIES
    from hptctl import console, runs
    from hptctl.report import page
    from hptctl.runs import launch
    from hptctl.runs.weights import evaluated_defaults
    from hptctl.sweep import conductor
    from hptctl.sweep import folder as sweeps

    start, origin = time.monotonic(), launch.Origin(options.command_line(), experiment="demo")
    os.chdir(folder)
    os.environ.pop("MLFLOW_TRACKING_URI", None)  # what the demo tracks stays in its folder
    if runs.all_runs():
        raise RunError(f"{Path.cwd()} holds runs already", "choose another --folder, or remove it")

    def pretrain(strategy: str, dataset: str, weights: str | None, name: str) -> runs.Run:
        flags = {"strategy": strategy, "dataset": dataset, "weights": weights, "preset": "tiny"}
        run = launch.create_pretraining(resolve(PretrainConfig, flags=flags), origin, name=name)
        console.say(f"[{time.monotonic() - start:3.0f} s] {STRATEGIES[strategy].summary}: {dataset}")
        launch.execute(run)
        return run

    def config(kind: str, weights: str) -> EvaluateConfig:
        flags = {"kind": kind, "weights": weights, "dataset": TARGET, "preset": "tiny"}
        return resolve(EvaluateConfig, inherited=evaluated_defaults(weights), flags=flags)

    def probed(name: str, weights: str) -> tuple[str, str, str]:
        probe = launch.create_evaluation(config("linear", weights), origin)
        launch.execute(probe)
        results = probe.status().results
        return name, percent(results["val/top1"]), with_spread(results["test/top1"], results["test/top1_std"])

    console.say(f"{TOY}: the base is a toy, pretrained on drawn shapes in a minute")
    base = pretrain("target", BASE, None, "demo-base")
    console.say(f"[{time.monotonic() - start:3.0f} s] the floor, a network that was never trained: {TARGET}")
    rows = [probed(UNTRAINED, UNTRAINED)]
    for strategy in STRATEGIES:
        run = pretrain(strategy, TARGET, None if strategy == "target" else base.name, strategy)
        rows.append(probed(strategy, run.name))

    console.say(f"[{time.monotonic() - start:3.0f} s] finetuning hpt with 200 labels: a sweep over lr and schedule")
    tuned = config("finetune", "hpt").model_copy(update={"labels": "200"})
    sweep = sweeps.create_protocol(tuned, origin)
    conductor.run_sweep(sweep)
    made = page.write(Path("report.html"))

    console.say("")
    console.table(f"Linear probe on {TARGET}", ("strategy", ">val", ">test"), rows)
    best = sweep.status()
    test = percent(best.results["test/top1"])
    console.say(f"finetuned on {best.facts.labels_used} labels ({best.facts.chosen}): test {test}")
    console.say(f"report: {made.path.resolve()}   (in {duration(time.monotonic() - start)})")
    console.say(f"{TOY}: the base is a toy, pretrained on drawn shapes in a minute")
    console.say(f"MLflow: cd {folder} && hptctl ui")
