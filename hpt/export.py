"""A backbone in the layouts of other programs, each with the line that loads it there."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hpt import encoder, weights
from hpt.config import RESNETS, Pooling
from hpt.errors import ConfigError, did_you_mean
from hpt.files import replacing

HUGGINGFACE, ONNX = "huggingface", "onnx"
SIZE = 224
"""The side of the images of a network of which it is not known."""


@dataclass(frozen=True)
class Layout:
    """How a program names a network's tensors."""

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
    any_backbone: bool = False
    """Whether it is for any network, or for plain ResNets alone."""


@dataclass(frozen=True)
class Exported:
    """What is taken to another program."""

    state: Mapping[str, Tensor] = field(repr=False)
    """The encoder's tensors; with a classifier's (`hpt.encoder.classifier_keys`) it is a classifier."""
    backbone: str
    image_size: int | None = None
    """The side of the images that it is for."""
    pooling: Pooling = "own"
    normalisation: tuple[Sequence[float], Sequence[float]] | None = None
    """Mean and standard deviation of its images, by channel."""
    labels: Sequence[str] = ()
    """The names of the classes of a classifier."""

    @property
    def classes(self) -> int:
        """The number of classes; 0 of an encoder."""
        bias = encoder.classifier_keys(self.backbone)[1]
        return len(self.state[bias]) if bias in self.state else 0

    @property
    def channels(self) -> int:
        return encoder.channels_of(self.state, self.backbone)


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
            dict.fromkeys(_SUFFIXES, _TIMM), dict.fromkeys(_SUFFIXES, _TIMM), any_backbone=True,
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
        # A folder, and a file that is no list of tensors: `write` has a way of its own for both.
        Layout(HUGGINGFACE, ("",), lambda key: key, _plainly, {"": ""}, {"": ""}, any_backbone=True),
        Layout(ONNX, (".onnx",), lambda key: key, _plainly, {".onnx": ""}, {".onnx": ""}, any_backbone=True),
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
        ConfigError: it is such a file, or what writes the layout is not installed.
    """
    if layout.name == ONNX:
        from hpt import onnx_file

        onnx_file.check_installed()
    if path.suffix not in layout.suffixes:
        ending = f"end it in {' or '.join(layout.suffixes)}" if any(layout.suffixes) else "name a folder"
        raise ConfigError(f"{layout.name} does not read '{path.name}' in its layout", ending)
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"the folder {path.parent} does not exist", "make it, or choose another file")


def write(exported: Exported, layout: Layout, path: Path, about: Mapping[str, str]) -> str:
    """Write a backbone or a classifier in a layout, atomically; returns the line of Python that loads it.

    Args:
        about: facts that a safetensors file keeps as its metadata.

    Raises:
        ConfigError: the layout's program would not read such a file, or the layout has no place for a classifier, or
            for such a network. HptError: what was written does not compute what the original does.
    """
    state, backbone, classes = exported.state, exported.backbone, exported.classes
    check_path(layout, path)
    if backbone not in RESNETS and not layout.any_backbone:
        having = ", ".join(name for name, each in LAYOUTS.items() if each.any_backbone)
        raise ConfigError(f"{layout.name}'s layout has no place for a {backbone}", f"choose one of {having}")
    if classes and not layout.classifies:
        having = ", ".join(name for name, each in LAYOUTS.items() if each.classifies)
        raise ConfigError(f"{layout.name}'s layout has no place for a classifier", f"choose one of {having}")
    if layout.name == HUGGINGFACE:
        return _to_folder(exported, path)
    if layout.name == ONNX:
        return _to_onnx(exported, path)
    if exported.pooling == "both":
        raise ConfigError("timm has no pooling of both class token and patches", f"use --layout {ONNX}")
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
    for plain, adapted in _OTHER_CHANNELS if exported.channels != 3 else ():
        line = line.replace(plain, adapted.format(channels=exported.channels))
    return line if backbone in RESNETS else _with_size(exported, line, path)


def _with_size(exported: Exported, line: str, path: Path) -> str:
    """timm's line, with the size that the network's tensors are for, and its pooling."""
    from hpt.architectures import networks

    if networks.takes_size(exported.backbone) and exported.image_size is not None:
        line = line.replace(", num_classes=", f", img_size={exported.image_size}, num_classes=")
    if exported.pooling == "own":
        return line
    made, _, _ = line.partition(", checkpoint_path=")
    pool = "avg" if exported.pooling == "average" else "token"
    loads = _FROM[path.suffix].format(path=str(path))
    return f"{made}); model.reset_classifier({exported.classes}, {pool!r}); model.load_state_dict({loads})"


def _to_folder(exported: Exported, path: Path) -> str:
    from hpt.architectures import folder

    return folder.write(
        exported.state,
        exported.backbone,
        path,
        channels=exported.channels,
        labels=exported.labels,
        image_size=exported.image_size or SIZE,
        pooling=exported.pooling,
        normalisation=exported.normalisation,
    )


def _to_onnx(exported: Exported, path: Path) -> str:
    from hpt import onnx_file

    names = encoder.classifier_keys(exported.backbone)
    state = {key: value for key, value in exported.state.items() if not exported.classes or key not in names}
    size, output = exported.image_size or SIZE, "logits" if exported.classes else "features"
    model: nn.Module = encoder.loaded(exported.backbone, state, image_size=size, pooling=exported.pooling)
    if exported.classes:
        head = nn.Linear(encoder.width(model), exported.classes)
        head.load_state_dict({part: exported.state[name] for part, name in zip(("weight", "bias"), names, strict=True)})
        model = nn.Sequential(model, head)
    onnx_file.write(model, path, channels=exported.channels, image_size=size, output=output)
    inputs = f"[n, {exported.channels}, {size}, {size}]"
    return (
        f"session = onnxruntime.InferenceSession({str(path)!r}); "
        f"({output},) = session.run(None, {{'images': images}})  # fp32 {inputs}"
    )
