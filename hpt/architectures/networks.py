"""Networks of timm as encoders (`hpt.encoder`): built, resized, and asked for what differs between families.

A network stays timm's own module with timm's own keys. What is changed in it: BatchNorm can normalise in groups, and
nothing is dropped at random, since a step's randomness is a function of the seed and the step.
"""

from __future__ import annotations

import functools
import logging
import math
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import MethodType
from typing import Any

import timm
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from hpt.batch_norm import BatchNorm
from hpt.config import RESNETS, Pooling
from hpt.errors import ConfigError, WeightsError, did_you_mean

_NOT_WEIGHTS = re.compile(r"relative_position_index|attn_mask|relative_coords_table|\.rope\.")
"""Buffers that some files have, and that a network computes for itself."""


class BatchNormAct(BatchNorm, BatchNormAct2d):
    """timm's BatchNorm with an activation behind it, whose training batch may hold several groups."""

    def forward(self, x: Tensor) -> Tensor:
        """[n, C, h, w] -> the same."""
        if not self.by_hand:
            return BatchNormAct2d.forward(self, x)  # type: ignore[no-untyped-call, no-any-return]
        return self.act(self.drop(self.in_groups(x)))  # type: ignore[no-any-return]


def version() -> str:
    """The version of timm, by name."""
    return f"timm {timm.__version__}"


def check(name: str) -> None:
    """Refuse a name that timm has no image model for.

    Raises:
        WeightsError: it has none, with a "did you mean".
    """
    architecture, dot, _ = name.partition(".")
    if dot and timm.is_model(architecture):
        raise WeightsError(
            f"'{name}' names weights of the backbone {architecture}",
            f"--backbone {architecture}, or --weights timm:{name} to start from them",
        )
    if not timm.is_model(name):
        raise WeightsError(
            f"unknown backbone '{name}'{did_you_mean(name, [*RESNETS, *timm.list_models()])}",
            f"choose one of {', '.join(RESNETS)}, or an image model by timm's name, such as convnext_tiny",
        )


def check_size(name: str, image_size: int) -> None:
    """Refuse images whose side the patches of a network do not divide.

    Raises:
        ConfigError: the side is no multiple of theirs.
    """
    try:
        with torch.device("meta"), quiet():  # without weights
            multiple = _patch(timm.create_model(name, pretrained=False, num_classes=0))
    except Exception:  # some families compute with what they have just made; building the network will tell
        return
    if multiple is not None and image_size % multiple:
        raise _wrong_size(name, image_size, multiple)


def is_known(name: str) -> bool:
    """Whether timm has an image model of that name, without a tag."""
    return "." not in name and bool(timm.is_model(name))


def build(name: str, *, channels: int, image_size: int | None, pooling: Pooling) -> nn.Module:
    """timm's network up to its pooled features, initialised by the global generator.

    Raises:
        WeightsError, ConfigError: as `hpt.encoder.build`.
    """
    check(name)
    model: nn.Module = _created(name, channels, image_size)
    multiple = _patch(model)
    if image_size is not None and multiple is not None and image_size % multiple:
        raise _wrong_size(name, image_size, multiple)
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = BatchNorm
        elif type(module) is BatchNormAct2d:
            module.__class__ = BatchNormAct
        if isinstance(module, nn.Dropout | nn.Dropout1d | nn.Dropout2d):
            module.p = 0.0
        elif type(module).__name__.startswith("DropPath"):
            module.drop_prob = 0.0  # type: ignore[assignment]  # a number
    _pool(model, name, pooling)
    model.feature_width = _width(model, name, channels, image_size)  # type: ignore[assignment]  # a number
    return model


def _created(name: str, channels: int, image_size: int | None) -> Any:
    """The network for images of a size: told so where its tensors depend on it."""
    options: dict[str, Any] = {"num_classes": 0, "in_chans": channels}
    if image_size is not None and takes_size(name):
        options["img_size"] = image_size
    with quiet():
        try:
            return timm.create_model(name, pretrained=False, **options)
        except TypeError as error:
            if "img_size" not in options or "img_size" not in str(error):
                raise WeightsError(f"timm does not build a {name} so ({_line(error)})", "choose another") from None
            del options["img_size"]
            return timm.create_model(name, pretrained=False, **options)
        except Exception as error:  # each family complains in its own way
            multiple = _multiple(name) if image_size is not None else None
            if image_size is None or multiple is None or image_size % multiple == 0:
                raise WeightsError(f"timm does not build a {name} ({_line(error)})", "choose another") from None
            raise _wrong_size(name, image_size, multiple) from None


def recompute(model: Any, name: str) -> None:
    """As `hpt.encoder.recompute`, by timm's own gradient checkpointing."""
    with suppress(AssertionError, AttributeError):  # as networks without it complain
        model.set_grad_checkpointing(True)
        if any(getattr(module, "grad_checkpointing", False) for module in model.modules()):
            return
    raise ConfigError(
        f"timm has no gradient checkpointing for a {name}",
        "do without gradient_checkpointing, or choose another backbone",
    )


def _pool(model: Any, name: str, pooling: Pooling) -> None:
    if pooling == "own":
        return
    if getattr(model, "cls_token", None) is None or not hasattr(model, "num_prefix_tokens"):
        if pooling == "average" and getattr(model, "global_pool", "avg") == "avg":
            return
        raise ConfigError(f"a {name} has no class token", "use --set pooling=own")
    if pooling == "both":
        model.forward = MethodType(_class_token_and_average, model)  # which a copy of the network takes along
    else:
        with quiet():
            model.reset_classifier(0, "avg" if pooling == "average" else "token")


def _class_token_and_average(self: Any, images: Tensor) -> Tensor:
    """[n, C, H, W] -> [n, 2 d]: the class token beside the mean of the patches, as DINOv2's linear probes take them."""
    tokens = self.forward_features(images)  # n x (prefix + patches) x d
    norm = getattr(self, "fc_norm", nn.Identity())
    return torch.cat([norm(tokens[:, 0]), norm(tokens[:, self.num_prefix_tokens :].mean(dim=1))], dim=1)


def _width(model: Any, name: str, channels: int, image_size: int | None) -> int:
    """The length of the pooled features, seen on one empty image, which also shows whether the size is one that the
    network takes."""
    size = image_size or int(_config(name).get("input_size", (3, 224, 224))[-1])
    model.eval()
    try:
        with torch.no_grad(), quiet():
            features = model(torch.zeros(1, channels, size, size))
    except Exception as error:
        own = int(_config(name).get("input_size", (3, 224, 224))[-1])
        raise ConfigError(
            f"a {name} takes no images of {size} px ({_line(error)})", f"its own size is --image-size {own}"
        ) from None
    finally:
        model.train()
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise WeightsError(f"a {name} has no pooled features, one row for each image", "choose another backbone")
    return int(features.shape[1])


def _wrong_size(name: str, size: int, multiple: int) -> ConfigError:
    below, above = size // multiple * multiple, -(-size // multiple) * multiple
    sizes = f"{below} or {above}" if below and below != above else f"{max(above, multiple)}"
    return ConfigError(
        f"a {name} takes images whose side is a multiple of {multiple} px, and {size} is none", f"--image-size {sizes}"
    )


@functools.cache
def _multiple(name: str) -> int | None:
    """What a side must be a multiple of: the side of a patch; None where there are no patches."""
    with quiet():
        return _patch(timm.create_model(name, pretrained=False, num_classes=0))


def _patch(model: nn.Module) -> int | None:
    size: Any = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if size is None:
        return None
    return int(size if isinstance(size, int) else max(size))


def _config(name: str) -> dict[str, Any]:
    found = timm.get_pretrained_cfg(name)
    return {} if found is None else dict(found.to_dict())  # type: ignore[no-untyped-call]


def takes_size(name: str) -> bool:
    """Whether the network is built for one size of images, which its tensors depend on."""
    return bool(_config(name).get("fixed_input_size"))


def stem_keys(name: str) -> tuple[str, ...]:
    """As `hpt.encoder.stem_keys`."""
    check(name)
    return _weights_of(_config(name).get("first_conv"))


def classifier_keys(name: str) -> tuple[str, str]:
    """As `hpt.encoder.classifier_keys`; of several classifiers the first."""
    keys = _weights_of(_config(name).get("classifier") or "head")
    return keys[0], f"{keys[0].removesuffix('weight')}bias"


def classifiers(name: str) -> tuple[str, ...]:
    """The modules that classify, which an encoder has no place for."""
    return tuple(key.removesuffix(".weight") for key in _weights_of(_config(name).get("classifier")))


def _weights_of(names: Any) -> tuple[str, ...]:
    names = () if names is None else (names,) if isinstance(names, str) else names
    return tuple(f"{each}.weight" for each in names)


def resized(model: nn.Module, state: Mapping[str, Tensor], name: str) -> Mapping[str, Tensor]:
    """A state whose position embeddings, or biases of windows, are those of images of the model's size.

    Raises:
        WeightsError: timm has no function that resizes them.
    """
    own = model.state_dict()
    odd = [key for key, value in state.items() if key in own and own[key].shape != value.shape]
    if not odd:
        return state
    found = translated(model, state, name)
    left = [key for key in odd if key not in found or found[key].shape != own[key].shape]
    if left or found.keys() != own.keys():
        raise WeightsError(
            f"{(left or odd)[0]} of these weights is for images of another size, and timm cannot resize it in a {name}",
            "use the image size that they were trained at",
        )
    return found


def translated(model: nn.Module, state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """A state as timm itself would load it: other authors' names become timm's, position embeddings are resized.

    Raises:
        WeightsError: timm's function for the family fails on it.
    """
    module = sys.modules[timm.models.model_entrypoint(name).__module__]
    change = getattr(module, "checkpoint_filter_fn", None)
    if change is None:
        return dict(state)
    try:
        with quiet(), torch.no_grad():
            found: dict[str, Tensor] = change(dict(state), model)
    except Exception as error:  # each family stumbles in its own way over weights of another one
        raise WeightsError(
            f"timm cannot take these weights for a {name} ({_line(error)})", "check --backbone"
        ) from None
    return {key: value for key, value in found.items() if isinstance(value, Tensor)}


def is_computed(key: str) -> bool:
    """Whether a tensor is a buffer that the network computes for itself."""
    return _NOT_WEIGHTS.search(key) is not None


def size_of(state: Mapping[str, Tensor], name: str) -> int | None:
    """The side of the images that a state's position embeddings are for; None where it has none, or they do not say."""
    positions = state.get("pos_embed")
    if positions is None or positions.ndim != 3 or not takes_size(name):
        return None
    native, patch = shapes_of_positions(name), _multiple(name)
    if native is None or patch is None:
        return None
    prefix, _ = native
    side = math.isqrt(positions.shape[1] - prefix)
    return side * patch if side and side * side == positions.shape[1] - prefix else None


@functools.cache
def shapes_of_positions(name: str) -> tuple[int, int] | None:
    """How many position embeddings belong to no patch, and how many to one, in the network as it is by default."""
    with quiet():
        model: Any = timm.create_model(name, pretrained=False, num_classes=0)
    grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    positions = getattr(model, "pos_embed", None)
    if grid is None or not isinstance(positions, Tensor) or positions.ndim != 3:
        return None
    patches = grid[0] * grid[1]
    return positions.shape[1] - patches, patches


def layers(model: Any) -> dict[str, str]:
    """As `hpt.encoder.layers`: what timm's own table of features names; of blocks that follow each other each one."""
    modules = dict(model.named_modules())
    names = [str(each["module"]) for each in model.feature_info]
    return {name: name for name in dict.fromkeys(names) if name in modules}


def depths(model: Any) -> dict[str, int]:
    """As `hpt.encoder.depths`, by timm's own groups of parameters."""
    found: dict[str, int] = timm.models.group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """What timm and huggingface_hub say about their own ways stays unsaid."""
    loggers = [logging.getLogger(name) for name in ("timm", "huggingface_hub")]
    before = [each.level for each in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for each in loggers:
            each.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for each, level in zip(loggers, before, strict=True):
                each.setLevel(level)


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else f"{text[:157]}..."
