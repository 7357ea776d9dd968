"""Anybody's weights: read without running code, recognised by structure, each tensor accounted for.

`hpt.tensor_files` opens a file, `hpt.encoder_layouts` finds a plain ResNet in its content, `hpt.architectures.files`
any other network, which the file names or the user does, and here its tensors are checked and copied.
`hpt.known_weights` has the published weights that a name stands for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hpt import encoder, encoder_variants
from hpt.config import MOST_CHANNELS, RESNETS
from hpt.encoder_layouts import Encoder, Tensors, companion, containers, dialect, encoders, few
from hpt.errors import WeightsError
from hpt.files import replacing
from hpt.tensor_files import METADATA, content_of, why

_COUNTER = ".num_batches_tracked"
_SAY = "say which network of timm it is: --backbone NAME"


@dataclass(frozen=True)
class Loaded:
    """A backbone from a file, and what became of everything else in the file."""

    state: Mapping[str, Tensor] = field(repr=False)
    """The encoder's keys (torchvision's without `fc`, or timm's without a classifier), fp32 on the CPU. BatchNorm's
    step counters (`num_batches_tracked`) are 0 where the file has none."""
    backbone: str
    """The architecture, as detected."""
    dialect: str
    """What kind of file it was, with the prefix of its keys, such as `MoCo query encoder (module.encoder_q.)`."""
    sha256: str
    """The hash of the whole file."""
    path: Path
    matched: int
    """How many tensors of the encoder the file has."""
    expected: int
    """How many tensors the encoder has."""
    missing: tuple[str, ...]
    """Tensors that the file lacks: BatchNorm's step counters at most, unless a part of a backbone was allowed; then the
    missing tensors are a fresh model's."""
    unexpected: tuple[str, ...]
    """Keys that belong neither to the encoder nor to any known companion of one."""
    ignored: tuple[str, ...]
    """Keys of known companions: heads, queues, key encoders and other copies."""
    image_size: int | None = None
    """The side of the images that position embeddings are for, where there are such."""

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
        if layers and len(fresh) == len(layers):
            out.append(
                "BatchNorm's running statistics are those of a fresh model (0 and 1): strategy base estimates them"
            )
        elif fresh:
            out.append(f"BatchNorm's running statistics were never updated in {len(fresh)} layers ({few(fresh)})")
        if negative:
            out.append(f"negative variances in {len(negative)} BatchNorm layers ({few(negative)})")
        if huge:
            out.append(f"variances above a million in {len(huge)} BatchNorm layers ({few(huge)})")
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
            text += f" ({len(fresh)} are those of a fresh model: {few(fresh)})"
        elif self.missing:
            text += f" (the other {len(self.missing)} are BatchNorm's step counters, set to 0)"
        if self.ignored:
            plain = self.backbone in RESNETS
            kinds = dict.fromkeys(companion(key, of_resnet=plain) or "another encoder" for key in self.ignored)
            text += f", {len(self.ignored)} ignored ({', '.join(kinds)})"
        if self.unexpected:
            text += f", {len(self.unexpected)} unexpected ({few(self.unexpected)})"
        return text


def read(path: Path, *, backbone: str | None = None, allow_partial: bool = False) -> Loaded:
    """The backbone in a weights file, whatever wrote it.

    PyTorch files (zip and the older format) and safetensors are told apart by content, not by name. Nothing
    in the file is executed. Where a file has several encoders (query and key, student and teacher), the one
    that was trained by gradients is taken, and its prefix is part of `dialect`.

    Args:
        backbone: the architecture that is wanted; None takes what the file has: a plain ResNet, or what its metadata,
            its content or a `config.json` beside it names.
        allow_partial: fill tensors that are missing or of another shape from a fresh model, instead of refusing them,
            as long as they are fewer than half.

    Raises:
        WeightsError: the file does not exist, is damaged, holds more than tensors, or has no such network; or a tensor
            of the encoder is missing, has another shape, or holds NaN or infinity. Only BatchNorm's step counters may
            be missing.
    """
    sha256 = _sha256(path)
    try:
        content, writer = content_of(path)
        tensors = containers(content)
        if (other := _other_than_resnet(path, content, tensors, writer, backbone)) is not None:
            return _read_other(path, tensors, writer, other, allow_partial, sha256)
        found, *others = encoders(tensors)
        _refuse_variants(found, path, content)
        name = backbone if allow_partial and backbone else encoder.detect(found.tensors)
        if backbone is not None and name != backbone:
            raise WeightsError(
                f"weights are of a {name}, asked for {backbone}",
                f"use --backbone {name} or other weights",
            )
        _refuse_foreign(encoder_variants.foreign(found.tensors, _shapes(found, name)), found, name)
        shapes = _shapes(found, name)
        channels = shapes["conv1.weight"][1]
        state, missing = _take(
            found, name, shapes, lambda: encoder.build(name, seed=0, channels=channels), allow_partial
        )
    except WeightsError as error:
        raise WeightsError(f"{path.name}: {error.what}", error.fix) from None
    taken = {found.keys[key] for key in state if key in found.keys}
    beside = {key for each in others for key in each.keys.values()}
    unexpected, ignored = _left(tensors, taken, beside)
    return Loaded(
        state=state,
        backbone=name,
        dialect=dialect(found, writer),
        sha256=sha256,
        path=path,
        matched=len(state) - len(missing),
        expected=len(state),
        missing=tuple(missing),
        unexpected=unexpected,
        ignored=ignored,
    )


def _other_than_resnet(
    path: Path, content: object, tensors: Mapping[str, Tensors], writer: str | None, wanted: str | None
) -> str | None:
    """The network of timm that is wanted, or that a file says it holds; None where it is a plain ResNet, or neither
    tells."""
    if wanted is not None:
        return None if wanted in RESNETS else wanted
    kept = facts(path) if writer == METADATA else {}
    if kept.get("backbone") in RESNETS or _is_plain(tensors, path, content):
        return None
    from hpt.architectures import files

    return files.named(path, content, tensors, kept)


def _is_plain(tensors: Mapping[str, Tensors], path: Path, content: object) -> bool:
    """Whether a file has a plain ResNet by its tensors, and nothing named says otherwise: then timm is not needed."""
    try:
        found, *_ = encoders(tensors)
        encoder.detect(found.tensors)
        return not found.foreign and encoder_variants.named(path, content) is None
    except WeightsError:
        return False


def _read_other(
    path: Path, tensors: Mapping[str, Tensors], writer: str | None, name: str, allow_partial: bool, sha256: str
) -> Loaded:
    """The network `name` of timm in a file's containers."""
    from hpt.architectures import files

    found = files.find(tensors, name, facts(path) if writer == METADATA else {})
    state, missing = _take(found.encoder, name, found.shapes, lambda: found.model, allow_partial)
    unexpected, ignored = _left(tensors, found.taken, found.others, of_resnet=False)
    return Loaded(
        state=state,
        backbone=name,
        dialect=dialect(found.encoder, writer),
        sha256=sha256,
        path=path,
        matched=len(state) - len(missing),
        expected=len(state),
        missing=tuple(missing),
        unexpected=unexpected,
        ignored=ignored,
        image_size=found.image_size,
    )


def _left(
    tensors: Mapping[str, Tensors], taken: Collection[str], beside: Collection[str], *, of_resnet: bool = True
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The tensors of a file that were not taken: those of no known kind, and those of known companions."""
    left = [container + key for container, inside in tensors.items() for key in inside]
    left = [key for key in left if key not in taken]
    ignored = tuple(key for key in left if key in beside or companion(key, of_resnet=of_resnet) is not None)
    return tuple(key for key in left if key not in ignored), ignored


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
            save_file(tensors, part, metadata={METADATA: json.dumps(dict(metadata), sort_keys=True)})
            return _sha256(part)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"cannot write {path} ({why(error)})", "free some space or choose another folder") from None


def facts(path: Path) -> dict[str, str]:
    """What `save` was told about a file's tensors; empty for files of other programs."""
    with safe_open(path, framework="pt") as kept:
        found: dict[str, str] = json.loads((kept.metadata() or {}).get(METADATA, "{}"))
    return found


def _refuse_variants(found: Encoder, path: Path, content: object) -> None:
    """Refuse a network of other modules than a plain ResNet's: without them another function is computed."""
    _refuse_foreign(found.foreign, found, "ResNet")
    fix = f"use weights of a plain ResNet, or {_SAY}"
    if found.layout != "detectron2" and (what := encoder_variants.silent(found.modules)) is not None:
        raise WeightsError(f"a ResNet with {what}, by the names of its modules", fix)
    if (said := encoder_variants.named(path, content)) is not None:
        raise WeightsError(
            f"by its name it is a {said[0]}, a ResNet with {said[1]}, which no tensor would show",
            f"{fix}, or rename the file if this is one",
        )


def _refuse_foreign(names: Sequence[str], found: Encoder, kind: str) -> None:
    if names:
        shown = few([found.keys.get(name, found.container + found.prefix + name) for name in names])
        raise WeightsError(
            f"a ResNet with {encoder_variants.described(names)}: a plain {kind} has no place for {shown}, and without "
            "them computes another function",
            f"use weights of a plain {kind}, or {_SAY}",
        )


def _shapes(found: Encoder, backbone: str) -> Mapping[str, torch.Size]:
    """The shapes of an encoder for images of as many channels as the first convolution has."""
    stem = found.tensors.get("conv1.weight")
    many = stem.shape[1] if stem is not None and stem.ndim == 4 else 3
    return encoder.shapes(backbone, many if 1 <= many <= MOST_CHANNELS else 3)


def _take(
    found: Encoder,
    backbone: str,
    shapes: Mapping[str, torch.Size],
    fresh: Callable[[], nn.Module],
    allow_partial: bool,
) -> tuple[dict[str, Tensor], list[str]]:
    """The encoder's tensors, checked and copied out of the file, and those that it lacks, which come from a `fresh`
    model where a part is allowed."""
    plain = f"a plain {backbone}" if backbone in RESNETS else f"a {backbone}, or {_SAY}"
    absent = [name for name in shapes if name not in found.tensors]
    lost = [name for name in absent if not name.endswith(_COUNTER)]
    odd = [name for name, shape in shapes.items() if name in found.tensors and found.tensors[name].shape != shape]
    if lost and not allow_partial:
        norms = any(name.endswith(".running_mean") for name in shapes)
        if norms and not any(name.endswith(".running_mean") for name in found.tensors):
            raise WeightsError(
                f"a {backbone} without BatchNorm's statistics: it has group norms, or its parameters were saved alone",
                f"use weights of {plain}; of one with BatchNorm, those saved by its state_dict()",
            )
        raise WeightsError(
            f"only {len(shapes) - len(absent)} of the {len(shapes)} tensors of a {backbone} (missing: {few(lost)})",
            "give the whole model's weights, or start the rest afresh with --allow-partial",
        )
    if odd and not allow_partial:
        key, shape = found.keys.get(odd[0], odd[0]), list(found.tensors[odd[0]].shape)
        raise WeightsError(
            f"{key} has shape {shape}, in a {backbone} it is {list(shapes[odd[0]])}",
            f"use weights of {plain}",
        )
    if 2 * (len(lost) + len(odd)) > len(shapes):
        raise WeightsError(
            f"{len(lost) + len(odd)} of the {len(shapes)} tensors of a {backbone} would be a fresh model's",
            "use weights of that architecture",
        )
    afresh = fresh().state_dict() if lost or odd else {}
    state = {}
    for name in shapes:
        if name in afresh and (name in odd or name in lost):
            state[name] = afresh[name].clone()
        elif name in absent:
            state[name] = torch.zeros((), dtype=torch.int64)
        else:
            state[name] = _plain(found.tensors[name], found.keys.get(name, name), counter=name.endswith(_COUNTER))
    return state, [name for name in shapes if name in absent or name in odd]


def _plain(tensor: Tensor, key: str, *, counter: bool) -> Tensor:
    """A contiguous copy on the CPU: fp32, int64 for a counter."""
    dense = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta
    if not dense or not (tensor.is_floating_point() or counter):
        kind = str(tensor.dtype if dense else tensor.layout).removeprefix("torch.")
        raise WeightsError(
            f"{key} does not hold plain numbers ({kind})", "give the weights before quantisation or pruning"
        )
    wanted = torch.int64 if counter else torch.float32
    copy = tensor.detach().to("cpu", wanted, copy=True, memory_format=torch.contiguous_format)
    if not copy.isfinite().all():
        raise WeightsError(f"{key} holds NaN or infinity", "take a checkpoint from before the training diverged")
    return copy


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
        raise WeightsError(f"weights file {path} cannot be read ({why(error)})") from None
