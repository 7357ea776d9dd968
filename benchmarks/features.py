"""A probe on features that are kept, against one that embeds: what the cache of features saves.

kNN of a random ResNet-18 on the images of a folder or zip file, in turns: with the features computed anew, and with
those that the turn before has left. Both have decoded images. The second must be at least 20 times as fast.

    uv run python benchmarks/features.py IMAGES --image-size 64 --repeats 3
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

PROBES = {"embedded anew": False, "kept": True}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HPTCTL_CACHE"] = folder
        measure(given, Path(folder))


def measure(given: argparse.Namespace, folder: Path) -> None:
    from hpt import encoder
    from hpt.callbacks import Callbacks
    from hpt.config import EvaluateConfig
    from hpt.data.dataset import load
    from hpt.evaluate import evaluate

    def config(keep: bool) -> EvaluateConfig:
        return EvaluateConfig(
            kind="knn",
            weights="-",
            dataset=str(given.images),
            backbone=given.backbone,
            image_size=given.image_size,
            keep_features=keep,
        )

    settings = config(True)
    dataset = load(settings.dataset, settings.data, side=settings.side)
    state = encoder.build(given.backbone, seed=0, image_size=given.image_size).state_dict()
    seconds: dict[str, list[float]] = {name: [] for name in PROBES}
    figures = set()
    (folder / "run").mkdir()
    evaluate(settings, dataset, state, folder / "run", Callbacks())  # which leaves the features
    for _ in range(given.repeats):
        for name, keep in PROBES.items():
            start = time.perf_counter()
            found = evaluate(config(keep), dataset, state, folder / "run", Callbacks())
            seconds[name].append(time.perf_counter() - start)
            figures.add(found.metrics["test/top1"])
    assert len(figures) == 1, "both come to the same figure"
    print(f"{len(dataset.images):,} images, {given.backbone}, {given.image_size} px")
    for name, each in seconds.items():
        print(f"{name:<14} {statistics.median(each):8.2f} s   ({min(each):.2f} to {max(each):.2f})")
    anew, kept = (statistics.median(each) for each in seconds.values())
    print(f"ratio          {anew / kept:8.1f}")


if __name__ == "__main__":
    main()
