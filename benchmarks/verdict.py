"""How often a report's verdicts are right, by simulated studies whose truth is known.

uv run python benchmarks/verdict.py --pages 400 --json verdict.json

Each page is a study: datasets, an untrained backbone, `base`, `target`, `hpt` and `hpt-bn` of some seeds. Scores of
test images are drawn, written as predictions of runs, and go the program's own way, from files to the page's sentence.
Settings are drawn anew for each page: 100 to 10,000 test images, seeds that vary by 0 to 3 points, 1 to 5 of them, 1,
4 or 16 datasets, gains of 0 (two pages of three) or of 1, 2 or 5 points of hpt, with predictions or none, one label or
several. An image is right where its difficulty, half of which all models share, is below the accuracy of the seed. A
seed is as lucky on val as on test.

Written to --json:

    false_verdict_share  pages with one or more false verdicts: of strategies that are equal, or of the wrong sign
    coverage_3_seeds     intervals that hold the true difference, of three seeds or more
    power_2_points       answers that are `Gain` where hpt brings 2 points: 1 dataset, 3,000 images, 3 seeds that vary
                         by 0.5 points
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from hpt import predictions
from hpt.metrics import multi_label
from hpt.predictions import Predictions
from hptctl.report.answer import answer, lead
from hptctl.report.findings import gather
from hptctl.report.frame import tidy
from hptctl.runs.record import Facts, Tags
from hptctl.tracking import Record

BASE_ACCURACY, FLOOR_ACCURACY = 0.75, 0.5
RERUNS = 3
VAL_SHARE = 0.5
"""Images of val for one of test."""
FURTHER = ("target", "hpt", "hpt-bn")


@dataclass(frozen=True)
class Setting:
    """What a page is drawn from."""

    gain: float
    """Of hpt over all others, a share."""
    datasets: int
    images: int
    seeds: int
    deviation: float
    """Of the accuracy between seeds, a share."""
    predictions: bool = True
    labels: int = 1
    """Labels of an image; with several the metric is the mean AUROC, and all strategies are equal."""


@dataclass(frozen=True)
class Outcome:
    """What a page said."""

    setting: Setting
    false: int
    """False verdicts."""
    judged: int
    """Verdicts that might have been false."""
    gains: int
    """Datasets whose answer is `Gain`."""
    covered: int
    intervals: int
    lead: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=400, help="of drawn settings; half as many for the power")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()

    random = np.random.default_rng(options.seed)
    settings = [drawn(random) for _ in range(options.pages)]
    fixed = Setting(gain=0.02, datasets=1, images=3000, seeds=3, deviation=0.005)
    settings += [fixed] * max(1, options.pages // 2)
    numbered = [(setting, [options.seed, number]) for number, setting in enumerate(settings)]
    with ProcessPoolExecutor(options.processes) as pool:
        outcomes = list(pool.map(page, *zip(*numbered, strict=True), chunksize=4))
    powered, mixed = outcomes[options.pages :], outcomes[: options.pages]
    figures = {
        "false_verdict_share": share(each.false > 0 for each in mixed),
        "coverage_3_seeds": coverage(each for each in mixed if each.setting.seeds >= 3),
        "power_2_points": share(each.gains > 0 for each in powered),
        "pages": len(mixed),
    }
    print_by("pages with a false verdict", mixed, lambda found: share(each.false > 0 for each in found))
    print_by(
        "intervals that hold the truth",
        mixed,
        coverage,
    )
    gained = [each for each in mixed if each.setting.gain and each.setting.labels == 1]
    print_by(
        "answers that are Gain where hpt brings 1 to 5 points",
        gained,
        lambda found: sum(each.gains for each in found) / sum(each.setting.datasets for each in found),
    )
    low, high = wilson(sum(each.false > 0 for each in mixed), len(mixed))
    print(f"false_verdict_share {figures['false_verdict_share']:.3f} (95 % {low:.3f} to {high:.3f})")
    print(f"coverage_3_seeds    {figures['coverage_3_seeds']:.3f}")
    print(f"power_2_points      {figures['power_2_points']:.3f}")
    print(f"a page says, for example: {powered[0].lead}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def drawn(random: np.random.Generator) -> Setting:
    """The setting of a page; what would take minutes (16 datasets of 10,000 images) is left out."""
    datasets = int(random.choice([1, 4, 16]))
    labels = int(random.choice([1, 1, 1, 4]))
    images = int(random.choice([100, 300, 1000] + [3000, 10_000] * (datasets == 1 and labels == 1)))
    return Setting(
        gain=0.0 if labels > 1 else float(random.choice([0, 0, 0, 0, 0, 0, 0.01, 0.02, 0.05])),
        datasets=datasets,
        images=images,
        seeds=int(random.integers(1, 6)),
        deviation=float(random.choice([0, 0.01, 0.02, 0.03])),
        predictions=bool(random.random() < 0.75) or labels > 1,
        labels=labels,
    )


def page(setting: Setting, seed: Sequence[int]) -> Outcome:
    """Draw the runs of a page, read it as the program does, and compare it with the truth."""
    folder = Path(tempfile.mkdtemp(prefix="verdict-"))
    os.environ["HPTCTL_CACHE"] = str(folder / "cache")
    try:
        random = np.random.default_rng(seed)
        records = [
            record for number in range(setting.datasets) for record in study(setting, f"d{number:02d}", folder, random)
        ]
        findings = gather(tidy(records))
        answers = [answer(findings, target, target) for target in findings.targets]
        false = judged = covered = intervals = 0
        for target in findings.targets:
            rivals = [result for result in findings.rivals(target) if result.strategy != "untrained"]
            for a, b in combinations(rivals, 2):
                truth = setting.gain * ((a.strategy == "hpt") - (b.strategy == "hpt"))
                found = findings.difference(a, b)
                judged += 1
                right = truth != 0 and (found.points > 0) == (truth > 0)
                false += found.verdict in {"win", "loss"} and not right
                if found.bounded:
                    intervals += 1
                    covered += found.low <= truth <= found.high
            said = findings.verdict(target)
            chosen, _ = findings.further(target)
            assert chosen is not None
            if said in {"gain", "loss"}:
                false += not (said == "gain" and setting.gain > 0 and chosen.strategy == "hpt")
        gains = sum(each.verdict == "gain" for each in answers)
        return Outcome(setting, false, judged, gains, covered, intervals, lead(answers))
    finally:
        shutil.rmtree(folder)


def study(setting: Setting, dataset: str, folder: Path, random: np.random.Generator) -> Iterator[Record]:
    """The evaluations of one dataset, with their predictions on disk."""
    n, vals = setting.images, max(20, int(setting.images * VAL_SHARE))
    shared = [random.random((setting.labels, size)) for size in (n, vals)]
    labels = (random.random((n, setting.labels)) < 0.4).astype(np.float32)
    labels[:2] = [[0], [1]]
    vals_labels = (random.random((vals, setting.labels)) < 0.4).astype(np.float32)
    vals_labels[:2] = [[0], [1]]
    for strategy in ("untrained", "base", *FURTHER):
        accuracy = FLOOR_ACCURACY if strategy == "untrained" else BASE_ACCURACY
        accuracy += setting.gain * (strategy == "hpt")
        own = [np.where(random.random(each.shape) < 0.5, each, random.random(each.shape)) for each in shared]
        for seed in range(1 if strategy == "base" else setting.seeds):
            luck = 0.0 if strategy == "base" else random.normal(0, setting.deviation)
            right = [
                np.where(random.random((RERUNS, *each.shape)) < 0.05, random.random((RERUNS, *each.shape)), each)
                < accuracy + luck
                for each in own
            ]
            id = f"{dataset}-{strategy}-{seed}"
            if setting.labels == 1:
                scores = np.stack([~right[0][:, 0], right[0][:, 0]], axis=-1).astype(np.float32)
                kept = Predictions(np.arange(n).astype(str), np.ones(n, dtype=np.int64), scores, np.array(["a", "b"]))
                metric, test, val = "top1", right[0].mean(axis=(1, 2)), float(right[1].mean())
            else:
                scores, of_val = (
                    (np.where(each, 1.5, -0.5) * (2 * y.T[None] - 1) + random.normal(size=each.shape))
                    .transpose(0, 2, 1).astype(np.float32)
                    for each, y in zip(right, (labels, vals_labels), strict=True)
                )  # fmt: skip
                names, classes = np.arange(n).astype(str), np.array(list("abcd"))
                kept = Predictions(names, labels, scores, classes)
                metric = "auroc"
                test = np.array([multi_label(rerun, labels)["auroc"] for rerun in scores])
                val = float(np.mean([multi_label(rerun, vals_labels)["auroc"] for rerun in of_val]))
            if setting.predictions:
                (folder / id / "artifacts").mkdir(parents=True)
                (folder / id / "tracking.json").write_text(json.dumps({"run_id": id}))
                predictions.write(folder / id, "test", kept)
            yield Record(
                id,
                id,
                "linear",
                "FINISHED",
                0.0,
                1.0,
                "e",
                "0",
                params={"linear.reruns": str(RERUNS)},
                metrics={
                    f"test/{metric}": float(test.mean()),
                    f"test/{metric}_std": float(test.std(ddof=1)),
                    f"val/{metric}": val,
                },
                tags=Tags(
                    strategy=strategy,
                    dataset=dataset,
                    pretrain_dataset=dataset,
                    steps=100 if strategy in FURTHER else 0,
                    pretrain_seed=seed,
                    seed=seed,
                ),
                facts=Facts(metric=metric, test_images=n),
                folder=str(folder / id) if setting.predictions else "",
            )


def share(found: Iterable[bool]) -> float:
    each = list(found)
    return sum(each) / max(1, len(each))


def coverage(found: Iterable[Outcome]) -> float:
    """The share of intervals that hold the truth."""
    each = list(found)
    return sum(outcome.covered for outcome in each) / max(1, sum(outcome.intervals for outcome in each))


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, doi 10.2307/2276774)."""
    z, p = 1.96, successes / trials
    centre, width = p + z * z / (2 * trials), z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials**2))
    return (centre - width) / (1 + z * z / trials), (centre + width) / (1 + z * z / trials)


def print_by(title: str, outcomes: Sequence[Outcome], figure) -> None:  # type: ignore[no-untyped-def]
    """A line for each value of each field of the settings."""
    print(title)
    for name in ("datasets", "images", "seeds", "deviation", "gain", "predictions", "labels"):
        groups = defaultdict(list)
        for each in outcomes:
            groups[getattr(each.setting, name)].append(each)
        said = "  ".join(f"{value}: {figure(some):.3f} ({len(some)})" for value, some in sorted(groups.items()))
        print(f"  {name:12}{said}")


if __name__ == "__main__":
    main()
