"""Memory of a pretraining over sets of several sizes, the largest larger than this machine's memory.

uv run python benchmarks/memory.py --gib 0.2 40

The images are zeros in a sparse file, which takes no room on the disk, and each set gets a process of its own.
Anonymous memory is what the run itself needs; pages of the file are the system's, which takes them back when it wants
them. Linux only.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

import numpy as np
import psutil
import torch

from hpt import encoder
from hpt.config import PretrainConfig
from hpt.data.cache import mapped
from hpt.data.images import Images, OpenEntry, PackedPixels
from hpt.data.pixel_format import PLAIN
from hpt.moco import MoCo
from hpt.processes import Processes
from hpt.step import Step
from hpt.views import Views

GIB = 1 << 30


def images_of(gib: float, side: int, folder: Path) -> Images:
    """Square images of zeros, `gib` GiB of them."""
    count = int(gib * GIB) // (3 * side * side)
    sizes = np.full((count, 2), side, dtype=np.int64)
    path = folder / "images.bin"
    with path.open("wb") as file:
        file.truncate(3 * side * side * count)
    with path.open("rb") as file:
        pixels = PackedPixels(mapped(file, np.dtype(np.uint8)), sizes)
    entry = OpenEntry(
        names=("",) * count,
        quarantined=(),
        sizes=sizes,
        digests=np.zeros((count, 16), dtype=np.uint8),
        sums=np.zeros((count, 2, 3), dtype=np.uint64),
        losses=np.zeros((count, 3), dtype=np.int64),
        originals=np.zeros((count, 3), dtype=np.int64),
        occurring=np.zeros((0, 3), dtype=np.int64),
        form=PLAIN,
        pixels=pixels,
    )
    return Images(entry, np.arange(count), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


def measure(gib: float, options: argparse.Namespace) -> dict[str, float]:
    config = PretrainConfig.model_validate(
        {"strategy": "target", "dataset": "", "weights": None, "backbone": options.backbone, "device": options.device}
        | {"image_size": options.image_size, "batch_size": options.batch_size}
    )
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        images = images_of(gib, config.data.side(config.image_size), Path(folder))
        backbone = encoder.build(config.backbone, seed=0)
        moco = MoCo(backbone, encoder.feature_dim(config.backbone), config.moco, seed=0)
        processes = Processes(1, config.device)
        step = Step(config, moco, processes)
        with Views(config, images, range(options.steps), processes) as views:
            for number in range(options.steps):
                step(views(number), config.base_lr)
        # As if every page had been visited, which takes a pass over the images: the system may keep all or none.
        for some in torch.arange(len(images)).split(4096):
            images.batch(some.numpy())
        rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    kib = {key: int(rows[key].split()[0]) for key in ("RssAnon", "RssFile")}
    gib_of = {key: value * 1024 / GIB for key, value in kib.items()}
    return {"GiB of images": images.bytes / GIB, "anonymous": gib_of["RssAnon"], "of files": gib_of["RssFile"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, nargs="+", required=True, help="sizes of the decoded sets")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="where the sparse files lie while this runs")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()

    print(f"this machine has {psutil.virtual_memory().total / GIB:.1f} GiB of memory")
    found = {}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        for gib, row in zip(options.gib, pool.map(measure, options.gib, repeat(options)), strict=True):
            found[f"{gib:g}"] = row
            print("  ".join(f"{key} {value:,.2f}" for key, value in row.items()))
    if options.json:
        options.json.write_text(json.dumps({"medians": found}, indent=1))


if __name__ == "__main__":
    main()
