"""`benchmarks/pretraining.py` over sets of four kinds, view sizes and backbones: one table.

    cells       blood cells, photographs of 640 x 480 px
    driving     street scenes of 480 x 360 px
    flowers     flowers enlarged to 500 px
    mixed       2,000 images of 60 to 200 px, each of a shape of its own, made from the other sets

The batch is smaller where views are larger; every row of a cell has the same one.
`x ready` is our step over our own on views that are ready, `x bare` over the paper's, which is the bound of peers: both
as medians of the ratios within a turn. `over pillow` is our speed over that of torchvision's transforms on Pillow
images, `over lightly` over lightly's, each behind a DataLoader: of means over the turns, since workers prepare whole
batches, so that turns of few steps are short and long, and a median would see the one or the other.

    uv run python benchmarks/sizes.py DATA --out sizes.json
    uv run python benchmarks/sizes.py DATA --out families.json --sets flowers --sizes 64 224 --backbones FAMILIES

FAMILIES stands for one backbone of each family that is not a plain ResNet: a transformer (by MoCo-v3), a network with
LayerNorm, one with depthwise convolutions, and one with a deep stem. These have no peer; `x ready` is what counts.

DATA holds bccd_cells.zip, camvid_driving.zip, flowers102.zip, tiny_imagenet.zip and traffic_signs.zip. Cells that the
file has already are not measured again.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import statistics
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

BATCHES = {
    "resnet18": {64: 256, 32: 256, 112: 128, 224: 64},
    "resnet50": {64: 128, 112: 64, 32: 256, 224: 32},
}
FAMILIES = ("vit_tiny_patch16_224", "convnext_atto", "efficientnet_lite0", "resnet26d")
BATCHES |= dict.fromkeys(FAMILIES, BATCHES["resnet18"])
REPEATS = {32: 10, 64: 5, 112: 3, 224: 3}
SETS = ("cells", "mixed", "flowers", "driving")
PEERS = ("pillow", "lightly")
SUFFIXES = (".jpg", ".jpeg", ".png")


def pictures(archive: Path) -> Iterator[bytes]:
    """The train images of a zip, without masks."""
    with zipfile.ZipFile(archive) as opened:
        for name in sorted(opened.namelist()):
            path = Path(name)
            if path.suffix.lower() in SUFFIXES and not {"val", "test", "masks", "labels"} & set(path.parts):
                yield opened.read(name)


def write_set(name: str, data: Path, folder: Path) -> None:
    """A set's images as <folder>/all/<number>.jpg."""
    (folder / "all").mkdir(parents=True)
    if name == "mixed":
        made = mixed(data)
    elif name == "flowers":
        made = (enlarged(read) for read in pictures(data / "flowers102.zip"))
    else:
        made = pictures(data / {"cells": "bccd_cells.zip", "driving": "camvid_driving.zip"}[name])
    for number, read in enumerate(made):
        with Image.open(io.BytesIO(read)) as image:
            suffix = ".png" if image.format == "PNG" else ".jpg"
        (folder / "all" / f"{number:05d}{suffix}").write_bytes(read)


def jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.convert("RGB").save(out, "JPEG", quality=90)
    return out.getvalue()


def enlarged(read: bytes) -> bytes:
    with Image.open(io.BytesIO(read)) as image:
        ratio = 500 / min(image.size)
        return jpeg(image.resize((round(image.width * ratio), round(image.height * ratio)), Image.Resampling.BICUBIC))


def mixed(data: Path, images: int = 2000) -> Iterator[bytes]:
    draw = random.Random(0)
    archives = ("flowers102.zip", "tiny_imagenet.zip", "traffic_signs.zip", "bccd_cells.zip")
    for archive in archives:
        for number, read in enumerate(pictures(data / archive)):
            if number == images // len(archives):
                break
            with Image.open(io.BytesIO(read)) as image:
                yield jpeg(image.resize((draw.randint(60, 200), draw.randint(60, 200)), Image.Resampling.BICUBIC))


def measured(folder: Path, size: int, backbone: str, repeats: int) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        subprocess.run(
            [
                *(sys.executable, str(Path(__file__).with_name("pretraining.py")), str(folder)),
                *("--image-size", str(size), "--backbone", backbone, "--batch-size", str(BATCHES[backbone][size])),
                *("--steps", "2", "--repeats", str(repeats), "--json", out.name),
                *("--only", *(("ready", "ours") if backbone in FAMILIES else ("bare", "ready", "ours", *PEERS))),
            ],
            check=True,
        )
        return dict(json.loads(Path(out.name).read_text()))


def row(cell: dict[str, Any]) -> str:
    config, seconds = cell["config"], cell["seconds_per_step"]
    ours = seconds["ours"]
    words = [cell["set"], f"{config['image_size']} px", config["backbone"], str(config["batch_size"]), str(len(ours))]
    words.append(f"{config['batch_size'] / statistics.mean(ours):.0f}")
    for name in ("ready", "bare"):
        pairs = zip(ours, seconds.get(name, ()), strict=False)
        words.append(f"{statistics.median(ratios):.2f}" if (ratios := [own / other for own, other in pairs]) else "")
    for name in PEERS:
        words.append(f"{statistics.mean(seconds[name]) / statistics.mean(ours):.2f}" if name in seconds else "")
    return f"| {' | '.join(words)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 32, 112, 224])
    parser.add_argument("--backbones", nargs="+", choices=[*BATCHES, "FAMILIES"], default=["resnet18", "resnet50"])
    parser.add_argument("--repeats", type=float, default=1.0, help="times the usual number")
    options = parser.parse_args()
    cells = json.loads(options.out.read_text()) if options.out.exists() else []
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.sets:
            write_set(name, options.data, Path(scratch) / name)
        for backbone in (each for name in options.backbones for each in (FAMILIES if name == "FAMILIES" else (name,))):
            for size in options.sizes:
                for name in options.sets:
                    key = (name, backbone, size)
                    if any((c["set"], c["config"]["backbone"], c["config"]["image_size"]) == key for c in cells):
                        continue
                    found = measured(Path(scratch) / name, size, backbone, round(options.repeats * REPEATS[size]))
                    cells.append({"set": name} | found)
                    options.out.write_text(json.dumps(cells, indent=1))
    print("| images | view | backbone | batch | turns | images/s | x ready | x bare | over pillow | over lightly |")
    print("|---|---:|---|---:|---:|---:|---:|---:|---:|---:|")
    for cell in cells:
        print(row(cell))


if __name__ == "__main__":
    main()
