"""Where the encoder is in a weights file, recognised by structure.

The content of a file becomes dictionaries of tensors, one for each container in it (`state_dict`, `model`, `student`,
...). In these the encoder is wherever `P + conv1.weight` and `P + layer1.0.conv1.weight` are, for some prefix P. So
nothing has to know which wrappers a file went through. A layout with other key names is one more row of `_LAYOUTS`.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hpt.encoder_variants import foreign, stranger, within
from hpt.errors import WeightsError

# What each layout of key names calls the parts of a ResNet, which torchvision calls conv1, bn1, layer1, ...
_LAYOUTS: dict[str, dict[str, str]] = {
    "torchvision": {part: part for part in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")},
    # nn.Sequential(*resnet.children()), where relu and maxpool are 2 and 3.
    "children": {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"},
}
# What has no tensors in a plain ResNet, and may have some in others.
_BETWEEN = {"children": {"act1": "2", "maxpool": "3"}}

# Detectron2's names (github.com/facebookresearch/detectron2, modeling/backbone/resnet.py), after any prefix. Its norms
# belong to convolutions, and its stages count from 2.
_DETECTRON2 = (
    (re.compile(r"^stem\.conv1\.(weight)$"), r"conv1.\1"),
    (re.compile(r"^stem\.conv1\.norm\.(\w+)$"), r"bn1.\1"),
    (re.compile(r"^res(\d)\.(\d+)\.conv(\d)\.(weight)$"), r"layer\1.\2.conv\3.\4"),
    (re.compile(r"^res(\d)\.(\d+)\.conv(\d)\.norm\.(\w+)$"), r"layer\1.\2.bn\3.\4"),
    (re.compile(r"^res(\d)\.(\d+)\.shortcut\.(weight)$"), r"layer\1.\2.downsample.0.\3"),
    (re.compile(r"^res(\d)\.(\d+)\.shortcut\.norm\.(\w+)$"), r"layer\1.\2.downsample.1.\3"),
)

# The names of Hugging Face's transformers (models/resnet/modeling_resnet.py), after any prefix. Its layers are counted
# within a stage, and its convolutions have their norms beside them.
_TRANSFORMERS = (
    (re.compile(r"^embedder\.embedder\.convolution\.(weight)$"), r"conv1.\1"),
    (re.compile(r"^embedder\.embedder\.normalization\.(\w+)$"), r"bn1.\1"),
    (
        re.compile(r"^encoder\.stages\.(\d)\.layers\.(\d+)\.layer\.(\d)\.convolution\.(weight)$"),
        r"layer\1.\2.conv\3.\4",
    ),
    (re.compile(r"^encoder\.stages\.(\d)\.layers\.(\d+)\.layer\.(\d)\.normalization\.(\w+)$"), r"layer\1.\2.bn\3.\4"),
    (
        re.compile(r"^encoder\.stages\.(\d)\.layers\.(\d+)\.shortcut\.convolution\.(weight)$"),
        r"layer\1.\2.downsample.0.\3",
    ),
    (
        re.compile(r"^encoder\.stages\.(\d)\.layers\.(\d+)\.shortcut\.normalization\.(\w+)$"),
        r"layer\1.\2.downsample.1.\3",
    ),
)

TIMM = "timm"
"""The layout of a network that is no plain ResNet, by timm's own names."""

# Words that name an encoder trained by gradients, and one that only follows it.
_TRAINED = {"q", "query", "online", "student"}
_FOLLOWS = {"k", "key", "momentum", "teacher", "target", "ema"}

# An optimizer's moments may have the names of what it trains.
_MOMENTS = {"optimizer", "optim", "exp"}

# What else lies beside an encoder, by a word of the key.
_COMPANIONS: dict[str, set[str]] = {
    "queue": {"queue"},
    "key encoder": {"k", "key"},
    "momentum copy": _FOLLOWS,
    "head": {
        "fc", "head", "heads", "mlp", "neck", "classifier", "prototypes",
        "projector", "projection", "predictor", "prediction",
    },
    "loss": {"loss", "criterion"},
    "optimizer": {"optimizer"},
}  # fmt: skip


# And beside one that is no ResNet.
_COMPANIONS_OF_OTHERS: dict[str, set[str]] = {"decoder": {"decoder"}, "mask token": {"mask"}, "head": {"pooler"}}


class Tensors(dict[str, Tensor]):
    """A dictionary of tensors of a file."""

    modules: frozenset[str] = frozenset()
    """The names of all modules of the model, with tensors or without, where PyTorch kept them."""


@dataclass(frozen=True)
class Encoder:
    """An encoder somewhere in a file."""

    container: str
    """The path of its container in the file, such as `state_dict.`."""
    prefix: str
    """What its keys begin with there, such as `module.encoder_q.`."""
    layout: str
    """How the file names its parts: a row of `_LAYOUTS`, or a program's name: `detectron2`, `transformers`, `timm`."""
    tensors: Mapping[str, Tensor]
    """Its tensors under torchvision's names, or timm's."""
    keys: Mapping[str, str]
    """What the file calls each tensor, container and all."""
    foreign: tuple[str, ...] = ()
    """What is part of it and of no plain ResNet, by names as in `tensors`."""
    modules: frozenset[str] = frozenset()
    """The names of its modules, as far as the file has them."""


def containers(content: Any) -> dict[str, Tensors]:
    """Every dictionary of tensors at any depth, by its path: '' for the outermost, then 'state_dict.'."""
    found: dict[str, Tensors] = {}
    waiting: deque[tuple[str, Any]] = deque([("", content)])
    seen: set[int] = set()  # a pickle may contain itself
    while waiting:
        path, value = waiting.popleft()
        if not isinstance(value, Mapping) or id(value) in seen:
            continue
        seen.add(id(value))
        tensors = Tensors((k, each) for k, each in value.items() if isinstance(k, str) and isinstance(each, Tensor))
        if tensors:
            modules = getattr(value, "_metadata", None)  # a state dict's, which a pickle keeps
            tensors.modules = frozenset(map(str, modules)) if isinstance(modules, Mapping) else frozenset()
            found[path] = tensors
        waiting.extend((f"{path}{key}.", inner) for key, inner in value.items() if isinstance(key, str))
    return found


def encoders(containers: Mapping[str, Tensors]) -> list[Encoder]:
    """Every encoder of a file's containers, the one to take first: it was trained by gradients, where that can be told.

    Raises:
        WeightsError: there is none.
    """
    found = []
    for container, tensors in containers.items():
        for layout, parts in _LAYOUTS.items():
            part_of = {theirs: ours for ours, theirs in parts.items()}
            called = part_of | {theirs: ours for ours, theirs in _BETWEEN.get(layout, {}).items()}
            for prefix in _prefixes(tensors, parts):
                names = {key: _renamed(key.removeprefix(prefix), called) for key in tensors if key.startswith(prefix)}
                keys = {name: key for key, name in names.items() if key[len(prefix) :].partition(".")[0] in part_of}
                own = {name: tensors[key] for name, key in keys.items()}
                inside = {m.removeprefix(prefix) for m in tensors.modules if m.startswith(prefix)}
                found.append(
                    Encoder(
                        container,
                        prefix,
                        layout,
                        own,
                        {name: container + key for name, key in keys.items()},
                        (*foreign(own), *_beside(list(names.values()), own)),
                        frozenset(_renamed(module, called) for module in inside),
                    )
                )
        found += _detectron2s(container, tensors)
        found += _transformers(container, tensors)
    if not found:
        names_ = [container + key for container, tensors in containers.items() for key in tensors]
        inside_ = f"its tensors are {few(names_)}" if names_ else "it has no named tensors"
        what, fix = stranger(names_)
        none, but, kind = what.partition(", but ")
        raise WeightsError(f"{none} ({inside_}){but}{kind}", fix)
    return in_order(found)


def _detectron2s(container: str, tensors: Mapping[str, Tensor]) -> Iterator[Encoder]:
    for key in tensors:
        prefix = key.removesuffix("stem.conv1.weight")
        if prefix == key or f"{prefix}res2.0.conv1.weight" not in tensors:
            continue
        theirs = [k for k in tensors if k.startswith(prefix)]
        keys = {name: k for k in theirs if (name := _from_detectron2(k.removeprefix(prefix))) is not None}
        others = [k for k in theirs if re.match(r"(stem|res\d)\.(?!fc\.)", k.removeprefix(prefix))]
        odd = foreign({k: tensors[k] for k in others if k not in keys.values()})
        yield Encoder(
            container,
            prefix,
            "detectron2",
            {name: tensors[k] for name, k in keys.items()},
            {name: container + k for name, k in keys.items()},
            tuple(k.removeprefix(prefix) for k in odd),
        )


def _transformers(container: str, tensors: Mapping[str, Tensor]) -> Iterator[Encoder]:
    for key in tensors:
        prefix = key.removesuffix("embedder.embedder.convolution.weight")
        if prefix == key:
            continue
        theirs = [k for k in tensors if k.startswith(prefix)]
        keys = {name: k for k in theirs if (name := _from_transformers(k.removeprefix(prefix))) is not None}
        others = [k for k in theirs if k.removeprefix(prefix).startswith(("embedder.", "encoder."))]
        odd = foreign({k: tensors[k] for k in others if k not in keys.values()})
        yield Encoder(
            container,
            prefix,
            "transformers",
            {name: tensors[k] for name, k in keys.items()},
            {name: container + k for name, k in keys.items()},
            tuple(k.removeprefix(prefix) for k in odd),
        )


def _from_transformers(key: str) -> str | None:
    """torchvision's name of a tensor, which counts stages and convolutions from 1; None where it is not part of a
    ResNet."""
    for pattern, name in _TRANSFORMERS:
        if pattern.match(key):
            ours = pattern.sub(name, key)
            if not ours.startswith("layer"):
                return ours
            ours = f"layer{int(ours[5]) + 1}{ours[6:]}"
            return re.sub(r"\.(conv|bn)(\d)\.", lambda found: f".{found[1]}{int(found[2]) + 1}.", ours)
    return None


def _renamed(key: str, called: Mapping[str, str]) -> str:
    """torchvision's name of a part and of what is in it; others stay."""
    part, dot, rest = key.partition(".")
    return f"{called.get(part, part)}{dot}{rest}"


def _beside(names: list[str], own: Mapping[str, Tensor]) -> list[str]:
    """What lies beside an encoder's own tensors, and is part of it as its place or its name tells."""
    mine = [number for number, name in enumerate(names) if name in own]
    first = [next((n for n in mine if names[n].startswith(part)), -1) for part in ("conv1.", "layer1.", "layer2.")]
    in_order = first == sorted(first)  # safetensors sorts by name
    outside = [(n, name) for n, name in enumerate(names) if name not in own and companion(name.split(".")[0]) is None]
    return within(
        before=[name for n, name in outside if in_order and mine[0] < n < mine[-1]],
        beside=[name for _, name in outside if not in_order],
        after=[name for n, name in outside if in_order and n > mine[-1]],
    )


def _from_detectron2(key: str) -> str | None:
    """torchvision's name of a tensor, which counts stages from 1; None where it is not part of a ResNet."""
    for pattern, name in _DETECTRON2:
        if pattern.match(key):
            ours = pattern.sub(name, key)
            return f"layer{int(ours[5]) - 1}{ours[6:]}" if ours.startswith("layer") else ours
    return None


def _prefixes(tensors: Mapping[str, Tensor], parts: Mapping[str, str]) -> Iterator[str]:
    for key, tensor in tensors.items():
        prefix = key.removesuffix(f"{parts['conv1']}.weight")
        whole_words = prefix != key and (not prefix or prefix.endswith("."))
        if whole_words and tensor.ndim == 4 and f"{prefix}{parts['layer1']}.0.conv1.weight" in tensors:
            yield prefix


def in_order(found: Iterable[Encoder]) -> list[Encoder]:
    """Encoders, the one to take first."""
    return sorted(found, key=_rank)


def _rank(found: Encoder) -> int:
    """Low for the encoder to take."""
    words = _words(found.container + found.prefix)
    if not _MOMENTS.isdisjoint(words):
        return 3
    if not _TRAINED.isdisjoint(words):
        return 0
    return 1 if _FOLLOWS.isdisjoint(words) else 2


def dialect(found: Encoder, writer: str | None) -> str:
    """What kind of file an encoder was in, for people; `writer` is the program that wrote it, where it says so."""
    where = found.container + found.prefix
    role = next((word for word in _words(where) if word in _TRAINED | _FOLLOWS), None)
    if writer is not None:
        kind = writer
    elif role is not None:
        kind = {"q": "MoCo query", "k": "MoCo key"}.get(role, role) + " encoder"
    elif "_orig_mod." in found.prefix:
        kind = "torch.compile"
    elif found.layout not in (*_LAYOUTS, TIMM):
        kind = found.layout
    elif found.layout == "children":
        kind = "bare encoder"
    else:
        kind = "encoder" if found.prefix else "timm" if found.layout == TIMM else "torchvision or timm"
    shown = found.prefix if role is None or role in _words(found.prefix) else where
    return f"{kind} ({shown})" if shown else kind


def companion(key: str, *, of_resnet: bool = True) -> str | None:
    """What a tensor beside an encoder is, by the words of its key; None where they do not tell."""
    known = [*_COMPANIONS.items(), *(() if of_resnet else _COMPANIONS_OF_OTHERS.items())]
    return next((kind for kind, names in known if not names.isdisjoint(_words(key))), None)


def _words(key: str) -> list[str]:
    """`"module.encoder_q."` -> ["module", "encoder", "q", ""]."""
    return re.split(r"[._]+", key.lower())


def few(names: Iterable[str]) -> str:
    """The first three names, and how many more there are."""
    first, *rest = names
    shown = [first, *rest[:2]]
    more = len(rest) + 1 - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
