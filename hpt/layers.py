"""How alike two backbones are, layer by layer, on the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from hpt import augment, encoder
from hpt.callbacks import Progress
from hpt.data.images import Images
from hpt.data.loader import raw_batch
from hpt.evaluate.features import BATCH, frozen
from hpt.representation import cka_matrix


def activations(
    backbone: str, state: Mapping[str, Tensor], images: Images, size: int, device: torch.device, progress: Progress
) -> dict[str, Tensor]:
    """Outputs of each layer for the test views, averaged over the positions: `{"stem": [n, 64], "layer1.0": ...}`.

    The layers are the stem and each residual block, of which the last is the pooled feature. Averaging keeps a layer's
    channels and gives up where in the image they respond.
    """
    model = encoder.build(backbone, seed=0)
    model.load_state_dict(dict(state), strict=True)
    model.to(device)
    parts: dict[str, list[Tensor]] = {}

    def note(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        parts.setdefault(name, []).append(output.flatten(2).mean(dim=2).float().cpu())

    layers = {name: module for name, module in model.named_modules() if name in _names(model)}
    hooks = [module.register_forward_hook(partial(note, _titled(name))) for name, module in layers.items()]
    with frozen(model):
        for rows in torch.arange(len(images)).split(BATCH):
            raw = raw_batch(images, rows, device)
            model(augment.centre_view(raw, size, images.mean, images.std))
            progress(int(rows[-1]) + 1, len(images), "layers")
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(each) for name, each in parts.items()}


def similarity(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[tuple[str, str], float]:
    """Linear CKA of every layer of one backbone with every layer of another, on the same images.

    NaN where a layer says nothing of how images differ.

    Raises:
        HptError: fewer than four images.
    """
    values = cka_matrix(list(a.values()), list(b.values())).tolist()
    return {(x, y): value for x, row in zip(a, values, strict=True) for y, value in zip(b, row, strict=True)}


def side_by_side(a: Sequence[str], b: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The layers of two backbones that have the same place: the stem and each block, or where the two differ in their
    blocks, the stem and the last block of each stage: `{"layer1": ("layer1.1", "layer1.2"), ...}`."""
    if a == b:
        return {name: (name, name) for name in a}
    ends = [{name.partition(".")[0]: name for name in names} for names in (a, b)]
    return {stage: (ends[0][stage], ends[1][stage]) for stage in ends[0]}


def _names(model: nn.Module) -> list[str]:
    blocks = [name for name, _ in model.named_modules() if name.startswith("layer") and name.count(".") == 1]
    return ["maxpool", *blocks]


def _titled(name: str) -> str:
    return "stem" if name == "maxpool" else name
