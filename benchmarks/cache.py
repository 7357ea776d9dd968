"""Decoding a set of images into the cache beside a bare loop of the same decoder, on all cores.

    bare      hpt.data.decode on the bytes of each file, by a thread per core, and nothing done with the pixels
    cache     hpt.data.dataset.load into an empty cache: what the first run on new images waits for

Each repeat reads the same `--images` files by both, one after the other; the order turns. `ratio` is the median over
the repeats of the cache's images/s over the bare loop's, `processor` the same of processor time, which says more where
other work shares the cores. The files are read once before, so that the disk is left out.

    uv run python benchmarks/cache.py FOLDER --side 501
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hpt import cores
from hpt.config import DataConfig
from hpt.data import decode
from hpt.data.dataset import load


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the wall and of the processor."""
    start, busy = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - busy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder of images")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--side", type=int, default=DataConfig().side(64), help="the shorter side in the cache")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    files = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    with tempfile.TemporaryDirectory() as scratch:
        copies = Path(scratch) / "images"
        copies.mkdir()
        for number, path in enumerate(files[: options.images]):
            shutil.copy(path, copies / f"{number:06d}{path.suffix}")
        names = sorted(copies.iterdir())
        for path in names:
            path.read_bytes()

        def bare() -> None:
            def one(path: Path) -> None:
                decode.decode(path.read_bytes(), options.side)

            with ThreadPoolExecutor(cores.usable()) as pool:
                for _ in pool.map(one, names):
                    pass

        def cache() -> None:
            os.environ["HPTCTL_CACHE"] = tempfile.mkdtemp(dir=scratch)
            load(str(copies), DataConfig(), side=options.side)

        rows = {"bare": bare, "cache": cache}
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
        for repeat in range(options.repeats):
            for name in list(rows)[:: 1 if repeat % 2 == 0 else -1]:
                found[name].append(timed(rows[name]))
    pairs = list(zip(found["bare"], found["cache"], strict=True))
    document = {
        "images": len(names),
        "cores": cores.usable(),
        "images_per_second": {
            name: len(names) / statistics.median(wall for wall, _ in taken) for name, taken in found.items()
        },
        "ratio": statistics.median(bare[0] / cache[0] for bare, cache in pairs),
        "processor": statistics.median(bare[1] / cache[1] for bare, cache in pairs),
    }
    print(json.dumps(document, indent=1))
    if options.json:
        options.json.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
