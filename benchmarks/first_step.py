"""Where the seconds go between the command and the first step that a run logs, when its images are in the cache.

Each repeat starts `import torch` in one new process, and `hptctl pretrain` in another, which is ended as its first step
is logged; the order turns. The table has medians and quartiles, by the wall and of the processor, of each stage:

    command line     Python, typer and the commands
    settings         pydantic's models of the configuration, Rich
    numpy, Pillow    and the catalogue, to find the dataset
    torch            its import, in the command
    modules          what else a pretraining imports
    images           listing, format and cache
    model            the encoders with random weights, and the optimizer
    first step       reading, views, step, and whatever PyTorch prepares when it is first used

`beyond` is the whole less `import torch` of the same repeat.

    uv run python benchmarks/first_step.py FOLDER
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

STAGES = ("command line", "settings", "numpy, Pillow", "torch", "modules", "images", "model", "first step")

# Told from outside: the first import that a stage needs, or the first call, ends the one before.
MARKED = """
import json, os, sys, time

marks = {}

def mark(stage):
    times = os.times()
    marks.setdefault(stage, (time.time(), times.user + times.system + times.children_user + times.children_system))

class Finder:
    ends = {"hpt.config": "command line", "numpy": "settings", "torch": "numpy, Pillow"}

    def find_spec(self, name, path, target=None):
        if name in self.ends:
            mark(self.ends[name])
        if name == "torch":
            launch = sys.modules["hptctl.runs.launch"]
            self.execute, launch.execute = launch.execute, self.executed

    def executed(self, run):
        mark("torch")
        import hpt.pretrain
        from hptctl import runs
        from hptctl.runs import worker

        worker.load = ends("modules", worker.load)
        worker.pretrain = ends("images", worker.pretrain)
        hpt.pretrain.Views = ends("model", hpt.pretrain.Views)
        runs.Run.append_metrics = ends("first step", leave)
        self.execute(run)

def ends(stage, work):
    def marked(*words, **options):
        mark(stage)
        return work(*words, **options)
    return marked

def leave(*_):
    with open(os.environ["MARKS"], "w") as file:
        json.dump(marks, file)
    os._exit(0)

sys.meta_path.insert(0, Finder())
from hptctl.__main__ import main

main()
"""


def torch_alone() -> tuple[float, float]:
    """Seconds of `python -c "import torch"` on the wall and of the processor."""
    start, before = time.time(), os.times()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    after = os.times()
    busy = after.children_user + after.children_system - before.children_user - before.children_system
    return time.time() - start, busy


def command(folder: Path, scratch: Path, name: str) -> dict[str, tuple[float, float]]:
    """Seconds of each stage, on the wall and of the processor."""
    words = ["pretrain", "-s", "target", "-d", str(folder), "--preset", "tiny", "--steps", "2", "--name", name]
    environment = os.environ | {"MARKS": str(scratch / "marks.json"), "HPTCTL_CACHE": str(scratch / "cache")}
    last = (time.time(), 0.0)
    subprocess.run(
        [sys.executable, "-c", MARKED, *words], cwd=scratch, env=environment, check=True, capture_output=True
    )
    marks = json.loads((scratch / "marks.json").read_text())
    found = {}
    for stage in STAGES:
        found[stage] = (marks[stage][0] - last[0], marks[stage][1] - last[1])
        last = marks[stage]
    return found


def quartiles(values: list[float]) -> list[float]:
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder of images")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    taken: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        command(options.folder.resolve(), Path(scratch), "first")  # decodes the images, and reads all files once
        for repeat in range(options.repeats):
            alone = torch_alone() if repeat % 2 == 0 else None
            stages = command(options.folder.resolve(), Path(scratch), f"run-{repeat}")
            alone = alone or torch_alone()
            whole = tuple(sum(each[which] for each in stages.values()) for which in (0, 1))
            beyond = (whole[0] - alone[0], whole[1] - alone[1])
            for name, seconds in {**stages, "whole": whole, "import torch": alone, "beyond": beyond}.items():
                taken.setdefault(name, []).append((seconds[0], seconds[1]))
    document = {
        name: {"wall": quartiles([wall for wall, _ in rows]), "processor": quartiles([busy for _, busy in rows])}
        for name, rows in taken.items()
    }
    print(f"{'seconds':<14}{'wall':>7}{'quartiles':>14}{'processor':>12}{'quartiles':>14}")
    for name, found in document.items():
        cells = [
            f"{q[1]:>{width}.2f}{f'{q[0]:.2f}-{q[2]:.2f}':>14}"
            for q, width in zip(found.values(), (7, 12), strict=True)
        ]
        print(f"{name:<14}{''.join(cells)}")
    if options.json:
        options.json.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
