"""How threads that wait for each other should wait: pretraining alone, and beside one busy process.

    default   libgomp's own: spinning for milliseconds
    passive   OMP_WAIT_POLICY=passive: sleeping at once
    a number  GOMP_SPINCOUNT, after which a thread sleeps; `hpt.cores` sets one

Each repeat pretrains a ResNet-18 for `--steps` steps after two to warm up, in a new process of each setting, alone and
beside a process that keeps one core busy; the order turns. Images/s are medians with quartiles, `of default` their
medians over the median of `default` alone.

A measurement counts only where other processes took no more than `--others` of a core while its steps ran, by
/proc/stat (Linux alone): `counted` says how many did. On a machine that is never so quiet, nothing is printed but that.

    uv run python benchmarks/beside.py --precision bf16
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
from typing import Literal

SETTINGS: dict[str, dict[str, str]] = {
    "default": {},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "1000": {"GOMP_SPINCOUNT": "1000"},
    "2000": {"GOMP_SPINCOUNT": "2000"},
    "3000": {"GOMP_SPINCOUNT": "3000"},
}
SIDE = 64
"""Pixels of the images, of which 32 px views are cropped."""


def busy_seconds() -> float:
    """Seconds of the processor that the machine has spent, whoever did."""
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, irq, soft, steal = map(int, words[:8])
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def seconds_of(process: int) -> float:
    """Seconds of the processor that one process has spent."""
    words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def pretraining(folder: Path, steps: int, batch_size: int, precision: Literal["fp32", "bf16"], hog: int | None) -> None:
    """In a process of its own: print images/s after two steps to warm up, and the cores that others took meanwhile."""
    from hpt.callbacks import Callbacks
    from hpt.config import DataConfig, PretrainConfig
    from hpt.data.dataset import load
    from hpt.pretrain import pretrain

    config = PretrainConfig(
        strategy="target", weights=None, dataset=str(folder), backbone="resnet18", image_size=32, batch_size=batch_size,
        steps=steps + 2, log_every=1, checkpoint_every=10**6, precision=precision, device="cpu",
    )  # fmt: skip
    images = load(str(folder), DataConfig(), side=SIDE).pretraining_images()
    marks: list[tuple[float, float, float, float]] = []

    def log(_: dict[str, float], step: int) -> None:
        if step in (2, steps + 2):
            of_hog = seconds_of(hog) if hog is not None else 0.0
            marks.append((time.perf_counter(), busy_seconds(), time.process_time(), of_hog))

    with tempfile.TemporaryDirectory() as out:
        pretrain(config, images, None, Path(out), callbacks=Callbacks(log))
    wall, everybody, own, of_hog = (after - before for before, after in zip(*marks, strict=True))
    print(json.dumps({"speed": steps * batch_size / wall, "others": (everybody - own - of_hog) / wall}))


def measured(folder: Path, options: argparse.Namespace, setting: str, hog: int | None) -> tuple[float, float]:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    command = [sys.executable, __file__, "--inside", str(folder), "--steps", str(options.steps)]
    command += ["--batch-size", str(options.batch_size), "--precision", options.precision]
    if hog is not None:
        command += ["--hog", str(hog)]
    done = subprocess.run(command, env=environment | SETTINGS[setting], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return found["speed"], found["others"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--places", nargs="+", choices=("alone", "beside"), default=["alone", "beside"])
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--others", type=float, default=0.1, help="the cores that other processes may take")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--hog", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        pretraining(options.inside, options.steps, options.batch_size, options.precision, options.hog)
        return
    if not Path("/proc/stat").exists():
        raise SystemExit("/proc/stat, by which others' work is known, is Linux's")
    import numpy as np
    from PIL import Image

    rows = [(setting, place) for place in options.places for setting in options.settings]
    counted: dict[tuple[str, str], list[float]] = {row: [] for row in rows}
    others: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "images"
        folder.mkdir()
        os.environ["HPTCTL_CACHE"] = str(Path(scratch) / "cache")
        noise = np.random.default_rng(0)
        for number in range(2 * options.batch_size):
            Image.fromarray(noise.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(folder / f"{number:05d}.png")
        for repeat in range(options.repeats):
            for setting, place in rows[:: 1 if repeat % 2 == 0 else -1]:
                hog = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if place == "beside" else None
                try:
                    speed, rest = measured(folder, options, setting, hog.pid if hog else None)
                finally:
                    if hog is not None:
                        hog.kill()
                        hog.wait()
                others.append(rest)
                print(f"{setting} {place}: {speed:.0f} images/s, others {rest:.2f} cores", file=sys.stderr, flush=True)
                if rest <= options.others:
                    counted[setting, place].append(speed)
    quiet = sum(len(speeds) for speeds in counted.values())
    print(
        f"{options.precision}: {quiet} of {len(others)} measurements counted; others took {min(others):.2f} to", end=" "
    )
    print(f"{max(others):.2f} cores, {statistics.median(others):.2f} in the middle")
    table = {}
    default = counted.get(("default", "alone"))
    bound = statistics.median(default) if default else None
    for (setting, place), speeds in counted.items():
        if not speeds:
            continue
        low, middle, high = statistics.quantiles(speeds, n=4, method="inclusive") if len(speeds) > 1 else speeds * 3
        table[f"{setting} {place}"] = [low, middle, high]
        share = f"{middle / bound:>12.3f}" if bound else ""
        print(f"{setting:<8}{place:<8}{middle:>8.0f}{f'{low:.0f}-{high:.0f}':>12}{share}{len(speeds):>9} counted")
    if options.json:
        document = {"counted": quiet, "measurements": len(others), "others": others, "images_per_second": table}
        options.json.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
