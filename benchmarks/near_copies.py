"""How surely the leak guard knows a copy: different images taken for copies, and copies that are found.

    uv run python benchmarks/near_copies.py shared/data/*.zip digits

For each set: test images against its own train and val images, which are different images, and against those of the
other sets; then copies of the test images, encoded or resized again, hidden among the train and val images.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from hpt.config import DataConfig
from hpt.data import thumbnails
from hpt.data.dataset import Dataset, load
from hpt.data.thumbnails import Thumbnails

Change = Callable[[Image.Image], Image.Image]


def jpeg(image: Image.Image, quality: int = 50) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def resized(image: Image.Image, factor: float, how: Image.Resampling = Image.Resampling.BILINEAR) -> Image.Image:
    width, height = (max(1, round(length * factor)) for length in image.size)
    return image.resize((width, height), how)


CHANGES: dict[str, Change] = {
    "JPEG q50": jpeg,
    "half": lambda image: resized(image, 0.5),
    "half, Lanczos": lambda image: resized(image, 0.5, Image.Resampling.LANCZOS),
    "half, JPEG q50": lambda image: jpeg(resized(image, 0.5)),
    "twice, JPEG q75": lambda image: jpeg(resized(image, 2), 75),
}


def copies(dataset: Dataset, rows: list[int], change: Change) -> Thumbnails:
    out = []
    for row in rows:
        pixels = dataset.images.batch([row]).pixels[0].numpy()
        image = change(Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))))
        out.append(thumbnails.thumbnail(np.asarray(image).transpose(2, 0, 1)))
    return np.stack(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", help="zip files, folders or names of the catalogue")
    parser.add_argument("--images", type=int, default=1000, help="test images of each set, at most")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--many", type=int, default=1_000_000, help="images of which the comparison is timed")
    options = parser.parse_args()
    sets = {Path(each).stem: load(each, DataConfig(), side=143) for each in options.datasets}
    seen = {name: dataset.pretraining_images().thumbnails for name, dataset in sets.items()}
    found: dict[str, dict[str, float]] = {}
    for name, dataset in sets.items():
        test = dataset.splits["test"]
        rows = np.sort(np.random.default_rng(0).permutation(test)[: options.images])
        testing = dataset.images.subset(rows).thumbnails
        own = thumbnails.find(testing, seen[name])
        row: dict[str, float] = {
            "test": len(rows),
            "seen": len(seen[name]),
            "own certain": len(own.certain),
            "own likely": len(own.likely),
            "own most alike": float(own.likeness.max()),
        }
        across = [thumbnails.find(testing, seen[other]) for other in sets if other != name]
        row["across certain"] = sum(len(each.certain) for each in across)
        row["across likely"] = sum(len(each.likely) for each in across)
        for what, change in CHANGES.items():
            hidden = np.concatenate([seen[name], copies(dataset, rows.tolist(), change)])
            matches = thumbnails.find(testing, hidden)
            right = matches.nearest[matches.certain] == len(seen[name]) + matches.certain
            row[what] = float(right.sum() / len(rows))
            likely = matches.nearest[matches.likely] == len(seen[name]) + matches.likely
            row[f"{what}, or likely"] = row[what] + float(likely.sum() / len(rows))
        found[name] = row
        print(name, {key: round(value, 4) for key, value in row.items()}, flush=True)
    many = np.random.default_rng(0).integers(0, 256, (options.many, thumbnails.SIDE**2), dtype=np.uint8)
    start = time.perf_counter()
    thumbnails.find(many[:5000], many)
    found["many"] = {"seen": len(many), "test": len(many[:5000]), "seconds": time.perf_counter() - start}
    print("time", found["many"])
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
