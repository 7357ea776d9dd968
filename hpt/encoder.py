"""The backbone: a ResNet up to its pooled features."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpt.config import MOST_CHANNELS
from hpt.encoder_variants import by_shapes
from hpt.errors import WeightsError, did_you_mean
from hpt.resnet import ResNet

# Residual blocks of layer1 to layer4 and whether they are bottlenecks (arXiv 1512.03385, table 1).
_ARCHITECTURES: dict[str, tuple[tuple[int, ...], bool]] = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
    "resnet152": ((3, 8, 36, 3), True),
}

MOMENTUM = 0.1
"""The share of a step's statistics in BatchNorm's running statistics; it is PyTorch's and the paper's."""


class BatchNorm(nn.BatchNorm2d):
    """BatchNorm whose training batch may hold several groups, each with statistics of its own.

    The convolutions before and after see all groups at once, which a small image needs to keep a processor busy: on 2
    cores a ResNet-18 takes 20 % less time for 4 groups of 64 at 32 px at once than one by one, and 8 % less at 64 px.
    """

    group: int | None = None
    """Images in a group. None: the whole batch is one group, as in PyTorch."""
    groups = 1
    """Groups that an optimizer step has in this process; a batch holds some of them, in order."""
    seen = 0
    """Groups of the present step that have been normalised."""

    def forward(self, x: Tensor) -> Tensor:
        """[n, C, h, w] -> the same.

        PyTorch folds each batch into the running statistics with one momentum. With momentum
        (0.1 / n) / (0.9 + 0.1 * (i + 1) / n) at group i of n, a step ends at 0.9 * running + 0.1 * mean over its n
        groups, as if n processes had each seen one group and averaged. (Check: group i leaves a weighted mean of total
        weight 0.9 + 0.1 * (i + 1) / n, of which the newest group has 0.1 / n.)
        """
        if self.group is None or not self.training:
            return super().forward(x)
        normalised = []
        share = MOMENTUM / self.groups
        for part in x.split(self.group):
            momentum = share / (1 - MOMENTUM + share * (self.seen + 1))
            self.seen = (self.seen + 1) % self.groups
            normalised.append(
                F.batch_norm(
                    part, self.running_mean, self.running_var, self.weight, self.bias, True, momentum, self.eps
                )
            )
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(len(normalised))
        # Writing into slices of one tensor, by aten's out variants, was no quicker.
        return normalised[0] if len(normalised) == 1 else torch.cat(normalised)


def build(backbone: str, *, seed: int, channels: int = 3) -> nn.Module:
    """A randomly initialised encoder: images [n, channels, H, W] -> pooled features [n, feature_dim(backbone)].

    The weights depend on `seed` alone, and the global random state is left as it was. The state dict has the
    keys of torchvision's ResNet without `fc`.

    Raises:
        WeightsError: unknown backbone.
    """
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would reseed the CUDA generators too.
        torch.default_generator.manual_seed(seed)
        return _resnet(backbone, channels)


def channels_of(state: Mapping[str, Tensor]) -> int:
    """The number of channels that the first convolution of a state sees."""
    return int(state["conv1.weight"].shape[1])


def adapted(state: Mapping[str, Tensor], channels: int, how: str = "repeat") -> Mapping[str, Tensor]:
    """A state of a network of RGB images for images of other channels; one of these channels is left as it is.

    Only the first convolution changes. One channel, a grey, gets the sum of the three filters, so that it gives what
    grey as RGB gave. More get the three filters in turn (`repeat`, as timm does), or their `mean`, times 3 / channels,
    so that equal channels give what they gave.

    Raises:
        WeightsError: it is of neither these channels nor three.
    """
    has = channels_of(state)
    if has == channels:
        return state
    if has != 3:
        raise WeightsError(
            f"weights of a network of {has} channel{'' if has == 1 else 's'}, and the images have {channels}",
            f"choose {has} by --set data.channels, or weights of RGB images, which are adapted",
        )
    rgb = state["conv1.weight"]
    if channels == 1:
        stem = rgb.sum(dim=1, keepdim=True)
    elif how == "mean":
        stem = rgb.mean(dim=1, keepdim=True).repeat(1, channels, 1, 1) * (3 / channels)
    else:
        stem = rgb[:, [channel % 3 for channel in range(channels)]] * (3 / channels)
    return {**state, "conv1.weight": stem.contiguous()}


def feature_dim(backbone: str) -> int:
    """Length of the pooled feature: 512 for resnet18 and resnet34, 2048 for the bottleneck ResNets.

    Raises:
        WeightsError: unknown backbone.
    """
    _, bottleneck = _architecture(backbone)
    return 2048 if bottleneck else 512


@functools.cache
def shapes(backbone: str, channels: int = 3) -> Mapping[str, torch.Size]:
    """The shape of every tensor in the encoder's state dict, in its order; no weights are allocated.

    Raises:
        WeightsError: unknown backbone.
    """
    with torch.device("meta"):
        return MappingProxyType({key: value.shape for key, value in _resnet(backbone, channels).state_dict().items()})


def detect(state: Mapping[str, Tensor]) -> str:
    """The architecture of a state dict in torchvision's layout, from its keys and shapes: `"resnet50"`.

    Further keys, such as `fc`, do not matter; whether the state is complete is not checked.

    Raises:
        WeightsError: it is not a ResNet, or not one of these five (another depth, ResNeXt, wide).
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
    if stem.ndim == 4 and stem.shape[1] > MOST_CHANNELS:
        raise WeightsError(
            f"a {name} for images of {stem.shape[1]} channels, but images here have at most {MOST_CHANNELS}",
            "use weights that were trained on RGB images",
        )
    if (variant := by_shapes(state)) is not None:
        raise WeightsError(f"a variant of {name} with {variant}", f"use weights of a plain {name}")
    return name


def batch_norms(model: nn.Module) -> list[BatchNorm]:
    """Every BatchNorm layer, in the order of the modules."""
    return [module for module in model.modules() if isinstance(module, BatchNorm)]


def _resnet(backbone: str, channels: int) -> nn.Module:
    blocks, bottleneck = _architecture(backbone)
    return ResNet(blocks, bottleneck=bottleneck, norm=BatchNorm, channels=channels)


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
