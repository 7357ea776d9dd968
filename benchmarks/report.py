"""How long the report on a store of many runs takes, how large it is, and how long `runs list` takes.

    uv run python benchmarks/report.py --folder /tmp/many --datasets 16
    uv run python benchmarks/report.py --folder /tmp/many --datasets 16 --writers 16 --copies 9 --serve
    uv run python benchmarks/report.py --folder /tmp/many --datasets 160 --writers 16 --store http://127.0.0.1:5000

The store is made up: figures fall from curves, predictions from images that are more or less hard. Making it takes some
minutes; a folder that holds one already is reported on as it is. `--writers` processes make it at once, each a dataset
at a time, as the jobs of a cluster would; `lost` are the runs that the store has not got, or without all their metrics.
`--serve` starts an MLflow server on a PostgreSQL of its own in the folder, whose seconds are measured too; the database
then gets `--copies` of what the writers made, of datasets of their own, since writing 10,000 runs takes an hour.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from served import Served, copy, serving

from hpt import predictions
from hpt.config import EvaluateConfig, PretrainConfig, resolve
from hpt.evaluate.results import summarise, write_per_class
from hpt.predictions import Predictions
from hptctl import runs, tracking

T0, HOUR = 1_760_000_000.0, 3600.0
CLASSES = np.array(["annual crop", "forest", "highway", "industrial", "pasture", "residential", "river", "sea lake"])
LENGTHS = {"base": (0,), "target": (5000, 50_000, 100_000, 200_000), "hpt": (50, 500, 5000), "hpt-bn": (5000,)}
POLICIES = ("no-grayscale", "no-color", "crop-blur", "crop-only")
SHARES = (0.01, 0.1, 0.5)
GRID = [("0.01", "2500-steps"), ("0.01", "90-epochs"), ("0.001", "2500-steps"), ("0.001", "90-epochs")]


class Store:
    """One dataset's runs after the other's."""

    def __init__(self, images: int) -> None:
        self.images, self.clock, self.ids = images, T0, dict[str, str]()
        self.waits: list[float] = []
        """Seconds that each run waited for the store."""

    def run(
        self, kind: Any, name: str, config: dict[str, Any], tags: dict[str, Any], state: Any, **spec: Any
    ) -> runs.Run:
        self.clock += HOUR
        text = {key: str(value) for key, value in tags.items()}
        command = f"hptctl {kind} --name {name}"
        run = runs.create(kind, name, "", experiment="many", command=command, config=config, tags=text, **spec)
        run.start()
        run.write_status(state=state, ended=self.clock)
        return run

    def finish(self, run: runs.Run, results: dict[str, float], facts: dict[str, str]) -> None:
        if results:
            run.append_metrics(results, 10**6)
        run.write_status(results=results, facts=facts)
        since = time.perf_counter()
        tracking.sync(run)
        self.waits.append(time.perf_counter() - since)
        self.ids[run.name] = runs.tracked_id(run) or ""

    def pretrain(
        self, strategy: str, dataset: str, steps: int, seed: int, weights: str, sets: tuple[str, ...] = ()
    ) -> str:
        flags = {"strategy": strategy, "dataset": dataset, "steps": steps or None, "seed": seed}
        flags |= {"weights": None if strategy == "target" else weights}
        config = resolve(PretrainConfig, sets=["preset=small", *sets], flags=flags).model_dump(mode="json")
        name = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join([strategy, dataset, str(steps), str(seed), *sets]))
        source = runs.find(weights) if strategy != "target" else None
        link = {"source": source.name, "source_folder": str(source.path.resolve())} if source else {}
        tags = {"strategy": strategy, "dataset": dataset, "steps": steps, "seed": seed, "preset": "small"}
        tags |= {"weights": config["weights"] or "", "version": "0.1.0"}
        run = self.run("pretrain", name, config, tags, "finished", **link)
        look = max(1, steps // 8)
        for step in sorted({max(1, round(steps * i / 40)) for i in range(1, 41)} if steps else ()):
            run.append_metrics({"loss": 7.5 * (step + 5) ** -0.18 + 0.05 * seed, "images_per_second": 142.0}, step)
        for step in range(0, steps + 1, look) if strategy != "base" else ():
            gone = math.log10(step / 50 + 1)
            run.append_metrics(
                {
                    "probe/knn_top1": 0.5 + 0.06 * gone,
                    "probe/alignment": 0.4 - 0.05 * gone,
                    "probe/uniformity": -2.1 - 0.2 * gone,
                    "probe/effective_rank": 40 + 25 * gone,
                },
                step,
            )
        facts = {"data_fingerprint": f"feed{dataset}", "split_fingerprint": "5ca1ab1e", "weights_sha256": "a1b2c3d4e5"}
        facts |= {"images": "8400", "hardware": "1 x 2-core x86_64 (cpu), torch 2.15.0"}
        self.finish(run, {}, facts)
        return run.name

    def evaluate(
        self, kind: Any, source: str, dataset: str, quality: float, *, reruns: int, labels: str = "all",
        parent: str | None = None, sets: tuple[str, ...] = (), test: bool = True,
    ) -> str:  # fmt: skip
        trained = runs.get(source).spec().tags.text()
        flags = {"kind": kind, "weights": source, "dataset": dataset, "labels": labels}
        config = resolve(EvaluateConfig, sets=["preset=small", *sets], flags=flags).model_dump(mode="json")
        tags = {"dataset": dataset, "pretrain_dataset": trained["dataset"], "pretrain_seed": trained["seed"], "seed": 0}
        tags |= {key: trained[key] for key in ("strategy", "steps")} | {"metric": "top1", "labels": labels}
        tags |= {"preset": "small", "source_id": self.ids[source], "version": "0.1.0"}
        name = f"{kind}-{labels}-{source}-{len(self.ids)}"
        folder = str(runs.get(source).path.resolve())
        run = self.run(kind, name, config, tags, "finished", source=source, source_folder=folder, parent=parent)
        seed = int.from_bytes(f"{dataset}".encode(), "little") % 2**32
        shared = np.random.default_rng(seed)
        truth, hardness = shared.integers(0, len(CLASSES), self.images), shared.random(self.images)
        own = np.random.default_rng([seed, len(self.ids)])
        scores = own.normal(0, 0.6, (reruns, self.images, len(CLASSES))).astype(np.float32)
        right = hardness + own.normal(0, 0.15, (reruns, self.images)) < quality
        taken = np.where(right, truth, (truth + 1 + (own.random(truth.shape) < 0.4)) % len(CLASSES))
        np.put_along_axis(scores, taken[..., None], 4.0, axis=2)
        names = np.array([f"{i:05d}.png" for i in range(self.images)])
        results = {"val/top1": float(right.mean())}
        if test:
            kept = Predictions(names, truth, scores, CLASSES)
            predictions.write(run.path, "test", kept)
            write_per_class(run.path, "test", kept)
            results |= summarise("test", scores, truth)
        facts = {"data_fingerprint": f"feed{dataset}", "split_fingerprint": "5ca1ab1e", "test_images": str(self.images)}
        self.finish(run, results, facts)
        return run.name

    def sweep(self, source: str, dataset: str, quality: float, labels: str) -> None:
        trained = runs.get(source).spec().tags.text()
        tags = {key: trained[key] for key in ("strategy", "steps")} | {"dataset": dataset, "metric": "top1"}
        tags |= {"pretrain_seed": trained["seed"], "labels": labels}
        config = {"space": {"lr": [0.01, 0.001], "schedule": ["2500-steps", "90-epochs"]}}
        run = self.run("sweep", f"sweep-{labels}-{source}", config, tags, "finished", source=source)
        self.finish(run, {}, {})
        for number, (lr, schedule) in enumerate(GRID):
            sets = (f"finetune.lr={lr}", f"finetune.schedule={schedule}")
            self.evaluate(
                "finetune", source, dataset, quality - 0.02 * number, reruns=1, labels=labels, parent=run.name,
                sets=sets, test=number == 0,
            )  # fmt: skip

    def dataset(self, name: str, number: int) -> None:
        """Some 60 runs; the robustness studies on the first three."""
        level, gain = 0.55 + 0.02 * (number % 7), 0.12 - 0.012 * (number % 12)
        base = "moco-v2-800ep"
        if number == 2:  # a chain over the first dataset
            first = self.pretrain("hpt", "dataset-000", 5000, 8, base)
            over = self.pretrain("hpt", name, 5000, 9, first)
            self.evaluate("linear", over, name, level + gain + 0.03, reruns=3)
        for strategy, lengths in LENGTHS.items():
            for steps in lengths:
                for seed in range(3 if steps == 5000 and strategy != "target" else 1):
                    source = self.pretrain(strategy, name, steps, seed, base)
                    rise = {"base": 0.0, "hpt": gain * math.log10(steps + 1) / 3.7, "hpt-bn": gain * 0.9}
                    quality = level + rise.get(strategy, 0.04 * math.log10(steps + 1) - 0.16)
                    self.evaluate("linear", source, name, quality + 0.004 * seed, reruns=3)
                    if seed == 0 and steps in {0, 5000, 200_000}:
                        self.sweep(source, name, quality - 0.15, "1000")
                        self.sweep(source, name, quality + 0.05, "all")
        for strategy, steps in (("hpt", 5000), ("target", 50_000)) if number < 3 else ():
            for cut, policy in enumerate(POLICIES, 1):
                source = self.pretrain(strategy, name, steps, 0, base, (f"augment.policy={policy}",))
                worse = (0.015 if strategy == "hpt" else 0.05) * cut
                self.evaluate("linear", source, name, level + gain - worse, reruns=3)
            for share in SHARES if "share" in PretrainConfig.model_fields else ():
                source = self.pretrain(strategy, name, steps, 0, base, (f"share={share}",))
                worse = (0.02 if strategy == "hpt" else 0.06) * -math.log10(share)
                self.evaluate("linear", source, name, level + gain - worse, reruns=3)


def make(number: int, images: int) -> list[float]:
    """One dataset's runs; how long each of them waited for the store."""
    store = Store(images)
    store.clock += number * HOUR * 200
    store.dataset(f"dataset-{number:03d}", number)
    return store.waits


def lost() -> int:
    """The runs of the folder that the store has not got as they are."""
    tracked = {record.name: record for record in tracking.read_runs()}
    count = 0
    for run in runs.all_runs():
        last: dict[str, float] = {}
        for line in run.metrics():
            last |= {key: value for key, value in line.items() if key not in ("step", "time")}
        found = tracked.get(run.name)
        count += found is None or any(found.metrics.get(key) != value for key, value in last.items())
    return count


def made(datasets: int, images: int, writers: int) -> dict[str, float]:
    """Make the store; how it went."""
    waits, since = list[float](), time.perf_counter()
    with ProcessPoolExecutor(writers, mp_context=get_context("spawn")) as pool:
        for found in pool.map(make, range(datasets), [images] * datasets):
            waits += found
            print(f"{len(waits)} runs, {len(waits) / (time.perf_counter() - since):.1f} a second", file=sys.stderr)
    return {
        "runs written a second": len(waits) / (time.perf_counter() - since),
        "seconds of a run's writing, median": statistics.median(waits),
        "seconds of a run's writing, most": max(waits),
    }


def timed(*words: str, served: Served | None) -> dict[str, float]:
    """How long a command takes: by the clock, of processors for itself, and for the server."""
    since, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    server = served.seconds() if served else 0.0
    subprocess.run([sys.executable, "-m", "hptctl", *words], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - since, resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {"seconds": wall, "own": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}
    return found | ({"server": served.seconds() - server} if served else {})


def measured(options: argparse.Namespace, served: Served | None) -> dict[str, float]:
    """Make the store where there is none, and report on it."""
    medians: dict[str, float] = {}
    if not runs.all_runs():
        medians |= made(options.datasets, options.images, options.writers)
        medians["lost"] = lost()
        if served:
            copy(served.database, options.copies)
    for kept in ("intervals", "tracking"):
        shutil.rmtree(Path("cache", kept), ignore_errors=True)
    report = ("report", "--out", "report.html")
    commands: dict[str, tuple[str, ...]] = {
        "report, first": report,
        "report, again": report,
    }  # the intervals and ended runs are kept
    commands |= {"runs list": ("runs", "list"), "runs list --json": ("runs", "list", "--json")}
    for name, words in commands.items():
        medians |= {f"{name}: {what}": value for what, value in timed(*words, served=served).items()}
    medians["load"] = os.getloadavg()[0]
    return medians | {"MB": Path("report.html").stat().st_size / 1e6, "runs": len(tracking.read_runs())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="working folder of the store")
    parser.add_argument("--datasets", type=int, default=16)
    parser.add_argument("--images", type=int, default=2000, help="test images of each")
    parser.add_argument("--writers", type=int, default=1, help="processes that make the store at once")
    parser.add_argument("--store", help="of MLflow: its address; left out: SQLite in the folder")
    parser.add_argument("--serve", action="store_true", help="a server on PostgreSQL, for as long as it takes")
    parser.add_argument("--copies", type=int, default=0, help="copies of all runs, in the database of --serve")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    out = options.json.resolve() if options.json else None

    options.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(options.folder)
    os.environ["HPTCTL_CACHE"] = str(Path.cwd() / "cache")
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    if options.store:
        os.environ["MLFLOW_TRACKING_URI"] = options.store
    with serving(Path.cwd() / "server") if options.serve else nullcontext() as served:
        if served:
            os.environ["MLFLOW_TRACKING_URI"] = served.uri
        medians = measured(options, served)
    print(json.dumps(medians, indent=1))
    if out:
        out.write_text(json.dumps({"medians": medians}))


if __name__ == "__main__":
    main()
