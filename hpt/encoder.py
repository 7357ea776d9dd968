"""The backbone: a torchvision ResNet up to its pooled features."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torchvision import models

from hpt.errors import WeightsError, did_you_mean

# Residual blocks of layer1 to layer4 and whether they are bottlenecks (arXiv 1512.03385, table 1).
_ARCHITECTURES: dict[str, tuple[tuple[int, ...], bool]] = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
    "resnet152": ((3, 8, 36, 3), True),
}


def build(backbone: str, *, seed: int) -> nn.Module:
    """A randomly initialised encoder: images [n, 3, H, W] -> pooled features [n, feature_dim(backbone)].

    The weights depend on `seed` alone, and the global random state is left as it was. The state dict has the
    keys of torchvision's ResNet without `fc`.

    Raises:
        WeightsError: unknown backbone.
    """
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would reseed the CUDA generators too.
        torch.default_generator.manual_seed(seed)
        return _resnet(backbone)


def feature_dim(backbone: str) -> int:
    """Length of the pooled feature: 512 for resnet18 and 34, 2048 for the bottleneck ResNets."""
    _, bottleneck = _architecture(backbone)
    return 2048 if bottleneck else 512


@functools.cache
def shapes(backbone: str) -> Mapping[str, torch.Size]:
    """Shape of every tensor in the encoder's state dict, in its order. Allocates no weights."""
    with torch.device("meta"):
        return MappingProxyType({key: value.shape for key, value in _resnet(backbone).state_dict().items()})


def detect(state: Mapping[str, Tensor]) -> str:
    """The architecture of a state dict in torchvision's layout, from its keys and shapes: `"resnet50"`.

    Further keys, such as `fc`, do not matter; whether the state is complete is not looked at.

    Raises:
        WeightsError: it is no ResNet, or not one of these five (another depth, ResNeXt, wide, not RGB).
    """
    stem, first = state.get("conv1.weight"), state.get("layer1.0.conv1.weight")
    if stem is None or first is None:
        raise WeightsError("no ResNet in it (no conv1.weight beside layer1.0.conv1.weight)")
    bottleneck = "layer1.0.conv3.weight" in state
    blocks = tuple(_count_blocks(state, layer) for layer in range(1, 5))
    depths = {architecture: name for name, architecture in _ARCHITECTURES.items()}
    name = depths.get((blocks, bottleneck))
    if name is None:
        kind = "bottleneck" if bottleneck else "basic"
        raise WeightsError(
            f"a ResNet with {'+'.join(map(str, blocks))} {kind} blocks is none of {', '.join(_ARCHITECTURES)}"
        )
    if stem.ndim == 4 and stem.shape[1] != 3:
        raise WeightsError(
            f"a {name} for images of {stem.shape[1]} channels, but images here have 3 (RGB)",
            "use weights that were trained on RGB images",
        )
    expected = shapes(name)
    for key in ("conv1.weight", "layer1.0.conv1.weight", "layer1.0.conv2.weight"):
        found = state.get(key)
        if found is not None and found.shape != expected[key]:
            raise WeightsError(
                f"a variant of {name}: {key} is {_by(found.shape)} instead of {_by(expected[key])} "
                "(a ResNeXt, a wide ResNet or a changed stem)",
                f"use weights of a plain {name}",
            )
    return name


def batch_norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    """Every BatchNorm layer, in the order of the modules."""
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def _resnet(backbone: str) -> nn.Module:
    _architecture(backbone)
    model: nn.Module = getattr(models, backbone)(weights=None)
    model.fc = nn.Identity()
    return model


def _architecture(backbone: str) -> tuple[tuple[int, ...], bool]:
    if backbone not in _ARCHITECTURES:
        raise WeightsError(
            f"unknown backbone '{backbone}'{did_you_mean(backbone, _ARCHITECTURES)}",
            f"choose one of {', '.join(_ARCHITECTURES)}",
        )
    return _ARCHITECTURES[backbone]


def _count_blocks(state: Mapping[str, Tensor], layer: int) -> int:
    prefix = f"layer{layer}."
    return len({key.split(".")[1] for key in state if key.startswith(prefix)})


def _by(shape: torch.Size) -> str:
    return "x".join(map(str, shape))
