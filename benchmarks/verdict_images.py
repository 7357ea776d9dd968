"""Whether verdicts hold on real images: equal runs are not called different, and what is better is found to be.

uv run python benchmarks/verdict_images.py aerial.zip sketches.zip --weights base.safetensors --folder work

On each set `hpt` is trained from nine seeds. Twenty pairs of three seeds against three others are compared: they are
equal, and none may be called different. And of an untrained network, `base`, `hpt` and `target`, of three seeds each,
the order is printed by the linear probe, by nearest neighbours, by a ridge regression on plain features, and by
finetuning.

A study in `--folder` makes the runs, so that what was stopped goes on. About half an hour a set on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import RidgeClassifierCV

from hptctl import runs

SEEDS = 9
PAIRS = 20
STUDY = """
name = "{name}"
datasets = ["{images}"]
weights = ["{weights}"]
preset = "tiny"
prefixes = "separate"

[set]
image_size = {side}

[[grids]]
strategies = ["hpt"]
seeds = {all}
evaluations = ["linear", "knn"]
floor = false
steps = {{ hpt = [{steps}] }}

[[grids]]
strategies = ["base", "hpt", "target"]
seeds = [0, 1, 2]
evaluations = ["linear", "knn", {{ kind = "finetune", labels = "5-per-class" }}]
steps = {{ hpt = [{steps}], target = [{steps}] }}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="+", help="zips or folders of labelled images")
    parser.add_argument("--weights", type=Path, required=True, help="the base, a ResNet-18")
    parser.add_argument("--folder", type=Path, required=True, help="of the runs")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()

    options.folder.mkdir(parents=True, exist_ok=True)
    sets, weights = [each.resolve() for each in options.images], options.weights.resolve()
    json_file = options.json.resolve() if options.json else None
    os.chdir(options.folder)
    found: dict[str, dict[str, Any]] = {}
    for images in sets:
        study = Path(f"{images.stem}.toml")
        study.write_text(
            STUDY.format(
                name=images.stem,
                images=images,
                weights=weights,
                side=options.image_size,
                all=list(range(SEEDS)),
                steps=options.steps,
            )
        )
        hptctl("study", "run", str(study))
        found[images.stem] = {
            "called different": pairs(images.stem, options.steps),
            "test": order(images, options.steps),
        }
        print(images.stem)
        print(f"  of {PAIRS} pairs of equal runs called different: {found[images.stem]['called different']}")
        for kind, figures in found[images.stem]["test"].items():
            ranked = sorted(figures, key=lambda arm: figures[arm])
            print(f"  {kind:9}" + " < ".join(f"{arm} {100 * figures[arm]:.1f}" for arm in ranked))
    if json_file:
        json_file.write_text(json.dumps(found, indent=1))


def pairs(name: str, steps: int) -> int:
    """How many pairs of equal arms, three seeds each, `hptctl compare` calls different."""
    random, seeds = np.random.default_rng(0), list(combinations(range(SEEDS), 3))
    different = drawn = 0
    while drawn < PAIRS:
        a, b = (seeds[number] for number in random.choice(len(seeds), 2, replace=False))
        if {*a} & {*b}:
            continue
        drawn += 1
        sides = [",".join(f"linear-hpt-{name}-s{seed}-{steps}" for seed in side) for side in (a, b)]
        (pair,) = json.loads(hptctl("compare", *sides, "--json"))["pairs"]
        different += pair["verdict"] in {"win", "loss"}
    return different


def order(images: Path, steps: int) -> dict[str, dict[str, float]]:
    """The test figure of each arm, a mean over three seeds, by each kind of evaluation."""
    name = images.stem
    arms = {
        "untrained": "untrained-{}-s{}",
        "base": "base-{}-s{}",
        "hpt": f"hpt-{{}}-s{{}}-{steps}",
        "target": f"target-{{}}-s{{}}-{steps}",
    }
    out: dict[str, dict[str, float]] = {}
    for kind in ("linear", "knn", "finetune-5-per-class"):
        out[kind.partition("-")[0]] = {
            arm: statistics.fmean(
                runs.get(f"{kind}-{form.format(name, seed)}").status().results["test/top1"] for seed in range(3)
            )
            for arm, form in arms.items()
        }
    out["ridge"] = {}
    for arm, form in arms.items():
        figures = []
        for seed in range(3):
            file = Path(f"features-{form.format(name, seed)}.npz")
            if not file.exists():
                source = ["untrained", "--seed", str(seed)] if arm == "untrained" else [form.format(name, seed)]
                small = ["--preset", "tiny"] if arm == "untrained" else []
                hptctl("evaluate", "features", *source, "-d", str(images), *small, "--out", str(file))
            figures.append(ridge(file))
        out["ridge"][arm] = statistics.fmean(figures)
    return out


def ridge(file: Path) -> float:
    """Test accuracy of a ridge regression on standardised features, its strength chosen by leaving one out."""
    kept = np.load(file)
    features, labels, splits = kept["features"], kept["labels"], kept["splits"]
    train, test = splits == "train", splits == "test"
    scaled = (features - features[train].mean(0)) / (features[train].std(0) + 1e-6)
    model = RidgeClassifierCV(alphas=np.logspace(0, 5, 11)).fit(scaled[train], labels[train])
    return float(model.score(scaled[test], labels[test]))


def hptctl(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "hptctl", *words], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


if __name__ == "__main__":
    main()
