"""Pretraining: build, restore, loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from hpt import augment, checkpoint, encoder
from hpt.callbacks import Log, Progress, Stop, Watch
from hpt.config import MICRO_BATCH_PIXELS, EvaluateConfig, PretrainConfig
from hpt.data.images import Images
from hpt.data.loader import Feed, Order, raw_batch
from hpt.errors import ConfigError, DataError, HptError, Interrupted
from hpt.milestones import Milestones
from hpt.moco import MoCo
from hpt.processes import Processes, choose_device, cpu_has_bf16, use_bf16
from hpt.randomness import generator
from hpt.schedule import cosine
from hpt.sgd import SGD
from hpt.strategies import STRATEGIES

log_ = logging.getLogger("hpt.pretrain")

CHANNELS_LAST = ("cpu", "cuda")
"""Devices whose convolutions are quicker with a pixel's channels side by side: 4 to 11 % of a ResNet-18's step at
64 px on 2 cores."""
STOP_EVERY_ON_GPU = 10
"""Steps between looks at the stop signal of several GPU processes: each look waits for the device."""


@dataclass(frozen=True)
class Outcome:
    """What a pretraining leaves."""

    backbone: Path
    sha256: str
    results: dict[str, float]
    facts: dict[str, str]
    """What the looks on the way favoured, where there were any."""


def pretrain(
    config: PretrainConfig,
    images: Images,
    start: Mapping[str, Tensor] | None,
    folder: Path,
    *,
    processes: Processes,
    log: Log,
    progress: Progress,
    stop: Stop = lambda: 0,
    watch: Watch | None = None,
) -> Outcome:
    """Pretrain on `images` and write `backbone.safetensors` into `folder`; goes on from the newest checkpoint there.

    `start` is the base (torchvision's keys without `fc`), None for random weights. `log` gets metrics every `log_every`
    steps on the main process; `stop` returns the number of a signal that asks to stop, or 0. `watch` looks at the
    backbone, on the main process, every `config.probe_interval` steps; `keep_best` keeps the one that it favours.

    Raises:
        Interrupted: `stop` said so; a checkpoint of that step is saved.
        HptError: the loss or a feature is no longer finite.
        ConfigError: `keep_best`, and no `watch`.
    """
    strategy = STRATEGIES[config.strategy]
    if config.keep_best and config.probe_interval and watch is None and processes.main:
        raise ConfigError("keep_best needs something that looks at the backbone", "pass `watch`")
    backbone = encoder.build(config.backbone, seed=config.seed)
    if start is not None:
        backbone.load_state_dict(dict(start), strict=True)
    kept = Milestones(config, backbone, folder, watch, log)
    if strategy.trains == "running-statistics":
        results, steps = estimate_statistics(config, backbone, images, processes, progress), 0
    else:
        results = _train(config, backbone, images, folder, processes, log, progress, stop, kept)
        steps = kept.finish()
    path = folder / "backbone.safetensors"
    sha256 = kept.save(path, steps) if processes.main else ""
    return Outcome(path, sha256, results, kept.facts())


def _train(
    config: PretrainConfig,
    backbone: nn.Module,
    images: Images,
    folder: Path,
    processes: Processes,
    log: Log,
    progress: Progress,
    stop: Stop,
    kept: Milestones,
) -> dict[str, float]:
    # ---- build
    moco = MoCo(backbone, encoder.feature_dim(config.backbone), config.moco, seed=config.seed)
    train = Step(config, moco, processes)
    order = Order(len(images), config.batch_size, config.seed)
    checkpoints = folder / "checkpoints"

    # ---- restore
    first = 0
    results: dict[str, float] = {}
    saved = checkpoint.newest(checkpoints)
    if saved is not None:
        moco.load_state_dict(saved["moco"])
        train.optimizer.load_state_dict(saved["optimizer"])
        first, results = int(saved["step"]), saved["results"]
        kept.load_state_dict(saved["kept"])
        log_.info("going on from step %d of %d", first, config.steps)

    def save(step: int) -> None:
        processes.average_(train.running)
        if processes.main:
            state = {"moco": moco.state_dict(), "optimizer": train.optimizer.state_dict(), "results": results}
            checkpoint.save(checkpoints, step, state | {"kept": kept.state_dict()})
            kept.prune()
        processes.wait()

    def keep(step: int) -> None:
        processes.average_(train.running)
        if processes.main:
            kept(step)
        processes.wait()

    # ---- loop
    look = STOP_EVERY_ON_GPU if processes.count > 1 and processes.device.type == "cuda" else 1
    if first == 0 and kept.due(0):
        keep(0)
    filled = -(-config.moco.queue_size // config.batch_size)  # steps until the queue holds no random keys
    window, since, easy = 0, time.perf_counter(), True
    with train.feed(images, range(first, config.steps)) as feed:
        for step in range(first, config.steps):
            draw = order.draw(step)
            lr = cosine(step, config.steps, config.base_lr)
            key_views = train.views(feed, draw.images[draw.shuffle], draw.key)
            query_views = train.views(feed, draw.images, draw.query)
            loss, ranked_first = train(key_views, query_views, draw.shuffle, lr)

            done = step + 1
            window += 1
            signum = processes.largest(stop()) if done % look == 0 else 0
            saving = done % config.checkpoint_every == 0 or done == config.steps or bool(signum)
            if saving or done == 1 or done % config.log_every == 0:  # what is saved has been looked at
                processes.average_([loss, ranked_first])
                results = {"loss": loss.item(), "contrastive_top1": ranked_first.item(), "lr": lr}  # waits for a GPU
                now = time.perf_counter()
                results["images_per_second"] = window * config.batch_size / (now - since)
                window, since = 0, now
                if not results["loss"] < float("inf"):
                    raise HptError(
                        f"the loss is {results['loss']} at step {done}",
                        "lower optimizer.lr, or use --precision fp32; the last checkpoint is kept",
                    )
                if processes.main:
                    log(results, done)
                if easy and results["contrastive_top1"] > 0.999 and done < filled:
                    easy = False
                    log_.info(
                        "contrastive accuracy is 100 %% at step %d because most keys of the queue are still random;"
                        " expect it to fall until step %d",
                        done,
                        filled,
                    )
            progress(done, config.steps, "training")
            if kept.due(done):
                before = time.perf_counter()
                keep(done)
                since += time.perf_counter() - before  # the speed is that of training
            if saving:
                save(done)
            if signum and done < config.steps:
                raise Interrupted(signum, f"stopped at step {done} of {config.steps}; its checkpoint is saved")
    train.finish()
    return results | kept.seen


class Step:
    """One optimizer step of MoCo-v2 on the views of a global batch of B images; each process has its groups of them."""

    def __init__(self, config: PretrainConfig, moco: MoCo, processes: Processes) -> None:
        self.config, self.moco, self.processes, self.device = config, moco, processes, processes.device
        moco.train_only(STRATEGIES[config.strategy])
        moco.to(self.device).train()
        if self.device.type in CHANNELS_LAST:
            moco.to(memory_format=torch.channels_last)
        self.trained = [p for p in moco.query.parameters() if p.requires_grad]
        sgd = config.optimizer
        self.optimizer = SGD(self.trained, momentum=sgd.momentum, weight_decay=sgd.weight_decay)
        self.autocast = torch.autocast(
            self.device.type, torch.bfloat16, enabled=use_bf16(config.precision, self.device)
        )
        self.groups = config.bn_groups // processes.count  # this process's share
        self.share = config.bn_group * self.groups
        self.mine = slice(processes.rank * self.share, (processes.rank + 1) * self.share)
        self.micro_batch = config.micro_batch(self.device.type)
        # Views made together: with fewer than 256 at 64 px the many small operations cost more than the pixels, with
        # more they leave a CPU's caches.
        few = max(MICRO_BATCH_PIXELS // config.image_size**2, 16)
        self.together = few if self.device.type == "cpu" else self.micro_batch
        self.query_norms = encoder.batch_norms(moco.query)
        norms = self.query_norms + encoder.batch_norms(moco.key)
        for bn in norms:
            bn.group, bn.groups = config.bn_group, self.groups
        self.running = [b for bn in norms for b in (bn.running_mean, bn.running_var) if b is not None]
        self.mark: Callable[[str], None] = lambda stage: None
        """Called as each stage ends: how `hpt.bench` sees where the time goes."""

    def feed(self, images: Images, steps: Iterable[int]) -> Feed:
        """This process's raw batches of some steps, in the order in which `views` asks for them."""
        order = Order(len(images), self.config.batch_size, self.config.seed)
        draws = (order.draw(step) for step in steps)
        batches = (indices for draw in draws for indices in (draw.images[draw.shuffle], draw.images))
        return Feed(images, self.device, (part for indices in batches for part in self._parts(indices)))

    def _parts(self, indices: Tensor) -> Iterator[Tensor]:
        for micro_batch in indices[self.mine].split(self.micro_batch):
            yield from micro_batch.split(self.together)

    def views(self, feed: Feed, indices: Tensor, random: torch.Generator) -> Iterator[Tensor]:
        """This process's views of the global batch `indices` [B], a micro-batch [m, 3, s, s] at a time."""
        config, size = self.config, self.config.image_size
        layout = torch.channels_last if self.device.type in CHANNELS_LAST else torch.contiguous_format
        mine, uniform = indices[self.mine], augment.draw(len(indices), random)[self.mine]
        for micro_batch, numbers in zip(mine.split(self.micro_batch), uniform.split(self.micro_batch), strict=True):
            seen = torch.empty((len(micro_batch), 3, size, size), device=self.device, memory_format=layout)
            parts = (whole.split(self.together) for whole in (micro_batch, numbers, seen))
            for some, own, out in zip(*parts, strict=True):
                raw = feed(some)
                self.mark("load")
                view = augment.parameters(own, raw.sizes, config.augment)
                augment.train_view(raw, view, size, feed.mean, feed.std, config.augment.blur_sigma[1], out=out)
                self.mark("augment")
            yield seen

    def __call__(
        self, key_views: Iterable[Tensor], query_views: Iterable[Tensor], shuffle: Tensor, lr: float
    ) -> tuple[Tensor, Tensor]:
        """Take the step; this process's mean loss [] and share of queries nearest to their own key [].

        `key_views` show the images in the order of `shuffle` [B], so that a group of keys is not a group of queries.
        """
        moco = self.moco
        moco.update_key_encoder()
        self.mark("update")
        key_rows = []
        for view in key_views:
            with torch.no_grad(), self.autocast:
                key_rows.append(moco.key(view))  # m x dim
            self.mark("key forward")
        shuffled = self.processes.gather(torch.cat(key_rows))  # B x dim, as shuffled
        keys = torch.empty_like(shuffled)
        keys[shuffle.to(self.device)] = shuffled  # B x dim, in the order of the queries

        loss_sum = torch.zeros((), device=self.device)
        ranked_first = torch.zeros((), device=self.device)
        for view, own in zip(query_views, keys[self.mine].split(self.micro_batch), strict=True):
            with self.autocast:
                queries = moco.query(view)  # m x dim
            loss, correct = moco.loss(queries, own)
            loss = loss * (len(view) / self.share)
            self.mark("query forward")
            loss.backward()  # gradients add up over the micro-batches
            loss_sum += loss.detach()
            ranked_first += correct / self.share
            self.mark("backward")
        # One message a step. Overlapping it with the backward pass, as DDP does, would win little: it is 45 MB
        # (ResNet-18) or 100 MB (ResNet-50) for a whole step of several groups.
        self.processes.average_(p.grad for p in self.trained if p.grad is not None)
        self.optimizer.step(lr)
        moco.enqueue(keys)
        self.mark("update")
        return loss_sum, ranked_first

    def finish(self) -> None:
        """Make the buffers those of one process that has seen every group."""
        self.processes.average_(self.running)
        for bn in self.query_norms:
            if bn.num_batches_tracked is not None:
                bn.num_batches_tracked += self.config.steps * self.groups * (self.processes.count - 1)


@torch.no_grad()
def estimate_statistics(
    config: PretrainConfig, backbone: nn.Module, images: Images, processes: Processes, progress: Progress
) -> dict[str, float]:
    """Strategy `base`: BatchNorm's running mean and variance become their averages over one pass of test views.

    Groups of 64 as in pretraining (fewer where there are fewer images); a last group of one image is left out, since
    one image's statistics at a 1 x 1 feature map are none.
    """
    if len(images) < 2:
        raise DataError("one image has no statistics", "add images")
    backbone.to(processes.device).train()
    norms = encoder.batch_norms(backbone)
    for bn in norms:
        bn.reset_running_stats()
        bn.momentum = None  # cumulative average
    seen = 0
    order = torch.randperm(len(images), generator=generator(config.seed, "statistics"))
    for group in order.split(64):  # shuffled: groups of one class would bias the variance
        if len(group) > 1:
            raw = raw_batch(images, group, processes.device)
            backbone(augment.centre_view(raw, config.image_size, images.mean, images.std))
        seen += len(group)
        progress(seen, len(images), "estimating statistics")
    for bn in norms:
        bn.momentum = 0.1
    return {"images": float(len(images))}


def step_seconds(config: PretrainConfig) -> float:
    """Seconds of one step of the model alone on this machine: each image once backward, and forward once more."""
    training, forward = image_seconds(config)
    return (training + forward) * config.batch_size / config.processes


def image_seconds(config: PretrainConfig | EvaluateConfig) -> tuple[float, float]:
    """Seconds an image takes on this machine, forward and backward, and forward alone: a few, three times, the best."""
    device = choose_device(config.device)
    model = encoder.build(config.backbone, seed=0).to(device).train()
    images = torch.randn(8, 3, config.image_size, config.image_size, device=device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=use_bf16(config.precision, device))
    forward = training = float("inf")
    for _ in range(3):  # the first pass pays for warming up
        start = time.perf_counter()
        with autocast:
            with torch.no_grad():
                model(images).sum().item()  # waits for a GPU
            middle = time.perf_counter()
            loss = model(images).square().mean()
        loss.backward()
        loss.item()
        forward, training = min(forward, middle - start), min(training, time.perf_counter() - middle)
    return training / len(images), forward / len(images)


def notes(config: PretrainConfig, images: int) -> Iterator[str]:
    """What will look odd in this run and is not, one line each."""
    if config.strategy == "base":
        return
    if config.precision == "auto" and choose_device(config.device).type == "cpu" and cpu_has_bf16():
        yield "this processor computes in bf16 too: --precision bf16 takes about three quarters of the time at 64 px"
    queue = config.moco.queue_size
    filled = -(-queue // config.batch_size)
    if queue > images:
        yield (
            f"the queue of {queue:,} keys is larger than the {images:,} images: about {queue // images} of a query's"
            " negatives show its own image, which keeps the loss up (moco.queue_size sets it)"
        )
    if filled > 1:
        yield (
            "the queue starts with random keys, which are easy: the loss rises and the accuracy falls"
            f" until step {filled:,}"
        )
