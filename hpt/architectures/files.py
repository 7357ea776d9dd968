"""Where the weights of a network of timm are in a file, and which of its tensors they are.

A file's tensors may have wrappers' prefixes, other authors' names (which timm's own functions know: CLIP, DINOv2, the
first ConvNeXt and Swin), transformers' names, or position embeddings for another size. What comes out has timm's names,
and the size that the file's own position embeddings are for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hpt import encoder
from hpt.architectures import networks, transformers_names
from hpt.config import MOST_CHANNELS, RESNETS
from hpt.encoder_layouts import TIMM, Encoder, Tensors, companion, few, in_order
from hpt.errors import ConfigError, WeightsError

# Layouts that timm's functions translate, by a tensor that each has: its name, and what all its tensors begin with.
_FOREIGN = {
    "visual.conv1.weight": ("CLIP", "visual."),
    "visual.trunk.patch_embed.proj.weight": ("OpenCLIP", "visual.trunk."),
    "downsample_layers.0.0.weight": ("ConvNeXt's authors", ""),
}


@dataclass(frozen=True)
class Found:
    """The weights of a network in a file."""

    encoder: Encoder
    """Its tensors by timm's names."""
    model: nn.Module
    """The network that they are of, for images of `image_size`, with random weights."""
    shapes: Mapping[str, torch.Size]
    """The shapes of its tensors."""
    taken: frozenset[str]
    """What the file calls the tensors that were used, container and all."""
    image_size: int | None
    """The side of the images that the tensors are for, where they depend on it."""
    others: frozenset[str]
    """What the file calls the tensors of further encoders in it."""


def named(path: Path, content: Any, containers: Mapping[str, Tensors], facts: Mapping[str, str]) -> str | None:
    """The network of timm that a file says that it holds: in its metadata, in its content, or in the `config.json`
    beside it; None where it says none, or a plain ResNet."""
    said = [facts.get("backbone")]
    if isinstance(content, Mapping):
        said += [content[key] for key in ("architecture", "arch", "model_name") if isinstance(content.get(key), str)]
    said += _beside(path)
    for each in said:
        name = (each or "").partition(".")[0]
        if name in RESNETS:
            return None
        if name and networks.is_known(name):
            return name
    for tensors in containers.values():
        for prefix in _prefixes(tensors, (transformers_names.MARK,)):
            inside = _within(tensors, prefix)
            if (guess := transformers_names.guessed(transformers_names.renamed(inside))) is not None:
                return guess if networks.is_known(guess) else None
    return None


def _beside(path: Path) -> Iterator[str]:
    try:
        config = json.loads(path.with_name("config.json").read_text(encoding="utf-8"))
        yield str(config["architecture"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return


def find(containers: Mapping[str, Tensors], name: str, facts: Mapping[str, str]) -> Found:
    """The network `name` in a file's containers; of several the one to take first: it was trained by gradients, where
    that can be told.

    Raises:
        WeightsError: there is none, or one of another architecture.
    """
    stems = encoder.stem_keys(name) or (next(iter(encoder.shapes(name))),)
    every: list[Encoder] = []
    for container, tensors in containers.items():
        for prefix in _prefixes(tensors, (*stems, *_FOREIGN, transformers_names.MARK)):
            inside = _within(tensors, prefix)
            keys = {key: f"{container}{prefix}{key}" for key in inside}
            layout = next((author for mark, (author, _) in _FOREIGN.items() if mark in inside), TIMM)
            if transformers_names.MARK in inside:
                layout, inside = "transformers", transformers_names.renamed(inside)
            every.append(Encoder(container, prefix, layout, inside, keys))
    if not every:
        names = [container + key for container, tensors in containers.items() for key in tensors]
        raise WeightsError(
            f"no {name} in it (its tensors are {few(names)})" if names else f"no {name} in it, nor any tensors",
            "check --backbone",
        )
    wanted = encoder.shapes(name)
    found, *others = sorted(in_order(every), key=lambda each: not _whole(each, wanted))
    return _fitted(found, others, name, facts)


def _whole(found: Encoder, wanted: Mapping[str, torch.Size]) -> bool:
    """Whether all of a network's tensors are there, by name; of foreign names that is not known yet."""
    return found.layout != TIMM or all(key in found.tensors for key in wanted)


def _fitted(found: Encoder, others: list[Encoder], name: str, facts: Mapping[str, str]) -> Found:
    ours = dict(found.tensors)
    stem = next((ours[key] for key in encoder.stem_keys(name) if key in ours), None)
    channels = int(stem.shape[1]) if stem is not None and stem.ndim == 4 else 3
    if not 1 <= channels <= MOST_CHANNELS:
        raise WeightsError(
            f"a {name} for images of {channels} channels, but images here have at most {MOST_CHANNELS}",
            "use weights that were trained on RGB images",
        )
    size = int(facts["image_size"]) if "image_size" in facts else networks.size_of(ours, name)
    try:
        model = encoder.build(name, seed=0, channels=channels, image_size=size)
    except ConfigError:  # position embeddings of a layout that timm's function will translate
        size = None
        model = encoder.build(name, seed=0, channels=channels)
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    if any(key not in ours or ours[key].shape != shape for key, shape in shapes.items()):
        ours = _translated(model, ours, name, shapes)
    extra = [key for key in ours if key not in shapes and _belongs(key, shapes, name)]
    if extra:
        raise WeightsError(
            f"it is no {name}: that has no place for {few([found.keys.get(key, key) for key in extra])}",
            "say which network of timm it is: --backbone NAME",
        )
    if found.layout != TIMM:
        begins = next((begins for name_, begins in _FOREIGN.values() if name_ == found.layout), "")
        taken = frozenset(key for own, key in found.keys.items() if own.startswith(begins))
    else:
        taken = frozenset(found.keys[key] for key in shapes if key in found.keys)
    beside = frozenset(key for each in others for key in each.keys.values()) - taken
    return Found(
        Encoder(found.container, found.prefix, found.layout, ours, found.keys), model, shapes, taken, size, beside
    )


def _translated(
    model: nn.Module, ours: dict[str, Tensor], name: str, shapes: Mapping[str, torch.Size]
) -> dict[str, Tensor]:
    """By timm's function for the family, where that makes more of the tensors fit."""

    def fit(tensors: Mapping[str, Tensor]) -> int:
        return sum(key in tensors and tensors[key].shape == shape for key, shape in shapes.items())

    try:
        theirs = networks.translated(model, ours, name)
    except WeightsError:
        return ours  # what is missing or odd is said of the file's own tensors
    return theirs if fit(theirs) > fit(ours) else ours


def _belongs(key: str, shapes: Mapping[str, torch.Size], name: str) -> bool:
    """Whether a tensor that a network has no place for is of a part that it has, such as a thirteenth block."""
    if networks.is_computed(key) or companion(key, of_resnet=False) is not None:
        return False
    if any(key.startswith(f"{each}.") for each in (*networks.classifiers(name), "head", "fc", "pooler")):
        return False
    first = key.partition(".")[0]
    return any(each.partition(".")[0] == first for each in shapes) and "." in key


def _prefixes(tensors: Mapping[str, Tensor], marks: tuple[str, ...]) -> list[str]:
    """What the keys of each encoder begin with, by a tensor that it must have."""
    found = [key.removesuffix(mark) for key in tensors for mark in marks if key.endswith(mark)]
    return list(dict.fromkeys(prefix for prefix in found if not prefix or prefix.endswith(".")))


def _within(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
