"""Decoding a set of images into the cache beside bare loops of the decoder, on all cores.

    pillow    Image.open, convert, resize and numpy.asarray on the bytes of each file, by a thread per core
    bare      hpt.data.decode on the same, which gives [C, H, W]; nothing is done with the pixels
    written   as bare, and the pixels written to a file as the cache does it, which it cannot do without: its bound
    late      as cache, and the pixels sent to the disk at the end, not while more are decoded
    cache     hpt.data.dataset.load into an empty cache: what the first run on new images waits for

Each repeat reads the same `--images` files by all of them, one after the other; the order turns. `ratio` has, over the
repeats, the quartiles of the cache's images/s over those of each bare loop, `processor` the same of processor time,
which says more where other work shares the cores. The files are read once before, and what one has written is on the
disk, or gone, before the next begins. All rows have memory that is kept (`hpt.freed_memory`), as a run has it.

    uv run python benchmarks/cache.py FOLDER              # for views of 64 px, as a first run has them
    uv run python benchmarks/cache.py FOLDER --side 501   # of 224 px
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from hpt import cores, files, freed_memory
from hpt.config import DataConfig
from hpt.data import decode
from hpt.data.dataset import load
from hpt.data.reading import CHUNK


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the wall and of the processor."""
    start, busy = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - busy


def pillow(data: bytes, side: int) -> None:
    """Decoding as a loader of anybody's does it."""
    with Image.open(io.BytesIO(data)) as opened:
        image = opened.convert("RGB")
    if min(image.size) > side:
        width, height = (side * length // min(image.size) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    np.asarray(image)


def quartiles(values: list[float]) -> list[float]:
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder of images")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--side", type=int, default=DataConfig().side(64), help="the shorter side in the cache")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    freed_memory.keep()
    paths = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    with tempfile.TemporaryDirectory() as scratch:
        copies = Path(scratch) / "images"
        copies.mkdir()
        for number, path in enumerate(paths[: options.images]):
            shutil.copy(path, copies / f"{number:06d}{path.suffix}")
        names = sorted(copies.iterdir())
        for path in names:
            path.read_bytes()

        def all_cores(work: Callable[[bytes], object]) -> Callable[[], None]:
            def some(paths: list[Path]) -> None:
                for path in paths:
                    work(path.read_bytes())

            def run() -> None:
                with ThreadPoolExecutor(cores.usable()) as pool:
                    for _ in pool.map(some, [names[i : i + CHUNK] for i in range(0, len(names), CHUNK)]):
                        pass

            return run

        def written() -> None:
            with ThreadPoolExecutor(cores.usable()) as pool, files.flushed_meanwhile(Path(scratch) / "pixels") as write:
                for some in pool.map(
                    lambda paths: [decode.decode(path.read_bytes(), options.side) for path in paths],
                    [names[i : i + CHUNK] for i in range(0, len(names), CHUNK)],
                ):
                    for pixels in some:
                        write(pixels.data)
            (Path(scratch) / "pixels").unlink()

        def cache(flushed: int = files.FLUSHED) -> None:
            os.environ["HPTCTL_CACHE"] = str(Path(scratch) / "cache")
            files.FLUSHED = flushed
            load(str(copies), DataConfig(), side=options.side)

        rows = {
            "pillow": all_cores(lambda data: pillow(data, options.side)),
            "bare": all_cores(lambda data: decode.decode(data, options.side)),
            "written": written,
            "late": lambda: cache(sys.maxsize),
            "cache": cache,
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
        for repeat in range(options.repeats):
            for name in list(rows)[:: 1 if repeat % 2 == 0 else -1]:
                os.sync()  # what the one before has written is no work of this one
                found[name].append(timed(rows[name]))
                shutil.rmtree(Path(scratch) / "cache", ignore_errors=True)

    def ratios(which: int) -> dict[str, list[float]]:
        return {
            name: quartiles([a[which] / b[which] for a, b in zip(taken, found["cache"], strict=True)])
            for name, taken in found.items()
            if name != "cache"
        }

    document = {
        "images": len(names),
        "cores": cores.usable(),
        "images_per_second": {
            name: len(names) / statistics.median(wall for wall, _ in taken) for name, taken in found.items()
        },
        "ratio": ratios(0),
        "processor": ratios(1),
    }
    print(json.dumps(document, indent=1))
    if options.json:
        options.json.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
