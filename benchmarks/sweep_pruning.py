"""What pruning saves: TPE sweeps of one space with pruning and without, from the same seeds.

uv run python benchmarks/sweep_pruning.py IMAGES.zip --trials 20 --seeds 0 1

A backbone is pretrained for a few steps in a new folder, and finetuned with few labels at 32 px: minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HPTCTL = [sys.executable, "-m", "hptctl"]


def run(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [*HPTCTL, *arguments], cwd=folder, env=os.environ | {"NO_PROGRESS": "1"}, text=True, stdout=subprocess.PIPE
    )
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout


def sweep(folder: Path, name: str, seed: int, pruner: str, options: argparse.Namespace) -> dict[str, float]:
    start = time.perf_counter()
    run(
        folder, "sweep", "finetune", "base", "--name", name, "--seed", str(seed), "--pruner", pruner,
        "--lr", "1e-4..1", "--schedule", options.schedule, "--labels", options.labels,
        "--set", f"finetune.eval_every={options.eval_every}",
        "--set", f"finetune.batch_size={options.batch_size}", "--trials", str(options.trials),
        "--workers", str(options.workers),
    )  # fmt: skip
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="a folder or zip of labelled images")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--pruners", nargs="+", default=["none", "median", "hyperband"], help="beside the first")
    parser.add_argument("--schedule", default="100-steps,150-steps")
    parser.add_argument("--labels", default="200")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--eval-every", type=int, default=10)
    parser.add_argument("--steps", type=int, default=60, help="of pretraining")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    rows: dict[str, list[dict[str, float]]] = {pruner: [] for pruner in options.pruners}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        dataset = str(options.images.resolve())
        steps = str(options.steps)
        run(folder, "pretrain", "-s", "target", "-d", dataset, "--preset", "tiny", "--steps", steps, "--name", "base")
        for seed in options.seeds:
            for pruner, found in rows.items():
                found.append(sweep(folder, f"{pruner}-{seed}", seed, pruner, options))
                print(f"seed {seed}, {pruner:8}" + "".join(f"{v:9.3g} {k}" for k, v in found[-1].items()), flush=True)
    medians = {
        pruner: {key: statistics.median(row[key] for row in found) for key in found[0]}
        for pruner, found in rows.items()
    }
    whole = medians[options.pruners[0]]["trial seconds"]
    for pruner, row in medians.items():
        print(f"{pruner:10} {row['trial seconds'] / whole:.2f} of the trials' time, {row['best val']:.3f} best val")
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "medians": medians}, indent=1))


if __name__ == "__main__":
    main()
