"""A pretraining step beside what people use today: same model, batch, images and machine, one after the other.

    ours      hpt.pretrain, as `hptctl pretrain` runs it
    ready     its step alone, on views that are ready: the bound of ours
    standard  torchvision v2 transforms image by image on tensors, as its documentation has them, a DataLoader with a
              worker per core, the paper's MoCo step
    pillow    the same with the transforms on Pillow's images, which is quicker on small ones
    lightly   lightly's MoCoV2Transform and a DataLoader with a worker per core, the paper's MoCo step
    bare      the paper's MoCo step alone, on views that are ready: the bound of such loops

The paper's step is written as its published code has it, for one device: one batch, BatchNorm over all of it.

Each repeat runs all of them for `--steps` steps after one to warm up; the table shows medians over the repeats.

    uv run python benchmarks/pretraining.py IMAGES.zip --image-size 64
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import models
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from hpt import augment, cores, encoder
from hpt.callbacks import Callbacks
from hpt.config import AugmentConfig, PretrainConfig
from hpt.data.dataset import load
from hpt.data.images import Images
from hpt.moco import MoCo
from hpt.pretrain import pretrain
from hpt.processes import Compute, Processes, choose_device
from hpt.step import Step
from hpt.views import StepViews

Views = tuple[Tensor, Tensor]
PREFETCH = 2
"""Batches that each DataLoader worker prepares ahead: PyTorch's default."""


def our_step(config: PretrainConfig, device: torch.device) -> Callable[[Views], None]:
    """The step of `hpt.step` on two views [B, 3, s, s] that are ready."""
    backbone = encoder.build(config.backbone, seed=0)
    moco = MoCo(backbone, encoder.feature_dim(config.backbone), config.moco, seed=0)
    step = Step(config, moco, Processes(1, str(device)))
    shuffle = torch.arange(config.batch_size)

    def take(views: Views) -> None:
        query, key = (view.split(config.micro_batch(device.type)) for view in views)
        step(StepViews(query, key, shuffle), config.base_lr)

    return take


def papers_step(config: PretrainConfig, device: torch.device) -> Callable[[Views], None]:
    """MoCo-v2 from Algorithm 1 of arXiv 1911.05722 and its published code, on two views [B, 3, s, s]."""

    def branch() -> nn.Module:
        model: nn.Module = getattr(models, config.backbone)(num_classes=config.moco.dim)
        width = encoder.feature_dim(config.backbone)
        model.fc = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, config.moco.dim))
        return model.to(device).train()

    f_q, f_k = branch(), branch()
    f_k.load_state_dict(f_q.state_dict())
    if config.strategy == "hpt-bn":
        for name, parameter in f_q.named_parameters():
            parameter.requires_grad_("bn" in name or "downsample.1" in name or "fc" in name)
    trained = [parameter for parameter in f_q.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, config.base_lr, momentum=0.9, weight_decay=1e-4)
    queue = F.normalize(torch.randn(config.moco.dim, config.moco.queue_size, device=device), dim=0)
    pointer, m, t = 0, config.moco.momentum, config.moco.temperature
    compute = Compute.of(config, device)

    def take(views: Views) -> None:
        nonlocal pointer
        im_q, im_k = (view.to(device, non_blocking=True) for view in views)
        with compute.autocast():
            q = F.normalize(f_q(im_q), dim=1)
            with torch.no_grad():
                for param_q, param_k in zip(f_q.parameters(), f_k.parameters(), strict=True):
                    param_k.data = param_k.data * m + param_q.data * (1.0 - m)
                shuffle = torch.randperm(len(im_k), device=device)
                k = F.normalize(f_k(im_k[shuffle]), dim=1)[torch.argsort(shuffle)].float()
            l_pos = torch.einsum("nc,nc->n", [q.float(), k]).unsqueeze(-1)
            l_neg = torch.einsum("nc,ck->nk", [q.float(), queue.clone().detach()])
            logits = torch.cat([l_pos, l_neg], dim=1) / t
            loss = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        queue[:, pointer : pointer + len(k)] = k.T
        pointer = (pointer + len(k)) % config.moco.queue_size

    return take


def standard_transform(
    size: int, mean: tuple[float, ...], std: tuple[float, ...], *, pillow: bool
) -> Callable[[object], Tensor]:
    """MoCo-v2's policy as torchvision's users write it."""
    c = AugmentConfig()
    return v2.Compose(
        [
            v2.Identity() if pillow else v2.ToImage(),
            v2.RandomResizedCrop(size, scale=(c.min_scale, 1.0)),
            v2.RandomApply([v2.ColorJitter(c.brightness, c.contrast, c.saturation, c.hue)], p=c.jitter_p),
            v2.RandomGrayscale(p=c.grayscale_p),
            v2.RandomApply([v2.GaussianBlur(13, sigma=blur_sigmas(c, size))], p=c.blur_p),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean, std),
        ]
    )


def blur_sigmas(config: AugmentConfig, size: int) -> tuple[float, float]:
    """The blur in pixels of the view, as these libraries take it."""
    low, high = (sigma * size / augment.PUBLISHED_SIDE for sigma in config.blur_sigma)
    return low, high


def lightly_transform(size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[[object], list[Tensor]]:
    """lightly's own, with the strength of the protocol."""
    from lightly.transforms import MoCoV2Transform

    c = AugmentConfig()
    jitter = {"cj_strength": 1.0, "cj_bright": c.brightness, "cj_contrast": c.contrast, "cj_sat": c.saturation}
    return MoCoV2Transform(  # type: ignore[no-any-return]
        input_size=size,
        **jitter,
        cj_hue=c.hue,
        min_scale=c.min_scale,
        sigmas=blur_sigmas(c, size),
        normalize={"mean": list(mean), "std": list(std)},
    )


def batches(folder: Path, transform: Callable[[object], object], config: PretrainConfig) -> Iterator[Views]:
    """Endless pairs of views from a DataLoader, as the frameworks' examples have it."""
    workers = cores.usable()
    loader = DataLoader(
        ImageFolder(folder, transform),
        config.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=True,
        prefetch_factor=PREFETCH,
        pin_memory=torch.cuda.is_available(),
    )
    while True:
        for views, _ in loader:
            yield views[0], views[1]


def timed(step: Callable[[], None], steps: int, device: torch.device, warm: int = 1) -> float:
    """Seconds per step, after `warm` of them."""
    for _ in range(warm):
        step()
    wait(device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    wait(device)
    return (time.perf_counter() - start) / steps


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ours(config: PretrainConfig, images: Images, steps: int) -> float:
    """Seconds per step of the real loop, after one to warm up; checkpoints are left to the end, which is not timed."""
    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        pretrain(
            config.model_copy(update={"steps": steps + 2, "checkpoint_every": steps + 2, "log_every": 10}),
            images,
            None,
            Path(folder),
            processes=Processes(1, config.device),
            callbacks=Callbacks(progress=lambda *_: times.append(time.perf_counter())),
        )
    return (times[steps] - times[0]) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="a folder or zip of <class>/ images, or of train/<class>/")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--strategy", default="target", choices=["target", "hpt", "hpt-bn"])
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=["bare", "ready", "ours", "standard", "pillow", "lightly"])
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()

    fields = ("image_size", "backbone", "strategy", "batch_size", "device", "precision")
    values = {name: getattr(options, name) for name in fields}
    base = {"weights": None} if options.strategy == "target" else {}  # random weights cost as much as others
    config = PretrainConfig.model_validate(values | base | {"dataset": str(options.images)})
    device = choose_device(config.device)
    images = load(config.dataset, config.data, side=config.data.side(config.image_size)).pretraining_images()
    norm = (images.mean, images.std)

    with tempfile.TemporaryDirectory() as unpacked:
        folder = options.images
        if folder.suffix == ".zip":
            with zipfile.ZipFile(folder) as archive:
                archive.extractall(unpacked)
            folder = Path(unpacked)
        folder = folder / "train" if (folder / "train").is_dir() else folder
        steps = {"papers": papers_step(config, device)}
        if "ready" in options.only:
            steps["ours"] = our_step(config, device)
        generator = torch.Generator().manual_seed(0)
        shape = (config.batch_size, 3, config.image_size, config.image_size)
        ready = tuple(torch.randn(shape, generator=generator).to(device) for _ in range(2))
        ours_ready = tuple(view.contiguous(memory_format=torch.channels_last) for view in ready)
        loaders = {}
        for name in {"standard", "pillow"} & {*options.only}:
            one = standard_transform(config.image_size, *norm, pillow=name == "pillow")
            loaders[name] = batches(folder, lambda image, one=one: (one(image), one(image)), config)
        if "lightly" in options.only:
            loaders["lightly"] = batches(folder, lightly_transform(config.image_size, *norm), config)
        seconds: dict[str, list[float]] = {name: [] for name in options.only}
        for _ in range(options.repeats):
            for name in options.only:
                if name == "ours":
                    taken = ours(config, images, options.steps)
                elif name == "bare":
                    taken = timed(lambda: steps["papers"](ready), options.steps, device)
                elif name == "ready":
                    taken = timed(lambda: steps["ours"](ours_ready), options.steps, device)
                else:
                    loader = loaders[name]
                    # The workers went on while the others ran: first use up what they had prepared.
                    ahead = 1 + PREFETCH * cores.usable()
                    taken = timed(lambda loader=loader: steps["papers"](next(loader)), options.steps, device, ahead)
                seconds[name].append(taken)

    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    bound = medians.get("bare", float("nan"))
    print(f"{config.backbone}, {config.image_size} px, batch {config.batch_size}, {config.strategy}, {device}")
    print(f"{'':10}{'s/step':>9}{'spread':>9}{'images/s':>10}{'x bare':>8}")
    for name, median in medians.items():
        spread = (max(seconds[name]) - min(seconds[name])) / median
        print(f"{name:10}{median:9.3f}{spread:8.1%}{config.batch_size / median:10.0f}{median / bound:8.3f}")
    if options.json:
        document = {"config": config.model_dump(mode="json"), "seconds_per_step": seconds, "medians": medians}
        options.json.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
