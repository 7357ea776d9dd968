"""The methods of pretraining, as a table: MoCo-v2 for convolutional networks, MoCo-v3 for transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import nn

from hpt import encoder, remarks
from hpt.adamw import AdamW
from hpt.config import RESNETS, MocoV3Config, OptimizerConfig, PretrainConfig
from hpt.errors import ConfigError
from hpt.moco import MoCo
from hpt.moco_v3 import MoCoV3
from hpt.schedule import cosine, rising, warmed
from hpt.sgd import SGD
from hpt.strategies import MethodName


@dataclass(frozen=True)
class Method:
    """One row of the table."""

    name: MethodName
    build: Callable[[nn.Module, PretrainConfig], MoCo | MoCoV3]
    """The method around a backbone."""
    optimizer: Callable[[MoCo | MoCoV3, PretrainConfig], SGD | AdamW]
    """Of what has gradients."""
    lr: Callable[[int, PretrainConfig], float]
    """The learning rate of a step."""
    momentum: Callable[[int, PretrainConfig], float]
    """The momentum of the key encoder at a step."""


def _moco_v2(backbone: nn.Module, config: PretrainConfig) -> MoCo:
    if config.moco_v3 != MocoV3Config():
        raise ConfigError(
            f"moco_v3.* sets MoCo-v3, and a {config.backbone} is pretrained by MoCo-v2",
            "set optimizer.* and moco.*, or --set method=moco-v3",
        )
    if config.moco.queue_size < config.batch_size:
        raise ConfigError(
            f"moco.queue_size {config.moco.queue_size} is smaller than the batch of {config.batch_size}",
            f"set it to {config.batch_size} or more",
        )
    return MoCo(backbone, encoder.width(backbone), config.moco, seed=config.seed)


def _moco_v3(backbone: nn.Module, config: PretrainConfig) -> MoCoV3:
    if config.optimizer != OptimizerConfig():
        raise ConfigError(
            f"optimizer.* sets MoCo-v2, and a {config.backbone} is pretrained by MoCo-v3",
            "set moco_v3.lr and its other fields, or --set method=moco-v2",
        )
    return MoCoV3(backbone, config.backbone, config.moco_v3, seed=config.seed)


def _adamw(moco: MoCo | MoCoV3, config: PretrainConfig) -> AdamW:
    own = config.moco_v3
    parameters = [parameter for parameter in moco.query.parameters() if parameter.requires_grad]
    scales = {}
    if own.layer_decay < 1:
        depths = encoder.depths(moco.query.backbone)
        deepest = max(depths.values())
        scales = {
            parameter: own.layer_decay ** (deepest - depths[name])
            for name, parameter in moco.query.backbone.named_parameters()
        }
    return AdamW(parameters, weight_decay=own.weight_decay, scales=scales)


def _sgd(moco: MoCo | MoCoV3, config: PretrainConfig) -> SGD:
    own = config.optimizer
    parameters = [parameter for parameter in moco.query.parameters() if parameter.requires_grad]
    return SGD(parameters, momentum=own.momentum, weight_decay=own.weight_decay)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "moco-v2",
            _moco_v2,
            _sgd,
            lambda step, config: cosine(step, config.steps, config.base_lr),
            lambda step, config: config.moco.momentum,
        ),
        Method(
            "moco-v3",
            _moco_v3,
            _adamw,
            lambda step, config: warmed(
                step, config.steps, config.moco_v3.lr * config.batch_size / 256, config.moco_v3.warmup
            ),
            lambda step, config: rising(step, config.steps, config.moco_v3.momentum),
        ),
    )
}


def method_of(config: PretrainConfig, backbone: nn.Module) -> Method:
    """The method that a run trains its backbone by: the one asked for, or that of the backbone's family."""
    return METHODS[config.method or ("moco-v3" if encoder.is_transformer(backbone) else "moco-v2")]


def notes(config: PretrainConfig, backbone: nn.Module, method: Method, images: int) -> Iterator[str]:
    """What to know of a run whose backbone is no plain ResNet, a line each; `images` is the number of its images.

    Raises:
        ConfigError: `hpt-bn` of a network without norms.
    """
    kind, norms = encoder.norms(backbone)
    if config.strategy == "hpt-bn" and kind != "BatchNorm":
        if not norms:
            raise ConfigError(f"a {config.backbone} has no norm layers, so hpt-bn trains nothing", "use --strategy hpt")
        yield f"hpt-bn trains the {len(norms)} layers of {kind} of the {config.backbone}, which has no BatchNorm"
    if config.method is None and method.name != "moco-v2":
        yield f"a {config.backbone} is a transformer, which MoCo-v3 pretrains (--set method=moco-v2 is the other)"
    if config.method is None and method.name == "moco-v2" and config.backbone not in RESNETS:
        yield from remarks.of_queue(config, images)
