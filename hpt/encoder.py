"""The backbone: a network up to its pooled features, whatever its architecture.

Five ResNets are our own (`hpt.resnet`), since timm's import costs seconds at the start of every command; all other
names are networks of timm, which `hpt.architectures` builds. The rest of the program asks no network what it is: it
calls it (images [n, C, H, W] -> features [n, d]), and the functions here for what differs.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from hpt.batch_norm import BatchNorm, batch_norms, ungrouped
from hpt.config import MOST_CHANNELS, RESNETS, EvaluateConfig, Pooling, PretrainConfig
from hpt.encoder_variants import by_shapes
from hpt.errors import ConfigError, WeightsError
from hpt.resnet import ResNet

__all__ = [
    "adapted",
    "batch_norms",
    "build",
    "channels_of",
    "check",
    "classifier_keys",
    "depths",
    "detect",
    "feature_dim",
    "fresh",
    "is_transformer",
    "layers",
    "load",
    "loaded",
    "norms",
    "program",
    "recompute",
    "shapes",
    "stem_keys",
    "stems",
    "width",
]

# Residual blocks of layer1 to layer4 and whether they are bottlenecks (arXiv 1512.03385, table 1).
_ARCHITECTURES: dict[str, tuple[tuple[int, ...], bool]] = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
    "resnet152": ((3, 8, 36, 3), True),
}


def check(backbone: str, image_size: int | None = None) -> None:
    """Refuse a name that is neither one of the five ResNets nor timm's, and images that its patches do not divide; for
    others than the five timm is imported.

    Raises:
        WeightsError: unknown backbone, with a "did you mean". ConfigError: such images.
    """
    if backbone not in _ARCHITECTURES:
        from hpt.architectures import networks

        networks.check(backbone)
        if image_size is not None:
            networks.check_size(backbone, image_size)


def build(
    backbone: str, *, seed: int, channels: int = 3, image_size: int | None = None, pooling: Pooling = "own"
) -> nn.Module:
    """A randomly initialised encoder: images [n, channels, H, W] -> pooled features [n, width(encoder)].

    The weights depend on `seed` alone, and the global random state is left as it was. The state dict of a plain ResNet
    has the keys of torchvision's without `fc`, any other those of timm's network without its classifier.

    Args:
        image_size: the side of the images in pixels, which position embeddings and windows of attention need; None for
            the network's own. ResNets take any.
        pooling: how a transformer's tokens become one feature.

    Raises:
        WeightsError: unknown backbone, or one without pooled features.
        ConfigError: it takes no images of this size, or has no class token to pool by.
    """
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would reseed the CUDA generators too.
        torch.default_generator.manual_seed(seed)
        if backbone in _ARCHITECTURES:
            return _resnet(backbone, channels, pooling)
        from hpt.architectures import networks

        return networks.build(backbone, channels=channels, image_size=image_size, pooling=pooling)


def fresh(config: PretrainConfig | EvaluateConfig, channels: int) -> nn.Module:
    """The randomly initialised encoder of a configuration.

    Raises:
        WeightsError, ConfigError: as `build`.
    """
    return build(
        config.backbone,
        seed=config.seed,
        channels=channels,
        image_size=config.image_size,
        pooling=config.pooling,
    )


def recompute(model: nn.Module, backbone: str) -> None:
    """Have an encoder keep only what goes into each of its blocks for the backward pass, which computes the rest again
    (gradient checkpointing, arXiv 1604.06174). What is computed, BatchNorm's statistics included, stays the same.

    Raises:
        ConfigError: its network cannot.
    """
    if odd := ungrouped(model):
        raise ConfigError(
            f"a {backbone} cannot be computed twice: {odd[0]} and {len(odd) - 1} more layers would count a batch twice",
            "do without gradient_checkpointing, or choose another backbone",
        )
    if isinstance(model, ResNet):
        model.recomputes = True
        return
    from hpt.architectures import networks

    networks.recompute(model, backbone)


def width(model: nn.Module) -> int:
    """The length d of an encoder's pooled features."""
    return int(model.feature_width)  # type: ignore[arg-type]  # every encoder has it, as a number


def program(backbone: str) -> str:
    """Whose code the network is, and of which version: ours is that of `PROTOCOL_VERSION`."""
    if backbone in _ARCHITECTURES:
        return ""
    from hpt.architectures import networks

    return networks.version()


def stem_keys(backbone: str) -> tuple[str, ...]:
    """The names of the weights that see the images' channels: of a first convolution, or a projection of patches."""
    if backbone in _ARCHITECTURES:
        return ("conv1.weight",)
    from hpt.architectures import networks

    return networks.stem_keys(backbone)


def classifier_keys(backbone: str) -> tuple[str, str]:
    """What the weight and the bias of its classifier are called in torchvision, or in timm."""
    if backbone in _ARCHITECTURES:
        return "fc.weight", "fc.bias"
    from hpt.architectures import networks

    return networks.classifier_keys(backbone)


def channels_of(state: Mapping[str, Tensor], backbone: str = "resnet50") -> int:
    """The number of channels that the first convolution of a state sees."""
    keys = [key for key in stem_keys(backbone) if key in state]
    return int(state[keys[0]].shape[1]) if keys else 3


def adapted(
    state: Mapping[str, Tensor], channels: int, how: str = "repeat", backbone: str = "resnet50"
) -> Mapping[str, Tensor]:
    """A state of a network of RGB images for images of other channels; one of these channels is left as it is.

    Only the first convolution changes. One channel, a grey, gets the sum of the three filters, so that it gives what
    grey as RGB gave. More get the three filters in turn (`repeat`, as timm does), or their `mean`, times 3 / channels,
    so that equal channels give what they gave.

    Raises:
        WeightsError: it is of neither these channels nor three, or its network says of no convolution that it is the
            first.
    """
    has = channels_of(state, backbone)
    if has == channels:
        return state
    if has != 3:
        raise WeightsError(
            f"weights of a network of {has} channel{'' if has == 1 else 's'}, and the images have {channels}",
            f"choose {has} by --set data.channels, or weights of RGB images, which are adapted",
        )
    keys = [key for key in stem_keys(backbone) if key in state]
    if not keys:
        raise WeightsError(
            f"timm does not say which convolution of a {backbone} is the first, so it cannot be adapted to {channels}"
            " channels",
            "use RGB images, or another backbone",
        )
    return {**state, **{key: _for_channels(state[key], channels, how) for key in keys}}


def _for_channels(rgb: Tensor, channels: int, how: str) -> Tensor:
    if channels == 1:
        stem = rgb.sum(dim=1, keepdim=True)
    elif how == "mean":
        stem = rgb.mean(dim=1, keepdim=True).repeat(1, channels, 1, 1) * (3 / channels)
    else:
        stem = rgb[:, [channel % 3 for channel in range(channels)]] * (3 / channels)
    return stem.contiguous()


def load(model: nn.Module, state: Mapping[str, Tensor], backbone: str, how: str = "repeat") -> None:
    """Put weights into an encoder: those of RGB images are adapted to its channels (`adapted`), and position embeddings
    and the like resized to its images, by timm's own functions.

    Raises:
        WeightsError: they are of neither RGB images nor such as its, or of another size and cannot be resized.
    """
    stem = {key: value for key, value in model.state_dict().items() if key in stem_keys(backbone)}
    state = adapted(state, channels_of(stem, backbone), how, backbone)
    if backbone not in _ARCHITECTURES:
        from hpt.architectures import networks

        state = networks.resized(model, state, backbone)
    model.load_state_dict(dict(state), strict=True)


def loaded(
    backbone: str,
    state: Mapping[str, Tensor],
    *,
    channels: int | None = None,
    first_conv: str = "repeat",
    image_size: int | None = None,
    pooling: Pooling = "own",
) -> nn.Module:
    """An encoder with these weights; of as many channels as they have, where none are given.

    Raises:
        WeightsError, ConfigError: as `build` and `load`.
    """
    channels = channels_of(state, backbone) if channels is None else channels
    if backbone in _ARCHITECTURES:
        with torch.device("meta"):  # a ResNet's state has all of its tensors: random ones would be drawn for nothing
            model = _resnet(backbone, channels, pooling)
        # As to_empty does, whose empty_like imports SymPy where tensors are on the meta device: 0.4 s.
        model._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype))
    else:
        model = build(backbone, seed=0, channels=channels, image_size=image_size, pooling=pooling)
    load(model, state, backbone, first_conv)
    return model


def feature_dim(backbone: str) -> int:
    """Length of the pooled feature: 512 for resnet18 and resnet34, 2048 for the bottleneck ResNets; of others that of
    timm's network as it is by default.

    Raises:
        WeightsError: unknown backbone.
    """
    if backbone not in _ARCHITECTURES:
        return width(build(backbone, seed=0))
    _, bottleneck = _ARCHITECTURES[backbone]
    return 2048 if bottleneck else 512


@functools.cache
def shapes(backbone: str, channels: int = 3, image_size: int | None = None) -> Mapping[str, torch.Size]:
    """The shape of every tensor in the encoder's state dict, in its order; of a ResNet no weights are allocated.

    Raises:
        WeightsError: unknown backbone. ConfigError: it takes no images of this size.
    """
    if backbone in _ARCHITECTURES:
        with torch.device("meta"):
            model = _resnet(backbone, channels)
    else:
        model = build(backbone, seed=0, channels=channels, image_size=image_size)
    return MappingProxyType({key: value.shape for key, value in model.state_dict().items()})


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
            f"a ResNet with {'+'.join(map(str, blocks))} {kind} blocks is none of {', '.join(_ARCHITECTURES)}",
            "say which network of timm it is: --backbone NAME",
        )
    if stem.ndim == 4 and stem.shape[1] > MOST_CHANNELS:
        raise WeightsError(
            f"a {name} for images of {stem.shape[1]} channels, but images here have at most {MOST_CHANNELS}",
            "use weights that were trained on RGB images",
        )
    if (variant := by_shapes(state)) is not None:
        raise WeightsError(f"a variant of {name} with {variant}", f"use weights of a plain {name}")
    return name


def norms(model: nn.Module) -> tuple[str, list[nn.Module]]:
    """The layers that `hpt-bn` trains and what they are: `BatchNorm`, or in its absence `LayerNorm` or `GroupNorm`.

    A network without any has an empty list.
    """
    if found := batch_norms(model):
        return "BatchNorm", list(found)
    kinds: dict[str, list[nn.Module]] = {}
    for module in model.modules():
        kind = next((kind for kind in ("LayerNorm", "GroupNorm", "RmsNorm", "RMSNorm") if _is(module, kind)), None)
        if kind is not None:
            kinds.setdefault(kind, []).append(module)
    return " and ".join(kinds), [module for found_ in kinds.values() for module in found_]


def stems(model: nn.Module, backbone: str) -> list[nn.Parameter]:
    """The parameters of the first convolution, or of the projection of patches: weights and biases."""
    names = {key.removesuffix(".weight") for key in stem_keys(backbone)}
    return [parameter for name, parameter in model.named_parameters() if name.rpartition(".")[0] in names]


def layers(model: nn.Module) -> dict[str, str]:
    """The layers whose outputs tell how features come about, in order: a title and the name of its module each."""
    if isinstance(model, ResNet):
        blocks = [name for name, _ in model.named_modules() if name.startswith("layer") and name.count(".") == 1]
        return {"stem": "maxpool"} | {name: name for name in blocks}
    from hpt.architectures import networks

    return networks.layers(model)


def depths(model: nn.Module) -> dict[str, int]:
    """How deep each parameter lies, counted from the stem at 0: the residual block or the block of a transformer."""
    if isinstance(model, ResNet):
        order = {title: number for number, title in enumerate(layers(model))}
        return {name: order.get(".".join(name.split(".")[:2]), 0) for name, _ in model.named_parameters()}
    from hpt.architectures import networks

    return networks.depths(model)


def is_transformer(model: nn.Module) -> bool:
    """Whether a network attends to patches, as ViTs and Swin transformers do; by default MoCo-v3 trains such."""
    attends = any("Attention" in kind.__name__ for module in model.modules() for kind in type(module).__mro__)
    return attends and hasattr(model, "patch_embed")


def _is(module: nn.Module, kind: str) -> bool:
    return any(each.__name__ == kind for each in type(module).__mro__)


def _resnet(backbone: str, channels: int, pooling: Pooling = "own") -> nn.Module:
    if pooling not in ("own", "average"):
        raise ConfigError(f"a {backbone} has no class token", "use --set pooling=own")
    blocks, bottleneck = _ARCHITECTURES[backbone]
    return ResNet(blocks, bottleneck=bottleneck, norm=BatchNorm, channels=channels)


def _count_blocks(state: Mapping[str, Tensor], layer: int) -> int:
    prefix = f"layer{layer}."
    return len({key.split(".")[1] for key in state if key.startswith(prefix)})


assert tuple(_ARCHITECTURES) == RESNETS
