"""What a file holds that only looks like a ResNet of ours, told by its modules and shapes, and named.

Tensors that our network has no place for belong to modules that would be left out, and without these it computes
another function, without a word. So each tensor among an encoder's own must be one of a plain ResNet, and what lies
beside it must not belong into it. Of what leaves no tensor behind (blur pooling, another activation), a state dict
that PyTorch saved still has the names of the modules.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

_NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_PLAIN = re.compile(
    rf"(conv1\.weight|bn1\.{_NORM}|"
    rf"layer[1-4]\.\d+\.(conv[123]\.weight|bn[123]\.{_NORM}|downsample\.(0\.weight|1\.{_NORM})))"
)
"""The tensors of a plain ResNet of any depth."""

# What a tensor's name says of the module that it belongs to; the first that fits.
_MODULES = (
    (r"lora_|\.adapter", "adapters (LoRA)"),
    (r"\.weight_(orig|mask)$", "pruning masks"),
    (r"fake_quant|activation_post_process|zero_point|\.scale$", "quantisation"),
    (r"\.weight_[guv]$|parametrizations", "weights under another parametrisation"),
    (r"\.filt$|blur|antialias|\.aa\.", "anti-aliasing"),
    (r"\.(se|eca)\w*\.conv\.weight$|(^|\.)eca", "efficient channel attention (ECA)"),
    (r"(^|\.)(se|se_?module|se_?block|se_?layer|squeeze\w*)\d*\.", "squeeze-and-excitation (SE)"),
    (r"\.conv\d\.(paths|attn)\.", "selective kernels (SKNet)"),
    (r"\.conv2\.(bn0|fc1|fc2|bn1|radix)", "split attention (ResNeSt)"),
    (r"\.(convs|bns)\.", "split convolutions (Res2Net)"),
    (r"(^|\.)(cbam|bam|ca|sa|attn|attention|channel|spatial|simam|gc|gct|nl|non_?local|coord)\w*\.", "attention"),
    (r"offset|modulator|mask\.(weight|bias)$", "deformable convolutions"),
    (r"\.bn\d\.(IN|BN)\.", "instance norms (IBN)"),
    (r"^(conv1\.\d|conv[2-9]\.|stem\.|layer0\.)", "a deep stem (ResNet-C, ResNet-D)"),
    (r"^maxpool\.", "convolutions in place of its max-pooling"),
    (r"\.downsample\.2\.", "average pooling in its shortcuts (ResNet-D)"),
    (r"(^|\.)p?(relu|act|silu|gelu)\w*\.", "an activation that is learned (PReLU)"),
    (r"(^|\.)(conv\d|downsample\.0)\.bias$", "biases in its convolutions"),
    (r"gamma|alpha|layer_?scale|\.ls\d?\.|rezero|fixup", "scaled branches"),
)
_UNKNOWN = "modules that a plain ResNet does not have"

# Names that modules without tensors have; `aa` is not among them, since in timm it is there and does nothing.
_SILENT = (
    (r"^maxpool\.\d|blur|lpf|antialias", "anti-aliasing"),
    (r"(^|\.)(silu|swish|gelu|elu|selu|celu|mish|hard_?swish|leaky_?relu|tanh|softplus)\d*$", "another activation"),
    (r"(^|\.)(simam|parnet|triplet_?attention)\w*$", "attention"),
)

# Names of models whose tensors are those of a plain ResNet.
_NAMES = (
    (r"(?<![a-z])resnet_?(\d+_?)?(aa|blur|lpf)\d*d?(?![a-z])", "anti-aliasing"),
    (r"(?<![a-z])resnet\d+\w*?_(silu|swish|gelu|mish|elu|leaky_?relu|lrelu)(?![a-z])", "another activation"),
)

_NONE = "no ResNet in it"

# What else people have, by a name of a tensor of it.
_FAMILIES = (
    (r"res2_0_branch2a|res_conv1_bn", "a ResNet of Caffe2, under names of its own"),
    (r"conv2_block1_1_conv|block1/unit_1|group1/block0", "a ResNet of Keras or TensorFlow, under names of its own"),
    (r"stages\.0\.blocks\.0\.conv_dw|downsample_layers\.0", f"{_NONE}, but a ConvNeXt"),
    (r"stages\.0\.conv_exp", "a cross-stage partial network (CSPResNet)"),
    (r"stages\.0\.(blocks\.)?0\.(norm1|conv1)\.weight$|block1\.unit01", "a pre-activation ResNet (ResNet-v2, BiT)"),
    (r"stages\.0\.0\.conv1_(kxk|1x1)", "a relative of ResNets (a GENet, CLIP's or a ByobNet)"),
    (r"(^|\.)s1\.b1\.|trunk_output\.block1", f"{_NONE}, but a RegNet"),
    (r"level2\.tree1", f"{_NONE}, but a DLA"),
    (r"conv_stem\.weight", f"{_NONE}, but an EfficientNet or MobileNet"),
    (r"denseblock1", f"{_NONE}, but a DenseNet"),
    (r"(^|\.)(cls_token|patch_embed\.proj\.weight|class_token)$", f"{_NONE}, but a vision transformer"),
)  # fmt: skip


def foreign(inside: Mapping[str, Tensor], known: Collection[str] | None = None) -> list[str]:
    """The tensors of an encoder that a plain ResNet has no place for, or that are not `known`. A bias of zeros adds
    nothing, and converters write such."""
    out = []
    for name, tensor in inside.items():
        fits = _PLAIN.fullmatch(name) if known is None else name in known
        if not fits and not (re.search(r"(conv\d|downsample\.0)\.bias$", name) and not bool(tensor.any())):
            out.append(name)
    return out


def within(before: Sequence[str], beside: Sequence[str], after: Sequence[str]) -> list[str]:
    """The tensors beside an encoder that are part of it.

    Args:
        before: those that lie between its own, in a file that has them in the order in which they are used.
        beside: those of a file that has them in another order.
        after: those that follow its own.
    """
    by_name = [name for name in beside if re.match(r"(conv|bn|norm|layer|stage)\d+\.|(maxpool|p?relu|act)\d*\.", name)]
    by_name += [name for name in beside if re.match(r"(stem|se|eca|ca|sa|cbam|simam)\w?\.", name)]
    return [*before, *by_name, *(name for name in after if re.match(r"layer\d+\.", name))]


def described(names: Iterable[str]) -> str:
    """What the modules are that tensors of some names belong to: `squeeze-and-excitation (SE) and another stem`."""
    found = dict.fromkeys(
        next((what for pattern, what in _MODULES if re.search(pattern, name)), _UNKNOWN) for name in names
    )
    known = [what for what in found if what != _UNKNOWN]
    return " and ".join(known or found)


def silent(modules: Iterable[str]) -> str | None:
    """What modules without tensors do, where their names tell."""
    found = (what for module in modules for pattern, what in _SILENT if re.search(pattern, module.lower()))
    return next(found, None)


def named(path: Path, content: Any) -> tuple[str, str] | None:
    """The name of a model that no tensor tells from a plain ResNet, and what it has: from the file's name, from what
    lies in it, or from the `config.json` that the Hugging Face hub puts beside it."""
    said = [path.stem]
    if isinstance(content, Mapping):
        said += [content[key] for key in ("arch", "architecture", "model_name") if isinstance(content.get(key), str)]
    try:
        beside = json.loads(path.with_name("config.json").read_text(encoding="utf-8"))
        said.append(str(beside["architecture"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    for text in said:
        for pattern, what in _NAMES:
            if found := re.search(pattern, text.lower()):
                return found[0], what
    return None


def by_shapes(tensors: Mapping[str, Tensor]) -> str | None:
    """What the shapes of an encoder's tensors say that a plain ResNet's do not."""

    def shape(name: str) -> list[int]:
        return list(tensors[name].shape) if name in tensors else []

    found = []
    stem, conv, norm = shape("conv1.weight"), shape("layer1.0.conv2.weight"), shape("layer2.0.bn1.weight")
    if len(stem) == 4 and stem[2:] != [7, 7]:
        found.append(f"a stem of {stem[2]} x {stem[3]} instead of 7 x 7")
    if len(stem) == 4 and stem[0] != 64:
        found.append(f"a stem of {stem[0]} channels instead of 64")
    if len(conv) == 4 and conv[1] and conv[0] > conv[1]:
        found.append(f"convolutions in {conv[0] // conv[1]} groups (ResNeXt)")
    elif len(conv) == 4 and conv[0] != 64:
        found.append(f"convolutions of {conv[0]} channels instead of 64{' (a wide ResNet)' if conv[0] > 64 else ''}")
    into = shape("layer2.0.conv1.weight")
    if len(into) == 4 and len(norm) == 1 and norm[0] == into[1] != into[0]:
        found.append("norms before its convolutions (pre-activation)")
    return " and ".join(found) or None


def stranger(names: Sequence[str]) -> tuple[str, str]:
    """What a file is that has no encoder of ours, by the names of its tensors, and what to do about it."""
    take = "say which network of timm it is by --backbone NAME, or take the weights of a plain ResNet"
    for name in names:
        if "layer1.0." in name:
            prefix = name[: name.index("layer1.0.")]
            own = [each.removeprefix(prefix) for each in names if each.startswith(prefix)]
            odd = [each for each in own if re.match(r"(conv|stem|layer|bn|maxpool)", each)]
            odd = [each for each in odd if not _PLAIN.fullmatch(each)]
            what = f"with {described(odd)}" if odd else "without its first convolution"
            return f"a ResNet {what}", take
    for pattern, what in _FAMILIES:
        if any(re.search(pattern, name) for name in names):
            return what, take
    return _NONE, "say which network of timm it is: --backbone NAME"
