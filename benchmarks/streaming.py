"""What streaming costs: images decoded a second and core, a step fed by it beside a bare one, and its shuffle.

    python benchmarks/streaming.py [--images 3000] [--side 375 500] [--image-size 64] [--batch-size 128] [--repeats 5]
    python benchmarks/streaming.py --members 200000        # the index of as many tiny members, and what it takes

Photographs of --side are drawn, saved as JPEGs of quality 85 and packed. Each round measures, one after the other,

    decode      one core, files in memory to the pixels of the cache's size: no loader is quicker
    stream      the same images through `hpt.data.stream`, on all cores, without a model
    cached      whole steps on views of images in the cache
    streamed    whole steps on views of streamed images
    bare        steps on views that are ready

and what is printed are medians of the rounds' ratios, with their quartiles, so that a machine that others use, too,
tells as much. How well the blocks are shuffled: in a set that lies class by class, how many classes a batch has,
beside a batch that is drawn from all.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

from hpt import cores, waiting

waiting.begin()  # as the program does, before PyTorch is loaded

import torch  # noqa: E402

if TYPE_CHECKING:
    from hpt.data.images import Images
    from hpt.views import StepViews, Views


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--side", type=int, nargs=2, default=(375, 500), help="height and width of the photographs")
    parser.add_argument("--image-size", type=int, default=64, help="of the views")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--steps", type=int, default=6, help="steps of a measurement")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--members", type=int, default=0, help="measure the index of so many tiny members instead")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        os.environ["HPTCTL_CACHE"] = str(Path(folder) / "cache")
        found = members(Path(folder), options.members) if options.members else steps(Path(folder), options)
    print(json.dumps(found, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(found))


# ---- the index


def members(folder: Path, count: int) -> dict[str, float]:
    """What an index of `count` images takes, in processor time: others may use the cores, too."""
    from hpt.config import DataConfig
    from hpt.data import tar_index
    from hpt.data.dataset import load_streamed
    from hpt.data.names import list_images
    from hpt.data.pack import add
    from hpt.data.pixel_format import PLAIN
    from hpt.data.remote import LocalFiles
    from hpt.data.stream import Store, StreamedImages

    data = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 10, 90)).save(data, "jpeg", quality=50)
    content, per_shard = data.getvalue(), 10_000
    out = folder / "shards"
    out.mkdir()
    for number in range(-(-count // per_shard)):
        with (out / f"train-{number:06d}.tar").open("wb") as file:
            for i in range(number * per_shard, min((number + 1) * per_shard, count)):
                add(file, f"{i // 10_000:04d}/{i:09d}.jpg", content)
                add(file, f"{i // 10_000:04d}/{i:09d}.cls", str(i // 10_000).encode())
            file.write(bytes(1024))
    files = LocalFiles(out)
    found = {"members": float(2 * count), "GiB": sum(path.stat().st_size for path in out.iterdir()) / 2**30}
    began = time.process_time()
    for shard in files.found(""):
        tar_index.read_index(files, shard)
    found["us to index an image, one core"] = 1e6 * (time.process_time() - began) / count
    list_images(out)  # which keeps the index
    before = resident()
    began = time.process_time()
    listing = list_images(out)
    found["us to list an image from the kept index"] = 1e6 * (time.process_time() - began) / count
    found["bytes of memory an image"] = (resident() - before) / count
    found["bytes of memory an image at most on the way"] = (peak() - before) / count
    kept = sum(path.stat().st_size for path in (Path(os.environ["HPTCTL_CACHE"]) / "listings" / "shards").iterdir())
    found["bytes of the kept index an image"] = kept / count
    store = Store(listing, 64, PLAIN, 256 << 20, 0.01)
    images = StreamedImages(store, np.arange(count), (0.5,) * 3, (0.2,) * 3)
    began = time.process_time()
    images.shuffled(0, 0)
    found["us to shuffle an image, the first pass"] = 1e6 * (time.process_time() - began) / count
    began = time.process_time()
    images.shuffled(0, 1)
    found["us to shuffle an image, another pass"] = 1e6 * (time.process_time() - began) / count
    del listing, store, images
    config = DataConfig(stream=True)
    load_streamed(str(out), config, side=64)  # which keeps the format
    began = time.process_time()
    data_set = load_streamed(str(out), config, side=64)
    found["us to be ready to stream an image, all of it"] = 1e6 * (time.process_time() - began) / count
    assert len(data_set.images) == count
    return {name: round(value, 3) for name, value in found.items()}


def resident() -> int:
    """Bytes of memory in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak() -> int:
    """The most that was in use."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# ---- steps


def photographs(folder: Path, count: int, height: int, width: int) -> Path:
    """Drawn photographs: soft shapes with some grain, whose files have the size of real ones."""
    random = np.random.default_rng(0)
    for number in range(count):
        path = folder / "set" / f"class {number * 30 // count:02d}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 256, (height // 12, width // 12, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        grain = random.normal(0, 7, (height, width, 1))
        pixels = np.clip(np.asarray(image.filter(ImageFilter.GaussianBlur(1))) + grain, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path, quality=85)
    return folder / "set"


def steps(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """The rates of each stage, and their ratios round by round."""
    from hpt import encoder
    from hpt.config import PretrainConfig
    from hpt.data import decode
    from hpt.data.dataset import load, load_streamed
    from hpt.data.names import find, list_images
    from hpt.data.pack import pack
    from hpt.moco import MoCo
    from hpt.processes import Processes
    from hpt.step import Step
    from hpt.views import Views

    dataset = photographs(folder, options.images, *options.side)
    pack(find(str(dataset)), folder / "pack", PretrainConfig.model_fields["data"].default, shard_bytes=64 << 20)
    config = PretrainConfig.model_validate(
        {
            "strategy": "target",
            "weights": None,
            "dataset": str(folder / "pack"),
            "backbone": options.backbone,
            "image_size": options.image_size,
            "batch_size": options.batch_size,
            "moco": {"queue_size": 1024},
            "device": options.device,
            "precision": options.precision,
            "data": {"stream_buffer": 64},
        }
    )
    side = config.data.side(config.image_size)
    processes = Processes(1, config.device)
    cached = load(config.dataset, config.data, side=side).pretraining_images()
    streamed = load_streamed(config.dataset, config.data, side=side).pretraining_images()
    moco = MoCo(encoder.build(config.backbone, seed=0), encoder.feature_dim(config.backbone), config.moco, seed=0)
    step = Step(config, moco, processes)
    ready = _ready(Views(config, cached, range(1), processes))
    done = 0

    def wait() -> None:
        if processes.device.type == "cuda":
            torch.cuda.synchronize()

    def whole(images: Images) -> float:
        nonlocal done
        first, done = done, done + options.steps + 1
        with Views(config, images, range(first, done), processes) as views:
            step(views(first), 1e-4)  # with which the loader has begun
            wait()
            began = time.perf_counter()
            for number in range(first + 1, done):
                assert views.lost() is None
                step(views(number), 1e-4)
            wait()
            return float(options.steps * config.batch_size / (time.perf_counter() - began))

    def bare() -> float:
        step(ready, 1e-4)
        wait()
        began = time.perf_counter()
        for _ in range(options.steps):
            step(ready, 1e-4)
        wait()
        return float(options.steps * config.batch_size / (time.perf_counter() - began))

    listing = list_images(find(config.dataset))
    some = listing.names[:: max(1, len(listing.names) // 400)]
    with listing.source.open() as read:
        contents = [read(name) for name in some]

    def decoding() -> float:
        began = time.perf_counter()
        for content in contents:
            decode.decode(content, side)
        return len(contents) / (time.perf_counter() - began)

    def streaming() -> float:
        order = streamed.shuffled(1, done)[:1024].split(64)
        began = time.perf_counter()
        with streamed.stream(iter(order), 512, 1.0) as stream:  # type: ignore[union-attr]
            for rows in stream:
                stream.in_place(rows.numpy())
        return sum(map(len, order)) / (time.perf_counter() - began)

    stages: dict[str, Callable[[], float]] = {
        "decode": decoding,
        "stream": streaming,
        "cached": lambda: whole(cached),
        "streamed": lambda: whole(streamed),
        "bare": bare,
    }
    rounds = [{name: measure() for name, measure in stages.items()} for _ in range(options.repeats + 1)][1:]
    usable = cores.usable()

    def ratio(of: str, to: str, factor: float = 1.0) -> list[float]:
        values = [each[of] / each[to] / factor for each in rounds]
        quartiles = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
        return [round(value, 3) for value in (quartiles[1], quartiles[0], quartiles[2])]

    return {
        "device": str(processes.device),
        "cores": usable,
        "images/s": {name: round(statistics.median(each[name] for each in rounds), 1) for name in stages},
        "stream per core / decode on one": ratio("stream", "decode", usable),
        "streamed / bare": ratio("streamed", "bare"),
        "cached / bare": ratio("cached", "bare"),
        "streamed / cached": ratio("streamed", "cached"),
        "cores that keep one such device fed": [
            round(statistics.median(each["bare"] / (each["stream"] / usable) for each in rounds), 1)
        ],
        "shuffle": _shuffle(streamed, config.batch_size),
    }


def _ready(views: Views) -> StepViews:
    """One step's views, held."""
    from hpt.views import StepViews

    with views:
        step = views(0)
        keys = list(step.key)
        return StepViews(list(step.query), keys, step.shuffle)


def _shuffle(images: Images, batch: int) -> dict[str, float]:
    """The classes of a batch, in a set that lies class by class."""
    classes = np.array([name.split("/")[0] for name in images.names])
    order = images.shuffled(0, 0).numpy()
    random = np.random.default_rng(0).permutation(len(order))
    return {
        "classes": float(len(set(classes))),
        "classes in a batch": _classes(classes[order], batch),
        "classes in a batch drawn from all": _classes(classes[random], batch),
        "pools": float(-(-len(order) // images.pool_images)),  # type: ignore[attr-defined]
    }


def _classes(of: np.ndarray, batch: int) -> float:
    return round(float(np.mean([len(set(of[i : i + batch])) for i in range(0, len(of) - batch + 1, batch)])), 2)


if __name__ == "__main__":
    main()
