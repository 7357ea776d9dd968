"""What pruning saves, and what it costs: TPE sweeps of one space with each pruner and without, from the same seeds.

uv run python benchmarks/sweep_pruning.py IMAGES.zip --trials 20 --seeds 0 1
uv run python benchmarks/sweep_pruning.py IMAGES.zip --replays 60 --curves curves.json

A backbone is pretrained for a few steps in a new folder, and finetuned with few labels at 32 px: minutes on two cores.
One sweep says little: its time varies by a tenth of the whole with the seed, and a val of 280 images by 3 %. So with
`--replays`, trials are not trained again: each takes the curve of the nearest learning rate among those that two grids
(seeds 0 and 1) recorded. Queue, sampler and pruner are the sweep's own, a trial costs the steps that it made, and
the winner of one grid's sweep is judged by the other's, which did not choose it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

HPTCTL = [sys.executable, "-m", "hptctl"]
LOW, HIGH = 1e-4, 1.0
RECORDED = 24
"""Learning rates of a recorded grid."""


def run(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [*HPTCTL, *arguments], cwd=folder, env=os.environ | {"NO_PROGRESS": "1"}, text=True, stdout=subprocess.PIPE
    )
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout


def sweep_words(name: str, seed: int, lr: str, options: argparse.Namespace) -> list[str]:
    return [
        "sweep", "finetune", "base", "--name", name, "--seed", str(seed), "--lr", lr,
        "--schedule", options.schedule, "--labels", options.labels, "--workers", str(options.workers),
        "--set", f"finetune.eval_every={options.eval_every}", "--set", f"finetune.batch_size={options.batch_size}",
    ]  # fmt: skip


def sweep(folder: Path, name: str, seed: int, pruner: str, options: argparse.Namespace) -> dict[str, float]:
    start = time.perf_counter()
    words = sweep_words(name, seed, f"{LOW}..{HIGH}", options)
    run(folder, *words, "--trials", str(options.trials), "--pruner", pruner)
    wall = time.perf_counter() - start
    trials = json.loads(run(folder, "sweep", "export", name))
    results = json.loads((folder / "runs" / name / "status.json").read_text())["results"]
    return {
        "wall seconds": wall,
        "trial seconds": sum(trial["ended"] - trial["started"] for trial in trials),
        "best val": max(trial["value"] for trial in trials if trial["value"] is not None),
        "test of it": results["test/top1"],
        "pruned": float(sum(trial["state"] == "pruned" for trial in trials)),
        "failed": float(sum(trial["state"] == "fail" for trial in trials)),
    }


class Curve(NamedTuple):
    lr: float
    schedule: str
    looks: dict[int, float]
    """Val by tenths of the length."""
    value: float | None
    """None: it failed after the last look."""


def record(folder: Path, options: argparse.Namespace) -> list[list[Curve]]:
    """The curves of two grids, which differ in their seed."""
    grid = [LOW * (HIGH / LOW) ** (i / (RECORDED - 1)) for i in range(RECORDED)]
    found = []
    for seed in (0, 1):
        run(folder, *sweep_words(f"grid-{seed}", seed, ",".join(f"{lr:.4g}" for lr in grid), options))
        rows = json.loads(run(folder, "sweep", "export", f"grid-{seed}"))
        found.append([Curve(**row["params"], looks=row["looks"], value=row["value"]) for row in rows])
    return found


def replay(
    place: Path, seed: int, pruner: str, options: argparse.Namespace, here: list[Curve], there: list[Curve]
) -> dict[str, float]:
    """One sweep on recorded curves: the steps it made, its best val, and that of the same point in the other grid."""
    from hpt.config import EvaluateConfig
    from hpt.schedule import parse_schedule
    from hptctl.sweep.plan import PlanOptions, make
    from hptctl.sweep.queue import Queue, best
    from hptctl.sweep.space import parse

    base = EvaluateConfig(kind="finetune", weights="base", dataset="digits", seed=seed)
    space, _ = parse("finetune", "tiny", flags={"lr": f"{LOW}..{HIGH}", "schedule": options.schedule})
    plan = make("finetune", base, space, PlanOptions(sampler="tpe", pruner=pruner, trials=options.trials))
    steps, judged = 0.0, {}
    with tempfile.TemporaryDirectory(dir=place) as folder, closing(Queue("s", Path(folder), plan, None)) as queue:
        queue.create()
        while (claim := queue.claim("w", Path(folder))) is not None:
            point = claim.params()
            same = [[curve for curve in grid if curve.schedule == point["schedule"]] for grid in (here, there)]
            nearest = min(range(len(same[0])), key=lambda i: abs(math.log(same[0][i].lr / point["lr"])))
            curve, judge = (grid[nearest] for grid in same)
            judged[claim.number] = judge.value or 0.0
            length, tenth = parse_schedule(curve.schedule).length / 10, 1  # it may fail before it is looked at
            for tenth, value in sorted((int(tenth), value) for tenth, value in curve.looks.items()):
                if claim.look(value, tenth):
                    claim.prune("pruned")
                    break
            else:
                if curve.value is None:
                    claim.fail("not finite")
                else:
                    claim.complete(curve.value)
            steps += tenth * length
        winner = best(queue.trials())
    assert winner is not None
    return {"steps": steps, "best val": winner.value or 0.0, "val of the other grid": judged[winner.number]}


def show(pruner: str, ratios: list[float], gains: list[float], what: str) -> None:
    spread = statistics.stdev(ratios) if len(ratios) > 1 else 0.0
    error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
    print(
        f"{pruner:10} {statistics.mean(ratios):.2f} of the {what} (sd {spread:.2f}),"
        f" val {100 * statistics.mean(gains):+.1f} points (se {100 * error:.1f}), {len(ratios)} sweeps",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="a folder or zip of labelled images")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--pruners", nargs="+", default=["none", "median", "halving", "hyperband"], help="to the first")
    parser.add_argument("--schedule", default="100-steps,150-steps")
    parser.add_argument("--labels", default="200")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--eval-every", type=int, default=10)
    parser.add_argument("--steps", type=int, default=60, help="of pretraining")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--replays", type=int, default=0, help="seeds that are replayed on each of two recorded grids")
    parser.add_argument("--curves", type=Path, help="where the grids are kept; read where it is there")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    rows: dict[str, list[dict[str, float]]] = {pruner: [] for pruner in options.pruners}
    first = options.pruners[0]
    cost, val = ("steps", "val of the other grid") if options.replays else ("trial seconds", "best val")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        known = options.curves is not None and options.curves.exists()
        if not (options.replays and known):
            words = ("pretrain", "-s", "target", "-d", str(options.images.resolve()), "--preset", "tiny")
            run(folder, *words, "--steps", str(options.steps), "--name", "base")
        if options.replays:
            grids = (
                [[Curve(*row) for row in grid] for grid in json.loads(options.curves.read_text())]
                if known
                else record(folder, options)
            )
            if options.curves is not None and not known:
                options.curves.write_text(json.dumps(grids))
            for pruner, found in rows.items():
                for seed in range(options.replays):
                    found += [replay(folder, seed, pruner, options, *pair) for pair in (grids, grids[::-1])]
        else:
            for seed in options.seeds:
                for pruner, found in rows.items():
                    found.append(sweep(folder, f"{pruner}-{seed}", seed, pruner, options))
                    figures = "".join(f"{value:9.3g} {key}" for key, value in found[-1].items())
                    print(f"seed {seed}, {pruner:9}{figures}", flush=True)
    for pruner, found in rows.items():
        pairs = list(zip(found, rows[first], strict=True))
        show(pruner, [a[cost] / b[cost] for a, b in pairs], [a[val] - b[val] for a, b in pairs], cost)
    if options.json:
        medians = {
            pruner: {key: statistics.median(row[key] for row in found) for key in found[0]}
            for pruner, found in rows.items()
        }
        options.json.write_text(json.dumps({"rows": rows, "medians": medians}, indent=1))


if __name__ == "__main__":
    main()
