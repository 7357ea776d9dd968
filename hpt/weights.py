"""Anybody's ResNet weights: read without running code, recognised by structure, each tensor accounted for.

A file becomes dictionaries of tensors, one for each container in it (`state_dict`, `model`, `student`, ...).
In these the encoder is wherever `P + conv1.weight` and `P + layer1.0.conv1.weight` are, for some prefix P. So
nothing has to know which wrappers a file went through. A layout with other key names is one more row of
`_LAYOUTS`.
"""

from __future__ import annotations

import codecs
import hashlib
import importlib
import json
import logging
import pickle
import pickletools
import re
import urllib.parse
import warnings
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hpt import encoder as encoders
from hpt.callbacks import Progress
from hpt.data.fetch import Checksum, download
from hpt.errors import DataError, WeightsError
from hpt.files import replacing
from hpt.user_folders import cache_folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A backbone from a file, and what became of everything else in the file."""

    state: dict[str, Tensor] = field(repr=False)
    """torchvision's ResNet keys without `fc`, fp32 on the CPU. BatchNorm's step counters
    (`num_batches_tracked`) are 0 where the file has none."""
    backbone: str
    """Detected architecture."""
    dialect: str
    """What kind of file it was, with the prefix of its keys: `MoCo query encoder (module.encoder_q.)`."""
    sha256: str
    """Of the file."""
    path: Path
    matched: int
    """Tensors of the encoder that the file has."""
    expected: int
    """Tensors of the encoder."""
    missing: tuple[str, ...]
    """Only ever BatchNorm's step counters, unless a part was allowed: then these are a fresh model's."""
    unexpected: tuple[str, ...]
    """Keys that belong neither to the encoder nor to any known companion of one."""
    ignored: tuple[str, ...]
    """Keys of known companions: heads, queues, key encoders and other copies."""

    @property
    def whole(self) -> bool:
        """Whether the file has every tensor of the encoder but BatchNorm's step counters."""
        return all(key.endswith(_COUNTER) for key in self.missing)

    def oddities(self) -> list[str]:
        """What looks wrong with BatchNorm's statistics, a line each: a backbone in eval mode divides by them."""
        out = []
        layers = [key.removesuffix(".running_var") for key in self.state if key.endswith(".running_var")]
        fresh = [
            layer
            for layer in layers
            if bool((self.state[f"{layer}.running_mean"] == 0).all())
            and bool((self.state[f"{layer}.running_var"] == 1).all())
        ]
        negative = [layer for layer in layers if bool((self.state[f"{layer}.running_var"] < 0).any())]
        huge = [layer for layer in layers if bool((self.state[f"{layer}.running_var"] > 1e6).any())]
        if len(fresh) == len(layers):
            out.append(
                "BatchNorm's running statistics are those of a fresh model (0 and 1): strategy base estimates them"
            )
        elif fresh:
            out.append(f"BatchNorm's running statistics were never updated in {len(fresh)} layers ({_few(fresh)})")
        if negative:
            out.append(f"negative variances in {len(negative)} BatchNorm layers ({_few(negative)})")
        if huge:
            out.append(f"variances above a million in {len(huge)} BatchNorm layers ({_few(huge)})")
        if self.dialect.startswith("detectron2"):
            out.append(
                "detectron2 has models of BGR images and with the stride in 1 x 1 convolutions; use one of neither"
            )
        return out

    def summary(self) -> str:
        """One line for the user."""
        text = f"{self.path.name}: {self.dialect} of a {self.backbone}"
        text += f", {self.matched} of {self.expected} tensors matched"
        fresh = [key for key in self.missing if not key.endswith(_COUNTER)]
        if fresh:
            text += f" ({len(fresh)} are those of a fresh model: {_few(fresh)})"
        elif self.missing:
            text += f" (the other {len(self.missing)} are BatchNorm's step counters, set to 0)"
        if self.ignored:
            kinds = dict.fromkeys(_companion(key) or "another encoder" for key in self.ignored)
            text += f", {len(self.ignored)} ignored ({', '.join(kinds)})"
        if self.unexpected:
            text += f", {len(self.unexpected)} unexpected ({_few(self.unexpected)})"
        return text


@dataclass(frozen=True)
class KnownWeights:
    """Published weights that a name stands for."""

    url: str
    size: int | None
    """Bytes, where published."""
    checksum: Checksum
    backbone: str
    source: str
    """Page that publishes the address and the checksum."""
    note: str
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Of the images that they were trained on, by channel in [0, 1]: ImageNet's, of all three. Here a run normalises
    with its own images' instead, as the protocol does, and BatchNorm's statistics follow."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    @property
    def file_name(self) -> str:
        return urllib.parse.urlsplit(self.url).path.rpartition("/")[2]

    @property
    def path(self) -> Path:
        """Where the cache keeps the file, whether it has been fetched or not."""
        return cache_folder() / "weights" / self.file_name


_MOCO = "https://dl.fbaipublicfiles.com/moco/moco_checkpoints"
_MOCO_PAGE = "https://github.com/facebookresearch/moco"

KNOWN: dict[str, KnownWeights] = {
    "moco-v2-800ep": KnownWeights(
        f"{_MOCO}/moco_v2_800ep/moco_v2_800ep_pretrain.pth.tar",
        None,
        Checksum("md5", "a04e12f8"),
        "resnet50",
        _MOCO_PAGE,
        "MoCo-v2, 800 epochs of ImageNet without labels: the protocol's base",
    ),
    "moco-v2-200ep": KnownWeights(
        f"{_MOCO}/moco_v2_200ep/moco_v2_200ep_pretrain.pth.tar",
        None,
        Checksum("md5", "59fd9945"),
        "resnet50",
        _MOCO_PAGE,
        "MoCo-v2, 200 epochs of ImageNet without labels",
    ),
    "imagenet-supervised": KnownWeights(
        "https://download.pytorch.org/models/resnet50-0676ba61.pth",
        None,
        Checksum("sha256", "0676ba61"),
        "resnet50",
        "https://docs.pytorch.org/vision/stable/models/generated/torchvision.models.resnet50.html",
        "torchvision's ResNet-50 (IMAGENET1K_V1), trained with ImageNet's labels",
    ),
}


def read(path: Path, *, backbone: str | None = None, allow_partial: bool = False) -> Loaded:
    """The ResNet backbone in a weights file, whatever wrote it.

    PyTorch files (zip and the older format) and safetensors are told apart by content, not by name. Nothing
    in the file is executed. Where a file has several encoders (query and key, student and teacher), the one
    that was trained by gradients is taken, and its prefix is part of `dialect`.

    Args:
        backbone: the architecture that is wanted; None takes what the file has.
        allow_partial: fill tensors that are missing or of another shape from a fresh model, instead of refusing them,
            as long as they are fewer than half.

    Raises:
        WeightsError: no such file; damaged; not tensors alone; no ResNet or another one in it; a tensor of
            the encoder missing, of another shape, or with NaN or infinity. Only BatchNorm's step counters
            may be missing.
    """
    sha256 = _sha256(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.load's, about old formats
            content, writer = _open(path)
            containers = _containers(content)
            found, *others = sorted(_encoders(containers), key=_rank)
            name = backbone if allow_partial and backbone else encoders.detect(found.tensors)
            if backbone is not None and name != backbone:
                raise WeightsError(
                    f"weights are of a {name}, asked for {backbone}",
                    f"use --backbone {name} or other weights",
                )
            state, missing = _take(found, name, allow_partial)
    except WeightsError as error:
        raise WeightsError(f"{path.name}: {error.what}", error.fix) from None
    taken = {found.keys[key] for key in state if key in found.keys}
    beside = {key for other in others for key in other.keys.values()}
    left = [container + key for container, tensors in containers.items() for key in tensors]
    left = [key for key in left if key not in taken]
    return Loaded(
        state=state,
        backbone=name,
        dialect=_dialect(found, writer),
        sha256=sha256,
        path=path,
        matched=len(state) - len(missing),
        expected=len(state),
        missing=tuple(missing),
        unexpected=tuple(key for key in left if key not in beside and _companion(key) is None),
        ignored=tuple(key for key in left if key in beside or _companion(key) is not None),
    )


def save(state: Mapping[str, Tensor], path: Path, *, metadata: Mapping[str, str]) -> str:
    """Write tensors and facts about them as safetensors, atomically; returns the file's sha256.

    Raises:
        WeightsError: the file cannot be written.
    """
    # Copies: safetensors refuses tensors that share memory. One entry of metadata: it writes several
    # in random order, and the same weights must give the same bytes.
    tensors = {
        key: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format) for key, value in state.items()
    }
    try:
        with replacing(path) as part:
            save_file(tensors, part, metadata={_US: json.dumps(dict(metadata), sort_keys=True)})
            return _sha256(part)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"cannot write {path} ({_why(error)})", "free some space or choose another folder") from None


def facts(path: Path) -> dict[str, str]:
    """What `save` was told about a file's tensors; empty for files of other programs."""
    with safe_open(path, framework="pt") as kept:
        found: dict[str, str] = json.loads((kept.metadata() or {}).get(_US, "{}"))
    return found


def locate(name: str, *, progress: Progress | None = None) -> Path | None:
    """The file of known weights, fetched into the cache on first use; None when the name is not in `KNOWN`.

    Raises:
        WeightsError: it cannot be fetched; says where to put it by hand.
    """
    known = KNOWN.get(name)
    if known is None:
        return None
    path = known.path
    if not path.exists():
        logger.info("fetching %s (%s) into %s", name, known.url, path.parent)
        try:
            download(known.url, path, checksum=known.checksum, size=known.size, progress=progress)
        except DataError as error:
            raise WeightsError(
                error.what, f"put {known.file_name} into {path.parent}, or give --weights FILE or RUN"
            ) from None
    return path


_US = "hptctl"
_COUNTER = ".num_batches_tracked"

# What each layout of key names calls the parts of a ResNet, which torchvision calls conv1, bn1, layer1, ...
_LAYOUTS: dict[str, dict[str, str]] = {
    "torchvision": {part: part for part in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")},
    # nn.Sequential(*resnet.children()), where relu and maxpool are 2 and 3.
    "children": {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"},
}

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

# Words that name an encoder trained by gradients, and one that only follows it.
_TRAINED = {"q", "query", "online", "student"}
_FOLLOWS = {"k", "key", "momentum", "teacher", "target", "ema"}

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


@dataclass(frozen=True)
class _Encoder:
    """An encoder somewhere in a file, under torchvision's names."""

    container: str
    prefix: str
    layout: str
    tensors: Mapping[str, Tensor]
    keys: Mapping[str, str]
    """What the file calls each tensor, container and all."""


_AGAIN = "download or copy it again"


def _open(path: Path) -> tuple[Any, str | None]:
    """The content of a file without code, and the program that wrote it where it says so."""
    with path.open("rb") as file:
        head = file.read(80)
    if not head:
        raise WeightsError("the file is empty", _AGAIN)
    if head.startswith((b"PK\x03\x04", b"\x80")):
        content = _open_torch(path, zipped=head.startswith(b"PK"))
        return content, _writer(content) if isinstance(content, Mapping) else None
    if head[8:9] == b"{":
        try:
            with safe_open(path, "pt", device="cpu") as tensors:
                ours = _US in (tensors.metadata() or {})
                content = {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118
                return content, _US if ours else None
        except Exception as error:
            raise WeightsError(f"the file is truncated or damaged ({_why(error)})", _AGAIN) from None
    text = head.decode("ascii", errors="replace").partition("\n")[0].strip()
    what = (
        f"a text that begins {text!r}" if text.isascii() and text.isprintable() else "neither PyTorch nor safetensors"
    )
    raise WeightsError(f"this is no weights file but {what}", _AGAIN)


def _open_torch(path: Path, *, zipped: bool) -> Any:
    if zipped:
        try:
            with zipfile.ZipFile(path) as archive:
                names = {name.rpartition("/")[2] for name in archive.namelist()}
        except (zipfile.BadZipFile, NotImplementedError, ValueError):
            raise WeightsError("the file is truncated or damaged", _AGAIN) from None
        if "constants.pkl" in names:
            raise WeightsError(
                "the file holds a TorchScript program, which is code; nothing of it was run",
                "give the model's state_dict",
            )
        if "data.pkl" not in names:
            raise WeightsError("this is a zip file that PyTorch did not write", "give the weights file itself")
    try:
        with path.open("rb") as file:  # given a path, torch.load lets its ending decide about the format
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"the file cannot be read ({_why(error)})") from None
    except Exception as error:  # a damaged pickle raises anything
        if not zipped and (arrays := _open_arrays(path)) is not None:
            return arrays
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        refused = named[1] if named else _first_global(path) if not zipped else None
        if isinstance(error, pickle.UnpicklingError) and refused:
            raise WeightsError(
                f"the file holds more than tensors: {refused}, which could be code; nothing of it was run",
                "if you trust its author, load it in Python and save its state_dict alone",
            ) from None
        raise WeightsError("the file is truncated or damaged", _AGAIN) from None


class _Arrays(pickle.Unpickler):
    """Unpickles NumPy's arrays and nothing else that is not built in: what detectron2's .pkl files hold."""

    _KNOWN: ClassVar = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): codecs.encode,  # of Python 2's strings, into bytes
    }

    def find_class(self, module: str, name: str) -> Any:
        """
        Raises:
            pickle.UnpicklingError: anything else.
        """
        if module in {"numpy.core.multiarray", "numpy._core.multiarray"} and name in {"_reconstruct", "scalar"}:
            return getattr(importlib.import_module(module), name)
        if (module, name) in self._KNOWN:
            return self._KNOWN[module, name]
        raise pickle.UnpicklingError(f"{module}.{name}")


def _open_arrays(path: Path) -> Any:
    """The content of a pickle of NumPy arrays, as tensors; None where it holds anything else."""
    try:
        with path.open("rb") as file:
            content = _Arrays(file, encoding="latin1").load()
        return (
            _as_tensors(content) if isinstance(content, Mapping) else None
        )  # PyTorch's older files begin with a number
    except Exception:  # a damaged pickle raises anything
        return None


def _as_tensors(content: Any, depth: int = 0) -> Any:
    if isinstance(content, Mapping) and depth < 8:
        return {key: _as_tensors(value, depth + 1) for key, value in content.items()}
    if isinstance(content, np.ndarray) and content.dtype.kind in "fiu":
        return torch.from_numpy(np.array(content))
    return content


def _first_global(path: Path) -> str | None:
    """The first thing that a bare pickle would import, read from its opcodes without running them."""
    strings: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(path.read_bytes()):
            if opcode.name == "GLOBAL":
                return str(argument).replace(" ", ".")
            if opcode.name == "STACK_GLOBAL":
                return ".".join(strings[-2:])
            if isinstance(argument, str):
                strings.append(argument)
    except Exception:  # damaged: what was read so far named nothing
        return None
    return None


def _writer(content: Mapping[Any, Any]) -> str | None:
    if "pytorch-lightning_version" in content:
        return "Lightning"
    return "OpenSelfSup or MMSelfSup" if "meta" in content else None


def _containers(content: Any) -> dict[str, dict[str, Tensor]]:
    """Every dictionary of tensors at any depth, by its path: '' for the outermost, then 'state_dict.'."""
    found: dict[str, dict[str, Tensor]] = {}
    waiting: deque[tuple[str, Any]] = deque([("", content)])
    seen: set[int] = set()  # a pickle may contain itself
    while waiting:
        path, value = waiting.popleft()
        if not isinstance(value, Mapping) or id(value) in seen:
            continue
        seen.add(id(value))
        tensors = {key: tensor for key, tensor in value.items() if isinstance(key, str) and isinstance(tensor, Tensor)}
        if tensors:
            found[path] = tensors
        waiting.extend((f"{path}{key}.", inner) for key, inner in value.items() if isinstance(key, str))
    return found


def _encoders(containers: Mapping[str, Mapping[str, Tensor]]) -> list[_Encoder]:
    """Every encoder in the file, in its order; at least one."""
    found = []
    for container, tensors in containers.items():
        for layout, parts in _LAYOUTS.items():
            part_of = {theirs: ours for ours, theirs in parts.items()}
            for prefix in _prefixes(tensors, parts):
                keys = {}
                for key in tensors:
                    part, _, rest = key.removeprefix(prefix).partition(".")
                    if key.startswith(prefix) and part in part_of:
                        keys[f"{part_of[part]}.{rest}"] = key
                renamed = {name: tensors[key] for name, key in keys.items()}
                full = {name: container + key for name, key in keys.items()}
                found.append(_Encoder(container, prefix, layout, renamed, full))
        for key in tensors:
            if key.endswith("stem.conv1.weight"):
                prefix = key.removesuffix("stem.conv1.weight")
                theirs = {_from_detectron2(k.removeprefix(prefix)): k for k in tensors if k.startswith(prefix)}
                own = {name: k for name, k in theirs.items() if name is not None}
                renamed = {name: tensors[k] for name, k in own.items()}
                full = {name: container + k for name, k in own.items()}
                found.append(_Encoder(container, prefix, "detectron2", renamed, full))
    if not found:
        names = [container + key for container, tensors in containers.items() for key in tensors]
        inside = f"its tensors are {_few(names)}" if names else "it has no named tensors"
        raise WeightsError(f"no ResNet in it ({inside})", "give weights of a torchvision or timm ResNet")
    return found


def _from_detectron2(key: str) -> str | None:
    """torchvision's name of a tensor, which counts stages from 1; None for what is no part of a ResNet."""
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


def _rank(found: _Encoder) -> int:
    """Low for the encoder to take."""
    words = _words(found.container + found.prefix)
    if not _TRAINED.isdisjoint(words):
        return 0
    return 1 if _FOLLOWS.isdisjoint(words) else 2


def _take(found: _Encoder, backbone: str, allow_partial: bool) -> tuple[dict[str, Tensor], list[str]]:
    """The encoder's tensors, checked and copied out of the file, and those that it lacks."""
    shapes = encoders.shapes(backbone)
    absent = [name for name in shapes if name not in found.tensors]
    lost = [name for name in absent if not name.endswith(_COUNTER)]
    odd = [name for name, shape in shapes.items() if name in found.tensors and found.tensors[name].shape != shape]
    if lost and not allow_partial:
        raise WeightsError(
            f"only {len(shapes) - len(absent)} of the {len(shapes)} tensors of a {backbone} (missing: {_few(lost)})",
            "give the whole model's weights, or start the rest afresh with --allow-partial",
        )
    if odd and not allow_partial:
        key, shape = found.keys[odd[0]], list(found.tensors[odd[0]].shape)
        raise WeightsError(
            f"{key} has shape {shape}, in a {backbone} it is {list(shapes[odd[0]])}",
            f"use weights of a plain {backbone}",
        )
    if 2 * (len(lost) + len(odd)) > len(shapes):
        raise WeightsError(
            f"{len(lost) + len(odd)} of the {len(shapes)} tensors of a {backbone} would be a fresh model's",
            "use weights of that architecture",
        )
    afresh = encoders.build(backbone, seed=0).state_dict() if lost or odd else {}
    state = {}
    for name in shapes:
        if name in afresh and (name in odd or name in lost):
            state[name] = afresh[name].clone()
        elif name in absent:
            state[name] = torch.zeros((), dtype=torch.int64)
        else:
            state[name] = _plain(found.tensors[name], found.keys[name], counter=name.endswith(_COUNTER))
    return state, [name for name in shapes if name in absent or name in odd]


def _plain(tensor: Tensor, key: str, *, counter: bool) -> Tensor:
    """A contiguous copy on the CPU: fp32, int64 for a counter."""
    dense = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta
    if not dense or not (tensor.is_floating_point() or counter):
        kind = str(tensor.dtype if dense else tensor.layout).removeprefix("torch.")
        raise WeightsError(f"{key} holds no plain numbers ({kind})", "give the weights before quantisation or pruning")
    wanted = torch.int64 if counter else torch.float32
    copy = tensor.detach().to("cpu", wanted, copy=True, memory_format=torch.contiguous_format)
    if not copy.isfinite().all():
        raise WeightsError(f"{key} holds NaN or infinity", "take a checkpoint from before the training diverged")
    return copy


def _dialect(found: _Encoder, writer: str | None) -> str:
    where = found.container + found.prefix
    role = next((word for word in _words(where) if word in _TRAINED | _FOLLOWS), None)
    if writer is not None:
        kind = writer
    elif role is not None:
        kind = {"q": "MoCo query", "k": "MoCo key"}.get(role, role) + " encoder"
    elif "_orig_mod." in found.prefix:
        kind = "torch.compile"
    elif found.layout == "detectron2":
        kind = "detectron2"
    elif found.layout == "children":
        kind = "bare encoder"
    else:
        kind = "encoder" if found.prefix else "torchvision or timm"
    shown = found.prefix if role is None or role in _words(found.prefix) else where
    return f"{kind} ({shown})" if shown else kind


def _companion(key: str) -> str | None:
    """What a tensor beside the encoder is, by the words of its key."""
    return next((kind for kind, names in _COMPANIONS.items() if not names.isdisjoint(_words(key))), None)


def _words(key: str) -> list[str]:
    """`"module.encoder_q."` -> ["module", "encoder", "q", ""]."""
    return re.split(r"[._]+", key.lower())


def _few(names: Iterable[str]) -> str:
    first, *rest = names
    shown = [first, *rest[:2]]
    more = len(rest) + 1 - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise WeightsError(f"weights file {path} does not exist", "check --weights") from None
    except IsADirectoryError:
        raise WeightsError(
            f"{path} is a folder, not a weights file", "give the file in it, or the name of a run"
        ) from None
    except OSError as error:
        raise WeightsError(f"weights file {path} cannot be read ({_why(error)})") from None


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error).partition("\n")[0]
