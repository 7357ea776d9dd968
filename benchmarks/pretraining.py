"""A pretraining step beside what people use today: same model, batch, images and machine, one after the other.

    ours      hpt.pretrain, as `hptctl pretrain` runs it, by the method of the backbone's family
    ready     its step alone, on views that are ready: the bound of ours
    whole     the same with all BatchNorm groups of a batch in one pass, as `ready` has it for small images on a CPU
    graph     `ready` as one CUDA graph that is replayed: what is left when launching kernels costs nothing
    compiled  `whole` with both encoders through torch.compile
    standard  torchvision v2 transforms image by image on tensors, as its documentation has them, a DataLoader with a
              worker per core, the paper's MoCo step
    pillow    the same with the transforms on Pillow's images, which is quicker on small ones
    lightly   lightly's MoCoV2Transform and a DataLoader with a worker per core, the paper's MoCo step
    bare      the paper's MoCo step alone, on views that are ready: the bound of such loops

The paper's step is written as its published code has it, for one device: one batch, BatchNorm over all of it. It is of
MoCo-v2 and a plain ResNet; of other backbones there are the rows of our own step.

Each repeat runs all of them for `--steps` steps after one to warm up (three on a GPU); the table shows medians over the
repeats. `x bare` and `x ready` are medians of the ratios within a repeat, so that other work on the machine slows both
sides: give many repeats of few steps where its speed changes. Each loop is begun once and held between its turns, as
are the workers of its DataLoader, which could otherwise prepare batches in the time of others (each prepares one at a
time: give as many steps as there are workers, or a multiple). A user's long run gets the speed of `ours`, which is the
loop that runs it; `hptctl bench` measures its step over `ready` in the same way: its ratio is the `x ready` of `ours`.
`cpu s` are the processor's seconds per step, workers included: read these where other work shares the cores. `of peak`
is the share of what the device does in a large matrix product of the same precision, measured before, that goes into
the step's own convolutions and matrix products, as torch.utils.flop_counter counts them.

What cannot run here (lightly is not installed, there is no CUDA device) is left out, and named.

    uv run python benchmarks/pretraining.py IMAGES.zip --image-size 64
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, cast

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from hpt import augment, cores, encoder
from hpt.callbacks import Callbacks
from hpt.config import RESNETS, AugmentConfig, PretrainConfig
from hpt.data.dataset import load
from hpt.data.images import Images
from hpt.methods import method_of
from hpt.pretrain import pretrain
from hpt.processes import Compute, Processes, choose_device
from hpt.step import Step
from hpt.views import StepViews

Views = tuple[Tensor, Tensor]
OURS = ("ready", "whole", "graph", "compiled", "ours")
LOADED = ("standard", "pillow", "lightly")
NAMES = ("bare", *OURS, *LOADED)
PREFETCH = 2
"""Batches that each DataLoader worker prepares ahead: PyTorch's default."""


def our_step(config: PretrainConfig, device: torch.device, *, compiled: bool = False) -> Callable[[Views], None]:
    """The step of `hpt.step` on two views [B, 3, s, s] that are ready."""
    backbone = encoder.fresh(config, channels=3)
    method = method_of(config, backbone)
    moco = method.build(backbone, config)
    step, lr = Step(config, moco, Processes(1, str(device)), method), method.lr(config.steps // 2, config)
    if compiled:
        moco.query.compile()
        moco.key.compile()
    shuffle = torch.arange(config.batch_size, device=device)

    def take(views: Views) -> None:
        query, key = (view.split(config.micro_batch(device.type)) for view in views)
        step(StepViews(query, key, shuffle), lr)

    return take


def in_one_pass(config: PretrainConfig) -> PretrainConfig:
    """The configuration with all BatchNorm groups of a batch going through an encoder at once."""
    return config.model_copy(update={"moco": config.moco.model_copy(update={"micro_batch": config.batch_size})})


def graph_of(take: Callable[[Views], None], views: Views) -> Callable[[], None]:
    """A step on these views as a CUDA graph: it reads and writes the same memory as the step that was recorded."""
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):  # what is made once (momentum, workspaces) is made before the recording
        for _ in range(3):
            take(views)
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        take(views)
    return graph.replay


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
    composed: Callable[[object], Tensor] = v2.Compose(
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
    return composed


def blur_sigmas(config: AugmentConfig, size: int) -> tuple[float, float]:
    """The blur in pixels of the view, as these libraries take it."""
    low, high = (sigma * size / augment.PUBLISHED_SIDE for sigma in config.blur_sigma)
    return low, high


def lightly_transform(size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[[object], list[Tensor]]:
    """lightly's own, with the strength of the protocol."""
    from lightly.transforms.moco_transform import MoCoV2Transform

    c = AugmentConfig()
    jitter = {"cj_strength": 1.0, "cj_bright": c.brightness, "cj_contrast": c.contrast, "cj_sat": c.saturation}
    transform = MoCoV2Transform(
        input_size=size,
        **jitter,
        cj_hue=c.hue,
        min_scale=c.min_scale,
        sigmas=blur_sigmas(c, size),
        normalize={"mean": list(mean), "std": list(std)},
    )
    return cast("Callable[[object], list[Tensor]]", transform)  # lightly says which images it takes


def batches(folder: Path, transform: Callable[[object], object], config: PretrainConfig) -> Iterator[Views]:
    """Endless pairs of views from a DataLoader, as the frameworks' examples have it.

    Its workers are the newest children of this process once the first pair has come.
    """
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


def timed(step: Callable[[], object], steps: int, device: torch.device, warm: int) -> tuple[float, float]:
    """Seconds per step on the wall and of processors, after `warm` of them."""
    for _ in range(warm):
        step()
    wait(device)
    start, busy = time.perf_counter(), processor_seconds()
    for _ in range(steps):
        step()
    wait(device)
    return (time.perf_counter() - start) / steps, (processor_seconds() - busy) / steps


def turn(steps: int, device: torch.device, warm: int) -> Generator[None, None, tuple[float, float]]:
    """As `timed`, of steps that the real loop takes, one for each yield."""
    for _ in range(warm):
        yield
    wait(device)
    start, busy = time.perf_counter(), processor_seconds()
    for _ in range(steps):
        yield
    wait(device)
    return (time.perf_counter() - start) / steps, (processor_seconds() - busy) / steps


def processor_seconds() -> float:
    """What this process and its workers have had of the processors; where other work shares them, it says more than
    the wall's seconds do."""
    here = psutil.Process()
    used = [process.cpu_times() for process in (here, *here.children(recursive=True))]
    return float(sum(each.user + each.system for each in used))


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def warm_steps(device: torch.device) -> int:
    """Steps that are not timed; on a GPU its allocator and libraries take more than one to settle."""
    return 3 if device.type == "cuda" else 1


class Over(Exception):
    """All turns are taken."""


def beside(turns: Generator[None], config: PretrainConfig, images: Images, folder: Path) -> None:
    """The real loop, which takes a step whenever `turns` yields; whatever else they do comes between its steps.

    It runs here, in the process's main thread, as it does for users: in another one the memory of its large tensors
    would be given back at each step, and faulted in anew. It comes to no checkpoint. What it reads ahead while others
    have their turns are three batches, on a CPU without their pixels.
    """
    long = {"steps": 10**6, "checkpoint_every": 10**6, "log_every": 10}

    def pause(done: int, total: int, what: str) -> None:
        if what == "training" and next(turns, Over) is Over:
            raise Over

    if next(turns, Over) is Over:
        return
    try:
        pretrain(
            config.model_copy(update=long),
            images,
            None,
            folder,
            processes=Processes(1, config.device),
            callbacks=Callbacks(progress=pause),
        )
    except Over:
        pass
    except RuntimeError as error:  # a GPU without enough memory: the others go on
        with suppress(StopIteration):
            turns.throw(error)
        for _ in turns:
            pass


class Workers:
    """A step that takes what worker processes prepare: they are stopped between its turns.

    Whoever is done with it lets them go on, or this process would wait for them at its end.
    """

    def __init__(self, step: Callable[[], None]) -> None:
        before = set(psutil.Process().children())
        step()
        self.step = step
        self.processes = [each for each in psutil.Process().children() if each not in before]
        self.hold()

    def hold(self) -> None:
        for process in self.processes:
            process.suspend()

    def go_on(self) -> None:
        for process in self.processes:
            process.resume()


Row = Callable[[], None] | Workers | None
"""What takes a step; None: the real loop, which takes them itself."""


def flops_of(step: Callable[[], None]) -> int:
    """What a step really multiplies and adds in convolutions and matrix products; a product and its sum are two."""
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def peak_flops(device: torch.device, *, bf16: bool) -> float:
    """FLOP/s of a large matrix product here, the best of some: the bound that a step is compared with."""
    side, products = (8192, 10) if device.type == "cuda" else (2048, 2)
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16 if bf16 else torch.float32) for _ in range(2))
    best = min(timed(lambda: torch.mm(a, b), products, device, warm_steps(device))[0] for _ in range(5))
    return 2 * side**3 / best


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{cores.usable()} cores"


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
    parser.add_argument("--within", type=float, metavar="SECONDS", help="begin no repeat that would end later")
    parser.add_argument(
        "--only", nargs="+", choices=NAMES, default=["bare", "ready", "ours", "standard", "pillow", "lightly"]
    )
    parser.add_argument("--json", type=Path, help="write the figures here, after each repeat")
    options = parser.parse_args()
    began = time.perf_counter()

    fields = ("image_size", "backbone", "strategy", "batch_size", "device", "precision")
    values = {name: getattr(options, name) for name in fields}
    base = {"weights": None} if options.strategy == "target" else {}  # random weights cost as much as others
    config = PretrainConfig.model_validate(values | base | {"dataset": str(options.images)})
    device = choose_device(config.device)
    bf16 = Compute.of(config, device).bf16
    images = load(config.dataset, config.data, side=config.data.side(config.image_size)).pretraining_images()
    peak = peak_flops(device, bf16=bf16)

    with ExitStack() as stack:
        folder = options.images
        if folder.suffix == ".zip":
            unpacked = stack.enter_context(tempfile.TemporaryDirectory())
            with zipfile.ZipFile(folder) as archive:
                archive.extractall(unpacked)
            folder = Path(unpacked)
        rows, flops, left_out = prepared(
            options.only,
            config,
            images,
            folder / "train" if (folder / "train").is_dir() else folder,
            device,
        )
        for workers in (each for each in rows.values() if isinstance(each, Workers)):
            stack.callback(workers.go_on)
        document = {
            "config": config.model_dump(mode="json"),
            "device": device_name(device),
            "torch": torch.__version__,
            "precision": "bf16" if bf16 else "fp32",
            "workers": cores.usable(),
            "micro_batch": config.micro_batch(device.type),
            "peak_flops": peak,
            "flops_per_step": {name: flops["ours" if name in OURS else "papers"] for name in rows},
            "left_out": left_out,
        }
        turns = measured(rows, options, device, document, began)
        beside(turns, config, images, Path(stack.enter_context(tempfile.TemporaryDirectory())))
    table(document)


def measured(
    rows: dict[str, Row], options: argparse.Namespace, device: torch.device, document: dict[str, Any], began: float
) -> Generator[None]:
    """Give each row its turns, and put the figures into `document`; a yield is a step of the real loop."""
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    busy: dict[str, list[float]] = {name: [] for name in rows}
    for repeat in range(options.repeats):
        start = time.perf_counter()
        for name in [*rows]:
            row = rows[name]
            try:
                if row is None:
                    taken, used = yield from turn(options.steps, device, warm_steps(device))
                elif isinstance(row, Workers):
                    row.go_on()
                    # The first repeat takes what the workers had prepared before the others ran. Later a step to warm
                    # up would take the time in which they prepare what is timed.
                    warm = 1 + PREFETCH * cores.usable() if repeat == 0 else 0
                    taken, used = timed(row.step, options.steps, device, warm)
                    row.hold()
                else:
                    taken, used = timed(row, options.steps, device, warm_steps(device))
            except RuntimeError as error:  # a worker without shared memory, a GPU without enough
                document["left_out"][name] = reason(error)
                del rows[name], seconds[name], busy[name]
                continue
            seconds[name].append(taken)
            busy[name].append(used)
        document |= {
            "seconds_per_step": seconds,
            "processor_seconds_per_step": busy,
            "medians": {name: statistics.median(taken) for name, taken in seconds.items()},
        }
        if options.json:
            options.json.write_text(json.dumps(document, indent=1))
        now = time.perf_counter()
        if options.within is not None and repeat + 1 < options.repeats and 2 * now - start - began > options.within:
            print(f"{repeat + 1} of {options.repeats} repeats: another would end after {options.within:.0f} s")
            return


def prepared(
    names: list[str], config: PretrainConfig, images: Images, folder: Path, device: torch.device
) -> tuple[dict[str, Row], dict[str, int], dict[str, str]]:
    """What takes a step of each row; the FLOPs of our step, and of the paper's where it is; why a row is left out."""
    norm = (images.mean, images.std)
    generator = torch.Generator().manual_seed(0)
    shape = (config.batch_size, 3, config.image_size, config.image_size)
    query, key = (torch.randn(shape, generator=generator).to(device) for _ in range(2))
    ready = query, key
    query, key = (view.contiguous(memory_format=torch.channels_last) for view in ready)
    ours_ready = query, key
    step = our_step(config, device)
    flops = {"ours": flops_of(lambda: step(ours_ready))}
    if config.backbone in RESNETS:
        papers = papers_step(config, device)
        flops["papers"] = flops_of(lambda: papers(ready))

    def row(name: str) -> Row:
        if name not in OURS and config.backbone not in RESNETS:
            raise RuntimeError("the paper's step is of a plain ResNet")
        if name == "bare":
            return lambda: papers(ready)
        if name == "ready":
            return lambda: step(ours_ready)
        if name == "ours":
            return None
        if name in ("whole", "compiled"):
            whole = our_step(in_one_pass(config), device, compiled=name == "compiled")
            return lambda: whole(ours_ready)
        if name == "graph":
            if device.type != "cuda":
                raise RuntimeError("needs a CUDA device")
            return graph_of(our_step(config, device), ours_ready)
        if name == "lightly":
            transform: Callable[[object], object] = lightly_transform(config.image_size, *norm)
        else:
            one = standard_transform(config.image_size, *norm, pillow=name == "pillow")
            transform = lambda image: (one(image), one(image))  # noqa: E731
        loader = batches(folder, transform, config)
        return Workers(lambda: papers(next(loader)))

    rows, left_out = dict[str, Row](), dict[str, str]()
    for name in names:
        try:
            rows[name] = row(name)
        except (ImportError, RuntimeError) as error:
            left_out[name] = reason(error)
    return rows, flops, left_out


def paired(seconds: dict[str, list[float]], name: str, bound: str) -> float:
    """The median over the repeats of a row's time over another's in the same repeat; NaN where that one is missing."""
    ratios = [taken / least for taken, least in zip(seconds[name], seconds.get(bound, []), strict=False)]
    return statistics.median(ratios) if ratios else float("nan")


def reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def table(document: dict[str, Any]) -> None:
    config, medians = document["config"], document["medians"]
    print(
        f"{config['backbone']}, {config['image_size']} px, batch {config['batch_size']} in passes of"
        f" {document['micro_batch']}, {config['strategy']}, {document['precision']}, {document['device']},"
        f" {document['workers']} workers; peak {document['peak_flops'] / 1e12:.3g} TFLOP/s"
    )
    print(f"{'':10}{'s/step':>9}{'spread':>9}{'images/s':>10}{'x bare':>8}{'x ready':>9}{'cpu s':>9}{'of peak':>9}")
    for name, median in medians.items():
        taken = document["seconds_per_step"][name]
        share = document["flops_per_step"][name] / median / document["peak_flops"]
        spread = (max(taken) - min(taken)) / median
        rate = config["batch_size"] / median
        busy = statistics.median(document["processor_seconds_per_step"][name])
        bare, ready = (paired(document["seconds_per_step"], name, bound) for bound in ("bare", "ready"))
        print(f"{name:10}{median:9.4f}{spread:9.1%}{rate:10.0f}{bare:8.3f}{ready:9.3f}{busy:9.3f}{share:9.1%}")
    for name, why in document["left_out"].items():
        print(f"{name:10}left out: {why}")


if __name__ == "__main__":
    main()
