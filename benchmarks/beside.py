"""How threads that wait for each other should wait: pretraining alone, and beside one busy process, in both precisions.

    default   libgomp's own: spinning for milliseconds
    hptctl    as the command does (`hpt.waiting`): spinning, or sleeping while others need a core
    passive   OMP_WAIT_POLICY=passive: sleeping at once
    a number  GOMP_SPINCOUNT, after which a thread sleeps

A process of each setting and precision pretrains, and in a round each takes a turn of `--steps` steps while the others
wait: alone, and then beside a process that keeps one core busy. The order turns. Turns of a round lie seconds apart, so
that the machine's own speed, which changes from minute to minute, is the same for all. Images/s are medians of turns;
`of default` is the median of the ratios to the first setting, of the same precision, place and round, with quartiles;
`of alone` that to the same one alone; and `of fp32` that to the first precision, of the same setting in the same place.

A turn counts only where other processes took no more than `--others` of a core meanwhile, by /proc/stat (Linux alone).
On a machine that is never so quiet, nothing is printed but that.

    uv run python benchmarks/beside.py --precisions bf16
    uv run python benchmarks/beside.py --places beside --busy 0.7
    uv run python benchmarks/beside.py --settings hptctl --precisions fp32 bf16 --image-size 64
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SETTINGS = ("default", "hptctl", "passive", "2000")
WORDS = SETTINGS[:3]
PAUSE = 0.05
"""Seconds from one turn to the next, in which the threads of the first go to sleep."""
SETTLED = 3.0
"""Seconds before the turns beside the busy process, and before those without it, in which `hpt.waiting` forgets."""

Row = tuple[str, str, str]
"""Setting, precision, and `alone` or `beside`."""


def parsed_setting(text: str) -> str:
    """An argument of `--settings`."""
    if text not in WORDS and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(WORDS)}, and no number")
    return text


def variables(setting: str) -> dict[str, str]:
    """What a setting puts into the environment."""
    if setting in ("default", "hptctl"):
        return {}
    return {"OMP_WAIT_POLICY": "passive"} if setting == "passive" else {"GOMP_SPINCOUNT": setting}


def busy_seconds() -> float:
    """Seconds of the processor that the machine has spent, whoever did."""
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, irq, soft, steal = map(int, words[:8])
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def seconds_of(process: int) -> float:
    """Seconds of the processor that one process has spent."""
    words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


class Pretraining:
    """A pretraining in a process of its own, which takes its steps when it is told to."""

    def __init__(self, folder: Path, options: argparse.Namespace, setting: str, precision: str) -> None:
        others = {
            name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
        }
        asked = json.dumps({name: getattr(options, name) for name in ("backbone", "image_size", "batch_size", "steps")})
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--inside", str(folder), asked, precision, setting],
            env=others | variables(setting), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.pid = self._process.pid
        self._hear()

    def turn(self, hog: int | None) -> tuple[float, float]:
        """Seconds of `--steps` steps, and the cores that processes other than this and `hog` took meanwhile."""
        own = [self.pid] if hog is None else [self.pid, hog]

        def clocks() -> tuple[float, float, float]:
            return time.perf_counter(), busy_seconds(), sum(map(seconds_of, own))

        before = clocks()
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        self._hear()
        wall, everybody, ours = (after - start for after, start in zip(clocks(), before, strict=True))
        return wall, (everybody - ours) / wall

    def _hear(self) -> None:
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise SystemExit("a pretraining has failed; its error is above")

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def pretraining(folder: Path, asked: dict[str, Any], precision: str) -> None:
    """In a process of its own: two steps to warm up, and then `steps` more for each line that is read."""
    from hpt.callbacks import Callbacks
    from hpt.config import DataConfig, PretrainConfig
    from hpt.data.dataset import load
    from hpt.pretrain import pretrain

    steps, said = asked.pop("steps"), sys.stdout
    sys.stdout = sys.stderr  # what the library prints is no answer
    config = PretrainConfig.model_validate(
        asked
        | {"strategy": "target", "weights": None, "dataset": str(folder), "device": "cpu", "precision": precision}
        | {"steps": 10**6, "log_every": 1, "checkpoint_every": 10**6}
    )
    images = load(str(folder), DataConfig(), side=2 * config.image_size).pretraining_images()

    def log(_: dict[str, float], step: int) -> None:
        if step >= 2 and (step - 2) % steps == 0:
            print("ready", file=said, flush=True)
            if not sys.stdin.readline():
                sys.exit()

    with tempfile.TemporaryDirectory() as out:
        pretrain(config, images, None, Path(out), callbacks=Callbacks(log))


BUSY = """
import sys, time
share = float(sys.argv[1])
while True:
    end = time.perf_counter() + share / 10
    while time.perf_counter() < end:
        pass
    if share < 1:
        time.sleep((1 - share) / 10)
"""


@contextlib.contextmanager
def busy(place: str, share: float) -> Iterator[int | None]:
    """The id of a process that keeps one core busy for a share of each 100 ms, where `place` is `beside`."""
    if place == "alone":
        yield None
        return
    with subprocess.Popen([sys.executable, "-c", BUSY, str(share)]) as hog:
        try:
            time.sleep(0.1)  # until it has started
            yield hog.pid
        finally:
            hog.kill()


def rounds(folder: Path, options: argparse.Namespace) -> Iterator[dict[Row, tuple[float, float]]]:
    """Of each round images/s of every row, and the cores that others took meanwhile."""
    wanted = [(setting, precision) for precision in options.precisions for setting in options.settings]
    with contextlib.ExitStack() as ends:
        running = {}
        for setting, precision in wanted:
            running[setting, precision] = Pretraining(folder, options, setting, precision)
            ends.callback(running[setting, precision].end)
        for number in range(options.repeats):
            found: dict[Row, tuple[float, float]] = {}
            for place in options.places:
                time.sleep(SETTLED)
                with busy(place, options.busy) as hog:
                    order = wanted[:: 1 if number % 2 == 0 else -1]
                    running[order[-1]].turn(hog)  # whoever comes first after a pause is slower
                    for pair in order:
                        time.sleep(PAUSE)
                        wall, others = running[pair].turn(hog)
                        found[*pair, place] = options.steps * options.batch_size / wall, others
            yield found


def quartiles(values: list[float]) -> list[float]:
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20, help="rounds")
    parser.add_argument("--steps", type=int, default=2, help="steps of a turn")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--settings", nargs="+", type=parsed_setting, default=SETTINGS)
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32"])
    parser.add_argument("--places", nargs="+", choices=("alone", "beside"), default=["alone", "beside"])
    parser.add_argument("--busy", type=float, default=1.0, help="the share of its time that the busy process is busy")
    parser.add_argument("--others", type=float, default=0.1, help="the cores that other processes may take")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--inside", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        folder, asked, precision, setting = options.inside
        if setting == "hptctl":
            from hpt import waiting

            waiting.begin()
        pretraining(Path(folder), json.loads(asked), precision)
        return
    if not Path("/proc/stat").exists():
        raise SystemExit("/proc/stat, by which others' work is known, is Linux's")
    import numpy as np
    from PIL import Image

    speeds: dict[Row, dict[int, float]] = {}
    others: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "images"
        folder.mkdir()
        os.environ["HPTCTL_CACHE"] = str(Path(scratch) / "cache")
        noise = np.random.default_rng(0)
        for number in range(2 * options.batch_size):
            pixels = noise.integers(0, 256, (2 * options.image_size, 2 * options.image_size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:05d}.png")
        for number, found in enumerate(rounds(folder, options)):
            for row, (speed, rest) in found.items():
                others.append(rest)
                if rest <= options.others:
                    speeds.setdefault(row, {})[number] = speed
            line = ", ".join(f"{' '.join(row)} {speed:.0f}" for row, (speed, _) in found.items())
            print(f"round {number + 1}: {line} images/s", file=sys.stderr, flush=True)
    counted = sum(map(len, speeds.values()))
    print(
        f"{counted} of {len(others)} turns counted; others took {min(others):.2f} to {max(others):.2f} cores", end=", "
    )
    print(f"{statistics.median(others):.2f} in the middle")
    table: dict[str, dict[str, Any]] = {}
    for row, turns in speeds.items():
        per_second = quartiles(list(turns.values()))
        entry: dict[str, Any] = {"turns": len(turns), "images_per_second": per_second}
        table[" ".join(row)] = entry
        said = f"{row[0]:<8}{row[1]:<6}{row[2]:<8}{per_second[1]:>7.0f} images/s, {len(turns)} turns"
        for what, other in (
            (f"of {options.settings[0]}", (options.settings[0], row[1], row[2])),
            ("of alone", (row[0], row[1], "alone")),
            (f"of {options.precisions[0]}", (row[0], options.precisions[0], row[2])),
        ):
            ratios = [
                speed / speeds[other][number] for number, speed in turns.items() if number in speeds.get(other, {})
            ]
            if other != row and ratios:
                entry[what] = low, middle, high = quartiles(ratios)
                said += f"; {middle:.2f} ({low:.2f} to {high:.2f}) {what}"
        print(said)
    if options.json:
        document = {"counted": counted, "turns": len(others), "others": others, "rows": table}
        options.json.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
