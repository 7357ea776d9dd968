"""The similarity of two backbones, layer by layer, on the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from hpt import encoder
from hpt.callbacks import Progress
from hpt.data.images import Images
from hpt.evaluate.features import load_backbone, outputs
from hpt.processes import Compute
from hpt.representation import cka_matrix


def activations(
    backbone: str, state: Mapping[str, Tensor], images: Images, size: int, device: torch.device, progress: Progress
) -> dict[str, Tensor]:
    """The outputs of each layer for the test views, averaged over positions: `{"stem": [n, 64], "layer1.0": ...}`.

    The layers are the stem and each residual block, the last of which gives the pooled feature; of a network of timm
    those of its own table of features, such as the stages of a ConvNeXt or the blocks of a ViT. Averaging keeps a
    layer's channels and discards where in the image they respond. Computed in fp32 on every device.
    """
    model = load_backbone(backbone, state, device, channels=images.form.channels, image_size=size)
    parts: dict[str, list[Tensor]] = {}

    def note(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        parts.setdefault(name, []).append(_channels(output, last=channels_last).float().cpu())

    channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
    modules = dict(model.named_modules())
    hooks = [modules[name].register_forward_hook(partial(note, title)) for title, name in encoder.layers(model).items()]
    outputs(model, images, size, Compute(device, bf16=False), progress, "layers")
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(each) for name, each in parts.items()}


def similarity(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[tuple[str, str], float]:
    """Linear CKA of every layer of one backbone with every layer of another, on the same images.

    It is NaN where a layer does not tell images apart.

    Raises:
        HptError: there are fewer than four images.
    """
    values = cka_matrix(list(a.values()), list(b.values())).tolist()
    return {(x, y): value for x, row in zip(a, values, strict=True) for y, value in zip(b, row, strict=True)}


def side_by_side(a: Sequence[str], b: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The layers of two backbones that correspond: the stem and each block, or, where the numbers of blocks differ, the
    stem and the last block of each stage: `{"layer1": ("layer1.1", "layer1.2"), ...}`; of two families those that lie
    equally deep."""
    if a == b:
        return {name: (name, name) for name in a}
    ends = [{name.partition(".")[0]: name for name in names} for names in (a, b)]
    if len(ends[0]) > 1 and ends[0].keys() == ends[1].keys():
        return {stage: (ends[0][stage], ends[1][stage]) for stage in ends[0]}
    fewer = min(len(a), len(b))
    places = [tuple(round(i * (len(names) - 1) / max(fewer - 1, 1)) for i in range(fewer)) for names in (a, b)]
    pairs = [(a[i], b[j]) for i, j in zip(*places, strict=True)]
    return {f"{x} and {y}" if x != y else x: (x, y) for x, y in pairs}


def _channels(output: Tensor, *, last: bool) -> Tensor:
    """[n, C, h, w], [n, h, w, C] where the channels come last, or [n, tokens, C] -> [n, C], the mean over positions."""
    if output.ndim == 3:
        return output.mean(dim=1)
    if output.ndim == 2:
        return output
    return output.mean(dim=(1, 2)) if last else output.flatten(2).mean(dim=2)
