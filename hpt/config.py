"""Every setting of a run, checked once and then frozen.

A configuration is resolved in five layers, each over the one before:
defaults (the published protocol) < preset < TOML file < `--set` < everyday options.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, TypeVar, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from hpt import toml_file
from hpt.errors import ConfigError, did_you_mean
from hpt.schedule import parse_schedule
from hpt.strategies import STRATEGIES, MethodName, StrategyName

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
"""The backbones that need no timm."""
Pooling = Literal["own", "average", "class-token", "both"]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]
Precision = Literal["auto", "fp32", "bf16"]
Preset = Literal["paper", "small", "tiny"]
Policy = Literal["baseline", "no-grayscale", "no-color", "crop-blur", "crop-only", "rotate90", "vertical-flip"]
DENSE = ("detection", "segmentation")
"""The kinds of evaluation that look at boxes and masks."""
EvaluationKind = Literal["linear", "knn", "finetune", "detection", "segmentation"]
Metric = Literal["top1", "top5", "balanced_accuracy", "auroc", "map", "ap", "ap50", "ap75", "miou", "pixel_accuracy"]
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]

WINDOWS = ("auto", "own", "image", "full")
"""The windows of intensity that are found rather than given."""
DEFAULT_WEIGHTS = "moco-v2-800ep"
UNTRAINED = "untrained"
"""What an evaluation may name in place of weights: the floor, a network that was never trained (`hpt.floor`)."""
PROTOCOL_LABELS = 1000
MOST_CHANNELS = 16
"""The most channels of an image that a network is given."""
MICRO_BATCH_PIXELS = 256 * 64 * 64
"""The pixels that go through an encoder at once on a CPU: about 0.5 GiB of activations of a ResNet-18, 1.7 GiB of a
ResNet-50."""


def _check_backbone(value: str) -> str:
    # Whether timm has such a network is asked where it is needed (`hpt.encoder.check`): reports read configurations
    # too, and importing timm takes seconds.
    if not re.fullmatch(r"[A-Za-z0-9_.]+", value):
        raise ValueError(
            f"'{value}' is no name of a backbone: choose one of {', '.join(RESNETS)}, or timm's name of an image model"
        )
    return value


def _split_commas(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _as_share(value: object) -> object:
    known: dict[object, float] = {True: 1.0, "true": 1.0, False: 0.0, "false": 0.0}
    return known.get(value.lower() if isinstance(value, str) else value, value)


Backbone = Annotated[str, AfterValidator(_check_backbone)]
Floats = Annotated[tuple[float, ...], BeforeValidator(_split_commas), Field(min_length=1)]
Steps = Annotated[tuple[Positive, ...], BeforeValidator(_split_commas), AfterValidator(lambda v: tuple(sorted({*v})))]


class Config(BaseModel):
    """The base of all configurations: frozen, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


def parse_window(text: str) -> tuple[tuple[float, float], ...] | None:
    """`"0:3000"` -> ((0, 3000),), and `"0:3000,10:400"` one for each channel; None for what is no numbers: `auto`,
    `own`, `image`, `full`.

    Raises:
        ValueError: anything else, or an empty window.
    """
    if text in WINDOWS:
        return None
    windows = []
    for part in text.split(","):
        try:
            low, high = (float(number) for number in part.split(":"))
        except ValueError:
            raise ValueError(
                f"window '{text}' is not LOW:HIGH, nor one of {', '.join(WINDOWS)}{did_you_mean(text, WINDOWS)}"
            ) from None
        if not low < high or not math.isfinite(high - low):
            raise ValueError(f"window '{part}' is empty: give LOW:HIGH with LOW below HIGH")
        windows.append((low, high))
    return tuple(windows)


def _as_window(value: object) -> object:
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(each, int | float) for each in value):
        return f"{value[0]}:{value[1]}"
    if isinstance(value, str):
        parse_window(value)
    return value


def _as_channels(value: object) -> object:
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(",") if part.strip()]
        numbers = [int(part) if part.isdecimal() else part for part in parts]
        return numbers[0] if len(numbers) == 1 and isinstance(numbers[0], int) else numbers
    return value


def _check_channels(value: Any) -> Any:
    if isinstance(value, int):
        if not 1 <= value <= MOST_CHANNELS:
            raise ValueError(f"{value} channels: give 1 to {MOST_CHANNELS}, or the numbers or names of the channels")
    elif value is not None:
        if not 1 <= len(value) <= MOST_CHANNELS:
            raise ValueError(f"{len(value)} channels: give 1 to {MOST_CHANNELS} of them")
        if len(set(value)) < len(value):
            raise ValueError("a channel is named twice")
        if any(isinstance(each, int) and each < 0 for each in value):
            raise ValueError("channels are counted from 0")
    return value


Window = Annotated[str, BeforeValidator(_as_window)]
ChannelChoice = Annotated[
    int | tuple[int | str, ...] | None, BeforeValidator(_as_channels), AfterValidator(_check_channels)
]


def _as_frame(value: object) -> object:
    return int(value) if isinstance(value, str) and value.isdecimal() else value


FrameChoice = Annotated[Literal["first", "middle"] | Annotated[int, Field(ge=0)], BeforeValidator(_as_frame)]


class DataConfig(Config):
    """How a folder of images becomes splits and a cache."""

    split_seed: int = 0
    """The seed of the 70/10/20 split of a dataset that ships without one; it is not `seed`, so that reruns share a
    split."""
    max_unreadable: Share = 0.01
    """The share of unreadable images above which a run stops; below it they are named, counted and left out."""
    cache_side: Positive | None = None
    """The shorter side of the decoded images in the cache, in pixels; an image is never enlarged there. None: 2.24
    times `image_size`, so that MoCo-v2's smallest crop (0.2 of the area) is not enlarged."""
    channels: ChannelChoice = None
    """The channels that the network sees, 1 to 16: their number, or a list of their names or numbers, from 0. `1` makes
    grey of colours. None: RGB; and all channels of images that have others."""
    window: Window = "auto"
    """The intensities that become black and white, in files of more than 8 bits. `auto`: the files' own window (DICOM),
    else the range that the training images use; `own`: each file's own; `image`: each image's lowest and highest, which
    removes what may be the signal; `full`: all that the type holds; or `LOW:HIGH`, for all channels or one for each."""
    bits: Literal["auto", "8", "16"] = "auto"
    """The bits of a channel in the cache. `auto`: 16 where 8 would leave visibly fewer grey levels."""
    frame: FrameChoice = "first"
    """The page, frame or slice of a file that is its image: `first`, `middle`, or a number from 0."""
    first_conv: Literal["repeat", "mean"] = "repeat"
    """How RGB weights start a network of other channels: the three filters in turn, or their mean for each; rescaled,
    so that the sum stays. One channel gets their sum."""

    image_column: str | None = None
    """The column of a table that holds the images. None: the one that says so, or the only binary one."""
    label_column: str | None = None
    """The column of a table that holds the labels; of shards, the ending of the members (`cls`, `json`, `txt`) or the
    key of `.json` members. None: what is there."""
    stream: bool = False
    """Whether a pretraining reads and decodes images as it comes to them, instead of decoding all into the cache: for
    sets whose decoded images no disk holds. Evaluations look at each image many times, and use the cache."""
    stream_buffer: Annotated[int, Field(ge=16)] = 256
    """MiB of image files that a streamed pretraining holds in memory, and shuffles; images of half of it are mixed."""

    def side(self, image_size: int) -> int:
        """The shorter side in the cache for views of `image_size`; the same for pretraining and evaluation."""
        return self.cache_side or math.ceil(image_size / math.sqrt(0.2))


class MocoConfig(Config):
    """MoCo-v2 (arXiv 2003.04297) as the protocol has it."""

    queue_size: Positive = 65536
    """The number of keys in the queue: the negatives of every query."""
    momentum: Share = 0.999
    """The momentum of the key encoder, per step."""
    temperature: Annotated[float, Field(gt=0)] = 0.2
    """The temperature of the InfoNCE loss."""
    dim: Positive = 128
    """The length of a projected, L2-normalised feature."""
    bn_group: Positive | None = None
    """The number of images that share BatchNorm statistics. None: 64, or half of a batch without two groups of 64."""
    micro_batch: Positive | None = None
    """The number of images that go through an encoder at once, in whole BatchNorm groups; the gradients add up. More is
    quicker and takes more memory. None: as many groups as hold 256 images of 64 px on a CPU (at 224 px: one), and one
    on a GPU."""


class MocoV3Config(Config):
    """MoCo-v3 (arXiv 2104.02057) as published for ViTs; `moco.bn_group` and `moco.micro_batch` hold for it too."""

    hidden: Positive | None = None
    """The width of the hidden layers of projector and predictor. None: the published 4096, or 8 times the length of the
    features, where that is less (networks smaller than those published)."""
    dim: Positive = 256
    """The length of a projected, L2-normalised feature."""
    temperature: Annotated[float, Field(gt=0)] = 0.2
    """The temperature of the contrastive loss."""
    momentum: Share = 0.99
    """The momentum of the key encoder at the first step; it rises to 1 at the last, by half a cosine."""
    lr: Annotated[float, Field(gt=0)] = 1.5e-4
    """The learning rate of a batch of 256; it scales linearly with the batch."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """The weight decay of AdamW, of every trained parameter."""
    warmup: Share = 0.1
    """The share of the steps over which the learning rate rises from 0 (published: 40 of 300 epochs); it falls to 0 by
    half a cosine over the rest."""
    freeze_patches: bool = True
    """Whether the projection of patches stays as it starts: random, or the base's."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The factor by which the learning rate falls from each layer to the one before it; 1: it is the same in all."""


# The rows of the published study of robustness: what each takes away from MoCo-v2's augmentation. "Only" is meant: in
# the authors' configurations (github.com/cjrd/self-supervised-pretraining, configs/hpt-pretrain/bdd_crop_only and
# others) the two crop policies have no flip, and the one without colour jitter keeps grayscale.
POLICIES: dict[Policy, dict[str, float]] = {
    "baseline": {},
    "no-grayscale": {"grayscale_p": 0.0},
    "no-color": {"jitter_p": 0.0},
    "crop-blur": {"jitter_p": 0.0, "grayscale_p": 0.0, "flip_p": 0.0},
    "crop-only": {"jitter_p": 0.0, "grayscale_p": 0.0, "flip_p": 0.0, "blur_p": 0.0},
    # Ours, not the study's: for images without up and down, such as cells and tiles.
    "rotate90": {"rotate90": 1.0},
    "vertical-flip": {"vertical_flip_p": 0.5},
}


class AugmentConfig(Config):
    """The augmentation of one view."""

    policy: Policy = "baseline"
    """The row of the robustness study that supplies the defaults of the fields below; a field that is set wins over
    it."""
    min_scale: Annotated[float, Field(gt=0, le=1)] = 0.2
    """The smallest area of the random resized crop, as a share of the image; the largest is 1."""
    brightness: Annotated[float, Field(ge=0)] = 0.4
    """Colour jitter: the brightness is multiplied by up to 1 plus or minus this."""
    contrast: Annotated[float, Field(ge=0)] = 0.4
    """Colour jitter: the contrast is multiplied by up to 1 plus or minus this."""
    saturation: Annotated[float, Field(ge=0)] = 0.4
    """Colour jitter: the saturation is multiplied by up to 1 plus or minus this."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.4
    """Colour jitter: the hue turns by up to this share of a circle. The original MoCo-v2 has 0.1."""
    jitter_p: Share = 0.8
    """The probability of the colour jitter."""
    grayscale_p: Share = 0.2
    """The probability that the view is grayscale."""
    blur_p: Share = 0.5
    """The probability of the Gaussian blur."""
    blur_sigma: Annotated[tuple[float, float], BeforeValidator(_split_commas)] = (0.1, 2.0)
    """The smallest and largest standard deviation of the Gaussian blur, in pixels of a view of 224 px; in a view of
    another side s it is s / 224 times as many pixels, so that the same share of what an image shows is blurred."""
    flip_p: Share = 0.5
    """The probability that the view is mirrored, left to right."""
    vertical_flip_p: Share = 0.0
    """The probability that the view is mirrored, top to bottom, for images without up and down."""
    rotate90: Annotated[Share, BeforeValidator(_as_share)] = 0.0
    """The probability that the view is turned by 0, 90, 180 or 270 degrees, each alike, for images without up and down;
    `true` is 1."""

    @model_validator(mode="before")
    @classmethod
    def _take_over_policy(cls, given: Any) -> Any:
        # Not in `resolve`: the library's callers would get the policy's name on MoCo-v2's numbers.
        if not isinstance(given, Mapping):
            return given
        return next((row for name, row in POLICIES.items() if name == given.get("policy")), {}) | dict(given)

    def in_words(self) -> str:
        """What a view goes through, in order."""
        steps = [f"crop of {100 * self.min_scale:g}-100 % of the area"]
        if self.jitter_p:
            reach = ", ".join(f"{n} {getattr(self, n):g}" for n in ("brightness", "contrast", "saturation", "hue"))
            steps.append(f"colour jitter of {reach} (p={self.jitter_p:g})")
        if self.grayscale_p:
            steps.append(f"grayscale (p={self.grayscale_p:g})")
        if self.blur_p:
            low, high = self.blur_sigma
            steps.append(f"blur of sigma {low:g}-{high:g} px at 224 px (p={self.blur_p:g})")
        if self.flip_p:
            steps.append(f"flip (p={self.flip_p:g})")
        if self.vertical_flip_p:
            steps.append(f"vertical flip (p={self.vertical_flip_p:g})")
        if self.rotate90:
            steps.append(f"turn by right angles (p={self.rotate90:g})")
        return "; ".join(steps)


class OptimizerConfig(Config):
    """SGD with cosine decay to 0 over the run's steps."""

    lr: Annotated[float, Field(gt=0)] = 0.03
    """The learning rate of a batch of 256; it scales linearly with the batch."""
    momentum: Share = 0.9
    """The momentum of SGD."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """The weight decay of every trained parameter, as in MoCo."""


class PretrainConfig(Config):
    """One pretraining."""

    strategy: StrategyName
    """Where the backbone starts and what trains in it: a row of `hpt.strategies`."""
    dataset: str
    """The dataset: a name of the catalogue, a folder, a zip file, a list, shards or tables, here or at an address."""
    weights: str | None = DEFAULT_WEIGHTS
    """The base: a known name, a file, or an earlier run; None for `target`, which starts from random weights."""
    allow_partial: bool = False
    """Whether to start from weights that hold only a part of the backbone; the rest is that of a fresh model."""
    steps: Positive = 5000
    """The number of optimizer steps; `base` takes none."""
    batch_size: Annotated[int, Field(ge=4)] = 256
    """The number of images per optimizer step, over all processes."""
    backbone: Backbone = "resnet50"
    """The architecture: a plain ResNet, or an image model by timm's name (`convnext_tiny`, `vit_small_patch16_224`)."""
    pooling: Pooling = "own"
    """How a transformer's tokens become one feature: `average` over the patches, the `class-token`, or `both` side by
    side; `own` is the network's default, and all that networks without a class token have."""
    method: MethodName | None = None
    """What pretrains: `moco-v2`, or `moco-v3`, whose settings are `moco_v3.*`. None: MoCo-v3 for transformers, MoCo-v2
    for all others."""
    image_size: Annotated[int, Field(ge=8)] = 224
    """The side of a view in pixels."""
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The share of the pretraining images that is used, drawn by seed; a smaller share is a part of a larger one."""
    seed: Seed = 0
    """The seed of everything random but the split."""
    processes: Positive = 1
    """The number of processes that share a step, each with its own device; the result does not depend on it."""
    device: Device = "auto"
    """The device to compute on; `auto` takes the first GPU, or the CPU where there is none."""
    precision: Precision = "auto"
    """The precision to compute in; `auto` takes bf16 where the device has it, and fp32 elsewhere."""
    gradient_checkpointing: bool = False
    """Whether the backward pass computes again what lies within the backbone's blocks, instead of having it kept: a
    step takes less memory and about a quarter more time, and computes the same."""
    preset: Preset = "paper"
    """The set of defaults that lies under the other fields."""
    checkpoint_every: Positive = 500
    """The number of steps between checkpoints; the last two are kept."""
    log_every: Positive = 10
    """The number of steps between logged losses."""
    save_at: Steps = ()
    """The steps after which the backbone is kept as well, as `backbones/step-N.safetensors`; RUN@N names it."""
    probe_every: Positive | None = None
    """The number of steps between looks at the representation (`hpt.evaluate.online`), the first of them before
    training: kNN on val where there are labels, and measures that need none. None: no looks, or ten with
    `keep_best`."""
    probe_images: Annotated[int, Field(ge=8)] = 2000
    """The most images of train, and of val, that a look at the representation takes, drawn by seed."""
    keep_best: bool = False
    """Whether the run's backbone is the one that the looks favour (by kNN on val, or effective rank where there are no
    labels; step 0 is among them) instead of the last."""
    stop_when_worse: bool = False
    """Whether to look on the way, keep the best (both as `keep_best`), and end the run once the figure of a look has
    fallen below the base's own by more than its noise (`hpt.milestones`)."""
    moco: MocoConfig = MocoConfig()
    moco_v3: MocoV3Config = MocoV3Config()
    augment: AugmentConfig = AugmentConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    data: DataConfig = DataConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if STRATEGIES[self.strategy].starts_from_weights != (self.weights is not None):
            wanted = "needs base weights" if self.weights is None else "starts from random weights and takes none"
            raise ValueError(f"strategy {self.strategy} {wanted}")
        if self.strategy == "base":
            return self
        if self.save_at and self.save_at[-1] > self.steps:
            raise ValueError(f"save_at {self.save_at[-1]} lies beyond the run's {self.steps} steps")
        if self.batch_size % self.bn_group or self.bn_group < 2:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of BatchNorm groups of {self.bn_group}; "
                "choose an even batch size, or set moco.bn_group to a divisor of it"
            )
        if self.bn_groups % self.processes:
            raise ValueError(
                f"{self.bn_groups} BatchNorm groups of {self.bn_group} images cannot be shared evenly by "
                f"{self.processes} processes; choose processes that divide {self.bn_groups}"
            )
        if self.moco.micro_batch is not None and self.moco.micro_batch % self.bn_group:
            raise ValueError(
                f"moco.micro_batch {self.moco.micro_batch} does not hold whole BatchNorm groups of {self.bn_group}; "
                f"set it to a multiple of {self.bn_group}"
            )
        if self.method != "moco-v3" and self.moco.queue_size < self.batch_size:
            raise ValueError(
                f"moco.queue_size {self.moco.queue_size} is smaller than the batch of {self.batch_size}; "
                f"set it to {self.batch_size} or more"
            )
        return self

    @property
    def probe_interval(self) -> int | None:
        """The number of steps between looks at the representation, the first at step 0; None for no looks."""
        if self.strategy == "base":
            return None
        return self.probe_every or (max(1, self.steps // 10) if self.keeps_best else None)

    @property
    def keeps_best(self) -> bool:
        """Whether the run's backbone is the one that the looks favour."""
        return self.keep_best or self.stop_when_worse

    @property
    def bn_group(self) -> int:
        """The number of images per BatchNorm group: the paper's 64, where the batch holds two such groups."""
        if self.moco.bn_group is not None:
            return self.moco.bn_group
        return 64 if self.batch_size >= 128 and self.batch_size % 64 == 0 else max(1, self.batch_size // 2)

    @property
    def bn_groups(self) -> int:
        """The number of BatchNorm groups in a step, over all processes."""
        return self.batch_size // self.bn_group

    def micro_batch(self, device: str) -> int:
        """The number of images that go through an encoder at once on a kind of device, in one process."""
        wanted = self.moco.micro_batch
        if wanted is None:
            wanted = MICRO_BATCH_PIXELS // self.image_size**2 if device == "cpu" else 1
        return min(max(wanted // self.bn_group, 1), self.bn_groups // self.processes) * self.bn_group

    @property
    def base_lr(self) -> float:
        """The learning rate at step 0: scaled linearly with the batch."""
        return self.optimizer.lr * self.batch_size / 256


class LinearConfig(Config):
    """A linear probe: one linear layer on the pooled features of the frozen backbone."""

    lrs: Floats = (0.3, 3.0, 30.0)
    """The learning rates that are tried, all in one pass; the best on val is reported."""
    reruns: Positive = 3
    """The number of heads per learning rate, each with its own random initialisation."""
    steps: Positive = 5000
    """The number of steps; the learning rate is divided by 10 at 1/3 and 2/3 of them."""
    batch_size: Positive = 512
    """The number of images per step; all of them where there are fewer."""
    eval_every: Positive = 100
    """The number of steps between evaluations on val."""
    momentum: Share = 0.9
    """The momentum of SGD."""
    min_scale: Annotated[float, Field(gt=0, le=1)] = 0.08
    """The smallest area of the training view's random resized crop, as a share of the image."""
    flip_p: Share = 0.5
    """The probability that a training view is mirrored, left to right."""
    views: Annotated[int, Field(ge=0)] = 0
    """The number of random views of each image that are embedded once and then drawn from, which costs as many passes
    over the training images, whatever the number of steps; 0 (the protocol) takes fresh random views at every step."""


class KnnConfig(Config):
    """A vote of the nearest neighbours, weighted by similarity, on L2-normalised features (arXiv 1805.01978)."""

    k: Positive = 20
    """The number of neighbours that vote; fewer where the training set is smaller."""
    temperature: Annotated[float, Field(gt=0)] = 0.07
    """The temperature of the votes: a neighbour of cosine similarity s votes with exp(s / temperature)."""


def _check_schedule(value: str) -> str:
    parse_schedule(value)
    return value


class FinetuneConfig(Config):
    """Finetuning of all weights."""

    lr: Annotated[float, Field(gt=0)] = 0.01
    """The learning rate of the backbone."""
    head_lr_multiplier: Annotated[float, Field(gt=0)] = 100.0
    """The factor by which the learning rate of the new head exceeds that of the backbone."""
    schedule: Annotated[str, BeforeValidator(_check_schedule)] = "2500-steps"
    """The length, as `N-steps` or `N-epochs`; the learning rate is divided by 10 at 1/3 and 2/3 of it."""
    batch_size: Positive = 512
    """The number of images per optimizer step; all of them where there are fewer."""
    micro_batch: Positive = 128
    """The number of images that go through the model at once; gradients accumulate up to `batch_size`."""
    gradient_checkpointing: bool = False
    """Whether the backward pass computes again what lies within the backbone's blocks, as in a pretraining."""
    eval_every: Positive | None = None
    """The number of optimizer steps between evaluations on val. None: 100 of a schedule in steps (a tenth of one that
    is shorter than 1,000), and an epoch of a schedule in epochs."""
    momentum: Share = 0.9
    """The momentum of SGD."""
    min_scale: Annotated[float, Field(gt=0, le=1)] = 0.08
    """The smallest area of the training view's random resized crop, as a share of the image."""
    flip_p: Share = 0.5
    """The probability that a training view is mirrored, left to right."""


class DenseConfig(Config):
    """What training a detector and a segmenter have in common."""

    momentum: Share = 0.9
    """The momentum of SGD."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """The weight decay of every parameter."""
    warmup: Annotated[int, Field(ge=0)] = 100
    """The number of steps over which the learning rate rises to its value, linearly from a thousandth."""
    clip: Annotated[float, Field(gt=0)] | None = None
    """The norm that a step's gradients are cut to; None: they are not."""
    flip_p: Share = 0.5
    """The probability that a training image is mirrored, left to right."""
    eval_every: Positive | None = None
    """The number of steps between evaluations on val, of which the best is kept. None: a quarter of them."""


class DetectionConfig(DenseConfig):
    """Faster R-CNN (arXiv 1506.01497), all layers trained, BatchNorm too, as the publication's transfer to Pascal
    VOC."""

    head: Literal["c4", "fpn"] = "c4"
    """What stands on the backbone: `c4` proposes on layer3 and classifies by layer4 and a BatchNorm behind it, `fpn`
    has a feature pyramid and two linear layers."""
    channels: Positive = 256
    """The number of channels of the feature pyramid."""
    anchors: Annotated[tuple[Positive, ...], BeforeValidator(_split_commas), Field(min_length=5, max_length=5)] = (
        *(32, 64, 128, 256, 512),
    )
    """The five sides of the anchors in pixels of the network's input, each in three shapes."""
    proposals: Positive = 512
    """The number of proposals of an image that the box head is trained on."""
    lr: Annotated[float, Field(gt=0)] = 0.01
    """The learning rate of a batch of 8; it scales linearly with the batch."""
    steps: Positive = 24000
    """The number of optimizer steps."""
    drops: Steps = ()
    """The steps at which the learning rate is divided by 10. None given: at 3/4 and 11/12 of them."""
    batch_size: Positive = 8
    """The number of images per step; all of them where there are fewer."""
    sides: Annotated[tuple[Positive, Positive], BeforeValidator(_split_commas)] = (480, 800)
    """The smallest and largest shorter side of a training image in pixels; one of them, or of those 32 apart between
    them, is drawn for each image."""
    test_side: Positive = 800
    """The shorter side of a val or test image in pixels."""
    longest: Positive = 1333
    """The longer side of any image at most, in pixels."""

    @property
    def side(self) -> int:
        """The shorter side in the cache."""
        return max(*self.sides, self.test_side)


class SegmentationConfig(DenseConfig):
    """A fully convolutional network on features of stride 16, all layers trained (arXiv 1911.05722, appendix)."""

    head: Literal["fcn", "deeplabv3"] = "fcn"
    """`fcn`: two dilated convolutions of 256 channels, as MoCo has it; `deeplabv3`: pooled at several rates
    (arXiv 1706.05587)."""
    lr: Annotated[float, Field(gt=0)] = 0.003
    """The learning rate of a batch of 16; it scales linearly with the batch."""
    steps: Positive = 33000
    """The number of optimizer steps; the learning rate is divided by 10 at 7/10 and 9/10 of them."""
    batch_size: Annotated[int, Field(ge=2)] = 16
    """The number of images per step; all of them where there are fewer."""
    crop: Annotated[int, Field(ge=32)] = 513
    """The side of a training crop in pixels."""
    scale: Annotated[tuple[float, float], BeforeValidator(_split_commas)] = (0.5, 2.0)
    """The smallest and largest factor by which a training image is scaled before it is cropped."""
    side: Positive = 1024
    """The shorter side in pixels to which larger images are reduced, in training and in figures."""


class EvaluateConfig(Config):
    """One evaluation of a backbone on a labelled dataset."""

    kind: EvaluationKind
    """The kind of evaluation: a linear probe, nearest neighbours, or finetuning."""
    weights: str
    """The backbone under test: a run, a file, a known name, or `untrained`, a network that was never trained."""
    allow_partial: bool = False
    """Whether to evaluate weights that hold only a part of the backbone; the rest is that of a fresh model."""
    dataset: str
    """The dataset: a name of the catalogue, a folder, a zip file, a list, shards or tables, here or at an address."""
    labels: str | None = None
    """The training labels that are used: `all`, a number, `10%`, or `5-per-class`. None: all, and for finetuning the
    protocol's 1,000 (all where there are fewer)."""
    backbone: Backbone = "resnet50"
    """The architecture of the weights: a plain ResNet, or an image model by timm's name."""
    pooling: Pooling = "own"
    """How a transformer's tokens become one feature: `average`, `class-token` or `both`; `own`: the network's
    default."""
    image_size: Annotated[int, Field(ge=8)] = 224
    """The side of the view in pixels; the test view is the centre of the image, resized to 256/224 of it."""
    seed: Seed = 0
    """The seed of heads, batches, views, and the draw of labels."""
    processes: Positive = 1
    """The number of processes that share the images, each with its own device; figures are the same up to rounding."""
    device: Device = "auto"
    """The device to compute on; `auto` takes the first GPU, or the CPU where there is none."""
    precision: Precision = "auto"
    """The precision to compute in; `auto` takes bf16 where the device has it, and fp32 elsewhere."""
    preset: Preset = "paper"
    """The set of defaults that lies under the other fields."""
    metric: Metric | None = None
    """The headline metric, by which val chooses. None: that of the dataset's row of the catalogue, or `top1` of a
    folder of classes and `auroc` of a multi-label list."""
    allow_near_copies: bool = False
    """Whether to evaluate although the backbone was pretrained on near copies of test images: the same pictures,
    encoded again or resized. Equal files are refused in any case."""
    allow_absent_classes: bool = False
    """Whether to evaluate although some classes have no training image; all their test images then count as errors."""
    log_every: Positive = 10
    """The number of steps between logged losses of a finetuning."""
    checkpoint_every: Positive = 500
    """The number of steps between checkpoints of a linear probe or a finetuning; they are removed when it has
    finished."""
    keep_features: bool = True
    """Whether what the frozen backbone computes is kept in the cache, for later evaluations of it on these images."""
    test: bool = True
    """Whether to compute the test figures; a sweep's trials leave the test images alone, and its winner is tested
    once."""
    linear: LinearConfig = LinearConfig()
    knn: KnnConfig = KnnConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    detection: DetectionConfig = DetectionConfig()
    segmentation: SegmentationConfig = SegmentationConfig()
    data: DataConfig = DataConfig()

    @property
    def side(self) -> int:
        """The shorter side of the decoded images in the cache."""
        if self.kind == "detection":
            return self.data.cache_side or self.detection.side
        if self.kind == "segmentation":
            return self.data.cache_side or self.segmentation.side
        return self.data.side(self.image_size)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.labels is not None:
            parse_labels(self.labels)
        if self.kind in DENSE and self.backbone not in RESNETS:
            raise ValueError(
                f"{self.kind} stands on the layers of a plain ResNet, and {self.backbone} is none; evaluate it by "
                f"linear, knn or finetune, or choose one of {', '.join(RESNETS)}"
            )
        return self


def parse_labels(text: str) -> tuple[Literal["all", "count", "share", "per-class"], float]:
    """`"1000"` -> ("count", 1000); `"10%"` -> ("share", 0.1); `"5-per-class"` -> ("per-class", 5).

    Raises:
        ValueError: anything else, or a number that is not positive.
    """
    kind: Literal["all", "count", "share", "per-class"]
    text = text.strip().replace(",", "").replace("_", "")
    if text == "all":
        return "all", 0
    if text.endswith("%"):
        kind, number, most = "share", text[:-1], 100.0
    elif text.endswith("-per-class"):
        kind, number, most = "per-class", text.removesuffix("-per-class"), float("inf")
    else:
        kind, number, most = "count", text, float("inf")
    try:
        value = float(number) if kind == "share" else float(int(number))
    except ValueError:
        value = 0
    if not 0 < value <= most:
        raise ValueError(f"labels '{text}' is not one of all, a number such as 1000, 10% or 5-per-class")
    return kind, value / 100 if kind == "share" else value


# A crop of 8 % of a small image is a few pixels, and a mirrored digit or letter is none: training views of small images
# are as mild as what they show bears.
_MILD = {"min_scale": 0.7, "flip_p": 0.0}
# On digits and sketches of 32 px the best was 0.01 for an untrained network, whose features are long (norm 28), and 0.1
# to 1 for a supervised base (norm 10): inside, not at an end.
_LRS = (0.001, 0.01, 0.1, 1.0, 10.0)

# Everything that a preset changes of the protocol. `small` suits a laptop, `tiny` tests and demonstrations.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "paper": {"pretrain": {}, "evaluate": {}},
    "small": {
        "pretrain": {
            "backbone": "resnet18",
            "image_size": 64,
            "steps": 1000,
            "checkpoint_every": 100,
            "moco": {"queue_size": 4096, "momentum": 0.99},
        },
        "evaluate": {
            "backbone": "resnet18",
            "image_size": 64,
            "linear": {"views": 8, "steps": 2000, **_MILD, "lrs": _LRS},
            "finetune": {"schedule": "500-steps", "batch_size": 128, **_MILD},
            "detection": {
                "head": "fpn",
                "channels": 128,
                "anchors": (16, 32, 64, 128, 256),
                "proposals": 128,
                "steps": 1500,
                "sides": (224, 320),
                "test_side": 288,
                "longest": 480,
                "lr": 0.02,
                "clip": 35.0,
            },
            "segmentation": {"steps": 1500, "batch_size": 8, "crop": 193, "side": 240, "lr": 0.02, "clip": 35.0},
        },
    },
    "tiny": {
        "pretrain": {
            "backbone": "resnet18",
            "image_size": 32,
            "steps": 100,
            "batch_size": 64,
            "checkpoint_every": 50,
            "moco": {"queue_size": 1024, "momentum": 0.99},
        },
        "evaluate": {
            "backbone": "resnet18",
            "image_size": 32,
            "linear": {"views": 4, "steps": 500, "batch_size": 256, **_MILD, "lrs": _LRS},
            "finetune": {"schedule": "60-steps", "batch_size": 64, **_MILD},
            "detection": {
                "head": "fpn",
                "channels": 64,
                "anchors": (8, 16, 32, 64, 128),
                "proposals": 64,
                "steps": 100,
                "batch_size": 4,
                "sides": (128, 192),
                "test_side": 160,
                "longest": 320,
                "lr": 0.04,
                "warmup": 10,
                "clip": 35.0,
            },
            "segmentation": {
                "steps": 100,
                "batch_size": 8,
                "crop": 97,
                "side": 120,
                "lr": 0.05,
                "warmup": 10,
                "clip": 35.0,
            },
        },
    },
}

C = TypeVar("C", PretrainConfig, EvaluateConfig)
M = TypeVar("M", bound=Config)

PROTOCOL_VERSION = 2
"""The version of what a configuration means: raised when the same configuration, images and weights come to other
results than before, or a default changes."""
_BOOKKEEPING = {
    *("processes", "device", "preset", "checkpoint_every", "log_every", "gradient_checkpointing"),
    *("save_at", "probe_every", "probe_images", "test", "keep_features"),
}


def fingerprint(
    config: PretrainConfig | EvaluateConfig,
    *,
    data: str,
    split: str,
    weights: str,
    precision: str,
    search: Mapping[str, Any] | None = None,
) -> str:
    """A hexadecimal digest of all that a run's result rests on: two runs with the same fingerprint are the same.

    `data` and `split` are the dataset's fingerprints, `weights` is the sha256 of what the run starts from or evaluates,
    empty for random weights, which the seed decides; paths and names play no part. `precision` is the one that is
    computed in, fp32 or bf16, whatever was asked for (`hpt.processes.Compute`). `search` says how a sweep varies the
    configuration.
    """
    aside = _BOOKKEEPING | {"dataset", "weights", "precision"}
    if isinstance(config, EvaluateConfig):
        aside |= set(get_args(EvaluationKind)) - {config.kind}
    # Without what is as the protocol has it: a field that a later version adds leaves the fingerprints as they are.
    method = flatten(config.model_dump(mode="json", exclude=aside, exclude_defaults=True))
    if isinstance(config, EvaluateConfig):
        never = ("data.stream", "finetune.gradient_checkpointing")  # it does not stream; it computes the same
        method = {name: value for name, value in method.items() if not name.startswith(never)}
    named: dict[str, Any] = {"version": PROTOCOL_VERSION, "data": data, "split": split, "weights": weights}
    named["precision"] = precision
    if isinstance(config, PretrainConfig) and config.keeps_best:  # the looks choose the backbone
        named["looks"] = [config.probe_interval, config.probe_images]
    named |= {"method": method} | ({"search": search} if search is not None else {})
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:32]


def resolve(
    model: type[C],
    *,
    inherited: Mapping[str, Any] | None = None,
    file: Path | None = None,
    sets: Iterable[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> C:
    """The configuration from its layers; a flag that is None was not given.

    `inherited` comes right above the defaults: what an evaluation takes over from the run that it evaluates.

    Raises:
        ConfigError: all problems at once, unknown fields with a "did you mean".
    """
    given = asked(file=file, sets=sets, flags=flags)
    preset = str(given.get("preset", (inherited or {}).get("preset", "paper")))
    if preset not in PRESETS:
        known = ", ".join(PRESETS)
        raise ConfigError(f"unknown preset '{preset}'{did_you_mean(preset, PRESETS)}", f"choose one of {known}")
    kind = "pretrain" if model is PretrainConfig else "evaluate"
    values = merge(PRESETS[preset][kind], dict(inherited or {}), given, {"preset": preset})
    if values.get("strategy") == "target":
        if given.get("weights"):
            raise ConfigError(
                "strategy target starts from random weights, but --weights was given",
                "drop --weights, or use --strategy hpt to start from them",
            )
        values["weights"] = None
    return check(model, values)


def asked(
    *, file: Path | None = None, sets: Iterable[str] = (), flags: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What was asked for: file < `--set` < everyday options, unchecked, without defaults and presets.

    Raises:
        ConfigError: the file or a `--set` cannot be read.
    """
    return merge(_read_file(file), _parse_sets(sets), {k: v for k, v in (flags or {}).items() if v is not None})


def check(model: type[M], values: Mapping[str, Any]) -> M:
    """`values` as a configuration; a ConfigError names every problem."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError("; ".join(problems(model, error))) from None


def problems(model: type[BaseModel], error: ValidationError) -> list[str]:
    """Everything that is wrong with a model's values, a line each, with a "did you mean" for unknown names."""
    return [_explain(model, each) for each in error.errors()]


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries, the later over the earlier."""
    out: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = out.get(key)
            out[key] = merge(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return out


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"moco": {"dim": 128}}` -> `{"moco.dim": 128}`."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            out.update(flatten(value, f"{prefix}{key}."))
        else:
            out[prefix + key] = value
    return out


def fields(model: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """Every field that `--set` reaches, dotted, with its meaning."""
    out: dict[str, str] = {}
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            out.update(fields(info.annotation, f"{prefix}{name}."))
        else:
            out[prefix + name] = info.description or ""
    return out


def field_kind(model: type[BaseModel], field: str) -> type:
    """What a dotted field takes: int, float, bool, str (choices too), or tuple for several values.

    Raises:
        KeyError: there is no such field.
    """
    *parents, leaf = field.split(".")
    for name in parents:
        model = model.model_fields[name].annotation  # type: ignore[assignment]  # parents are models
    kind: Any = model.model_fields[leaf].annotation
    while get_origin(kind) in (Annotated, Union, UnionType):
        kind = next(each for each in get_args(kind) if each is not type(None))
    return {Literal: str}.get(get_origin(kind), get_origin(kind) or kind)  # type: ignore[no-any-return]


def _read_file(file: Path | None) -> dict[str, Any]:
    return {} if file is None else toml_file.read(file, "configuration file", "check --config")


def _parse_sets(sets: Iterable[str]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for text in sets:
        key, equals, raw = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(
                f"--set {text!r} is not of the form field=value", "for example --set moco.queue_size=4096"
            )
        value: Any = raw.strip()
        if value.lower() in {"none", "null"}:
            value = None
        elif value[:1] in {"[", "{"}:
            try:
                value = json.loads(value)
            except ValueError:
                raise ConfigError(f"--set {text!r}: the value is not valid JSON") from None
        for part in reversed(key.strip().split(".")):
            value = {part: value}
        out = merge(out, value)
    return out


def _explain(model: type[BaseModel], error: Any) -> str:
    path = ".".join(str(part) for part in error["loc"] if part != "[key]")  # pydantic's mark of a dictionary's key
    if error["type"] == "extra_forbidden":
        return f"unknown field '{path}'{did_you_mean(path, fields(model))}"
    if error["type"] == "missing":
        option = issubclass(model, PretrainConfig | EvaluateConfig)
        return f"{path} is missing" + (f": give --{path.replace('_', '-')}" if option else "")
    if error["type"] == "literal_error":
        known = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        got = error["input"]
        return f"unknown {path} '{got}'{did_you_mean(str(got), known)}: choose one of {', '.join(known)}"
    if error["type"] == "value_error":
        message = str(error["ctx"]["error"])
        return f"{path}: {message}" if path else message
    if error["type"] == "string_pattern_mismatch" and path == "device":
        return f"unknown device '{error['input']}': choose auto, cpu, cuda, cuda:N or mps"
    message = str(error["msg"])
    return f"{path} = {error['input']!r}: {message[:1].lower()}{message[1:]}"
