"""What a step of detection costs: ours, the same step on views that are ready, and torchvision's reference loop.

    uv run python benchmarks/detection.py DATASET --preset small --steps 10 --repeats 3

`DATASET` has boxes (COCO, Pascal VOC, YOLO). The reference is references/detection of torchvision 0.29: the same images
from their files, v2's transforms, a DataLoader with a worker for each core, torch.optim.SGD, and the same network.
Loops take turns; ratios are of each turn, and the median of them is printed with the least and the most.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from hpt import cores, encoder
from hpt.callbacks import SILENT
from hpt.config import EvaluateConfig, resolve
from hpt.dense import views
from hpt.dense.dataset import DenseDataset, load
from hpt.dense.detection import Batch, Detection
from hpt.dense.setup import DenseSetup
from hpt.dense.views import Normalisation
from hpt.processes import Compute
from hpt.sgd import SGD


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--steps", type=int, default=10, help="of each loop in a turn")
    parser.add_argument("--repeats", type=int, default=3, help="turns")
    parser.add_argument("--set", dest="sets", action="append", default=[])
    options = parser.parse_args()
    flags = {"kind": "detection", "weights": "untrained", "dataset": options.dataset, "preset": options.preset}
    config = resolve(EvaluateConfig, sets=options.sets, flags=flags)
    data = load(options.dataset, "detection", config.data, side=config.side)
    compute = Compute.of(config)
    images = data.dataset.images
    backbone = encoder.build(config.backbone, seed=0).to(compute.device)
    norm = Normalisation(images.mean, images.std)
    task = Detection(DenseSetup(config, data, backbone, compute, SILENT, norm))
    optimizer = SGD(list(task.model.parameters()), momentum=0.9, weight_decay=1e-4)
    task.model.train()

    def step(batch: Batch) -> None:
        task.draws.seeds = range(len(batch.views))
        with compute.autocast():
            losses = task.loss(batch)
        torch.stack([each.mean for each in losses.values()]).sum().backward()
        optimizer.step(1e-4)
        if compute.device.type == "cuda":
            torch.cuda.synchronize()

    def made(number: int) -> Batch:
        order = torch.randperm(task.images, generator=torch.Generator().manual_seed(number))[: task.batch_size]
        numbers = torch.rand(len(order), views.COLUMNS, generator=torch.Generator().manual_seed(number))
        return task.batch(order, numbers, range(len(order)))

    numbers = itertools.count()

    def ours() -> None:
        first = next(numbers) * options.steps
        with views.ahead(made, iter(range(first, first + options.steps))) as following:
            for _ in range(options.steps):
                step(following())

    # The very views of ours, so that sizes cannot differ.
    def bare(ready: list[Batch]) -> None:
        for batch in ready:
            step(batch)

    reference = _reference(data, config, task, norm)

    def theirs() -> None:
        for _ in range(options.steps):
            step(next(reference))

    step(made(0))
    step(next(reference))
    seconds: dict[str, list[float]] = {"ours": [], "bare": [], "reference": []}
    for repeat in range(options.repeats):
        ready = [made(repeat * options.steps + at) for at in range(options.steps)]
        seconds["ours"].append(_timed(ours))
        seconds["bare"].append(_timed(partial(bare, ready)))
        seconds["reference"].append(_timed(theirs))
    per_step = {name: statistics.median(each) / options.steps for name, each in seconds.items()}
    print(f"{config.backbone}, {config.detection.head}, batch {task.batch_size}, {cores.usable()} cores,", end=" ")
    print(f"load {os.getloadavg()[0]:.1f}, {len(images)} images of {data.dataset.name}")
    for name, value in per_step.items():
        ratios = [a / b for a, b in zip(seconds[name], seconds["bare"], strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{name:10} {task.batch_size / value:8.2f} images/s   {spread} times the bare step")


class _Files(TorchDataset[Any]):
    """Images from the cache, as a folder of them would be read, and their targets."""

    def __init__(self, data: DenseDataset, rows: Any, transform: Callable[..., Any]) -> None:
        self.data, self.rows, self.transform = data, rows, transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: int) -> Any:
        from torchvision import tv_tensors

        row = int(self.rows[at])
        image = self.data.dataset.images.batch([row]).image(0)
        boxes = self.data.boxes(row)
        size = (int(image.shape[1]), int(image.shape[2]))
        return self.transform(
            tv_tensors.Image(image),
            {
                "boxes": tv_tensors.BoundingBoxes(torch.from_numpy(boxes.boxes), format="XYXY", canvas_size=size),
                "labels": torch.from_numpy(boxes.labels) + 1,
            },
        )


def _reference(data: DenseDataset, config: EvaluateConfig, task: Detection, norm: Normalisation) -> Iterator[Batch]:
    """Batches as torchvision's references/detection makes them, without end."""
    from torchvision.transforms import v2

    section = config.detection
    transform = v2.Compose(
        [
            v2.RandomShortestSize(min_size=views.sides_of(section), max_size=section.longest),
            v2.RandomHorizontalFlip(section.flip_p),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(norm.mean, norm.std),
        ]
    )
    loader = DataLoader(
        _Files(data, task.setup.train, transform),
        batch_size=task.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=cores.usable(),
        collate_fn=list,
        persistent_workers=True,
    )
    while True:
        for batch in loader:
            height, width = (max(image.shape[side] for image, _ in batch) for side in (1, 2))
            yield Batch(batch, (height, width))


def _timed(loop: Callable[[], None]) -> float:
    start = time.perf_counter()
    loop()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
