"""A backbone in the layouts of other programs, each with the line that loads it there."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpt import encoder, weights
from hpt.errors import ConfigError, did_you_mean
from hpt.files import replacing

SUFFIXES = (".safetensors", ".pth", ".pkl")


@dataclass(frozen=True)
class Layout:
    """How a program names a ResNet's tensors."""

    name: str
    suffixes: tuple[str, ...]
    """The endings of the files that it reads, the usual one first."""
    rename: Callable[[str], str | None]
    """Maps torchvision's name of a tensor to the program's; None leaves the tensor out."""
    nest: Callable[[dict[str, Any]], dict[str, Any]]
    """Wraps the tensors in what else the file holds."""
    load: Mapping[str, str]
    """By suffix, a line of Python that loads the file `{path}` of a `{backbone}`."""
    classifies: Mapping[str, str] = field(default_factory=dict)
    """By suffix, a line that loads a classifier with `{classes}` classes; empty where the layout cannot hold one."""


def _plainly(tensors: dict[str, Any]) -> dict[str, Any]:
    return tensors


def _to_detectron2(key: str) -> str | None:
    if key.endswith("num_batches_tracked"):
        return None
    if key.startswith(("conv1.", "bn1.")):
        return f"stem.conv1.{key.removeprefix('conv1.')}" if key.startswith("conv1") else f"stem.conv1.norm.{key[4:]}"
    stage, block, rest = re.fullmatch(r"layer(\d)\.(\d+)\.(.*)", key).groups()  # type: ignore[union-attr]  # a ResNet's
    rest = re.sub(r"^bn(\d)\.", r"conv\1.norm.", rest)
    rest = re.sub(r"^downsample\.0\.", "shortcut.", re.sub(r"^downsample\.1\.", "shortcut.norm.", rest))
    return f"res{int(stage) + 1}.{block}.{rest}"


_FROM = {
    ".safetensors": "safetensors.torch.load_file({path!r})",
    ".pth": "torch.load({path!r}, weights_only=True)",
}
_TORCHVISION = "model = torchvision.models.{backbone}(); model.load_state_dict(%s, strict=False)  # fc is missing"
_TORCHVISION_CLASSIFIER = "model = torchvision.models.{backbone}(num_classes={classes}); model.load_state_dict(%s)"
_TIMM = "model = timm.create_model({backbone!r}, num_classes={classes}, checkpoint_path={path!r})"
_SUFFIXES = (".safetensors", ".pth")
_OTHER_CHANNELS = (
    (
        "; model.load_state_dict(",
        "; model.conv1 = torch.nn.Conv2d({channels}, 64, 7, 2, 3, bias=False); model.load_state_dict(",
    ),
    (", num_classes=", ", in_chans={channels}, num_classes="),
    ("cfg.INPUT.FORMAT = 'RGB'", "cfg.MODEL.PIXEL_MEAN = [0.0] * {channels}  # one for each channel"),
)
"""What a loading line has for images that are not RGB."""

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout(
            "torchvision", _SUFFIXES, lambda key: key, _plainly,
            {suffix: _TORCHVISION % _FROM[suffix] for suffix in _SUFFIXES},
            {suffix: _TORCHVISION_CLASSIFIER % _FROM[suffix] for suffix in _SUFFIXES},
        ),
        Layout(
            "timm", _SUFFIXES, lambda key: key, _plainly,
            dict.fromkeys(_SUFFIXES, _TIMM), dict.fromkeys(_SUFFIXES, _TIMM),
        ),
        Layout(
            "moco", (".pth",), lambda key: f"module.encoder_q.{key}",
            lambda tensors: {"epoch": 0, "arch": "resnet", "state_dict": tensors},
            {".pth": "state = torch.load({path!r}, weights_only=True)['state_dict']  # or main_lincls.py --pretrained"},
        ),
        Layout(
            "detectron2", (".pkl", ".pth"), _to_detectron2,
            lambda tensors: {"model": tensors, "__author__": "hptctl", "matching_heuristics": True},
            dict.fromkeys(
                (".pkl", ".pth"),
                "cfg.MODEL.WEIGHTS = {path!r}; cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False; cfg.INPUT.FORMAT = 'RGB'",
            ),
        ),
    )
}  # fmt: skip


def get(name: str) -> Layout:
    """The layout of that name.

    Raises:
        ConfigError: no such layout.
    """
    if name not in LAYOUTS:
        raise ConfigError(
            f"unknown layout '{name}'{did_you_mean(name, LAYOUTS)}", f"choose one of {', '.join(LAYOUTS)}"
        )
    return LAYOUTS[name]


def check_path(layout: Layout, path: Path) -> None:
    """Refuse a file that the layout's program would not read, or whose folder does not exist.

    Raises:
        ConfigError: it is such a file.
    """
    if path.suffix not in layout.suffixes:
        raise ConfigError(
            f"{layout.name} does not read '{path.name}' in its layout", f"end it in {' or '.join(layout.suffixes)}"
        )
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"the folder {path.parent} does not exist", "make it, or choose another file")


def write(state: Mapping[str, Tensor], backbone: str, layout: Layout, path: Path, about: Mapping[str, str]) -> str:
    """Write a backbone in a layout, atomically; returns the line of Python that loads it.

    Args:
        state: tensors by torchvision's keys; with `fc.weight` and `fc.bias` it is a classifier.
        about: facts that a safetensors file keeps as its metadata.

    Raises:
        ConfigError: the layout's program would not read such a file, or the layout has no place for a classifier.
    """
    check_path(layout, path)
    classes = len(state["fc.bias"]) if "fc.bias" in state else 0
    if classes and not layout.classifies:
        having = ", ".join(name for name, each in LAYOUTS.items() if each.classifies)
        raise ConfigError(f"{layout.name}'s layout has no place for a classifier", f"choose one of {having}")
    named = {layout.rename(key): value for key, value in state.items()}
    tensors = {key: value.detach().cpu().contiguous() for key, value in named.items() if key is not None}
    if path.suffix == ".safetensors":
        weights.save(tensors, path, metadata=about)
    else:
        with replacing(path) as part, part.open("wb") as file:
            if path.suffix == ".pkl":
                pickle.dump(layout.nest({key: value.numpy() for key, value in tensors.items()}), file)
            else:
                torch.save(layout.nest(tensors), file)
    lines = layout.classifies if classes else layout.load
    line = lines[path.suffix].format(path=str(path), backbone=backbone, classes=classes)
    channels = encoder.channels_of(state)
    for plain, adapted in _OTHER_CHANNELS if channels != 3 else ():
        line = line.replace(plain, adapted.format(channels=channels))
    return line
