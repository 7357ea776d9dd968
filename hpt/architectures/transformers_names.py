"""What Hugging Face's transformers calls the tensors of ViTs and DINOv2, of its versions 4 and 5, and timm's names."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

MARK = "embeddings.patch_embeddings.projection.weight"
"""The tensor by which the layout is known."""

_BLOCK = r"^(?:encoder\.)?layers?\.(\d+)\."
_VIT = (
    (re.compile(r"^embeddings\.cls_token$"), "cls_token"),
    (re.compile(r"^embeddings\.position_embeddings$"), "pos_embed"),
    (re.compile(r"^embeddings\.register_tokens$"), "register_tokens"),
    (re.compile(r"^embeddings\.mask_token$"), "mask_token"),
    (re.compile(r"^embeddings\.patch_embeddings\.projection\.(\w+)$"), r"patch_embed.proj.\1"),
    (re.compile(_BLOCK + r"(?:layernorm_before|norm1)\.(\w+)$"), r"blocks.\1.norm1.\2"),
    (re.compile(_BLOCK + r"(?:layernorm_after|norm2)\.(\w+)$"), r"blocks.\1.norm2.\2"),
    (re.compile(_BLOCK + r"attention\.(?:attention\.query|q_proj)\.(\w+)$"), r"blocks.\1.attn.q.\2"),
    (re.compile(_BLOCK + r"attention\.(?:attention\.key|k_proj)\.(\w+)$"), r"blocks.\1.attn.k.\2"),
    (re.compile(_BLOCK + r"attention\.(?:attention\.value|v_proj)\.(\w+)$"), r"blocks.\1.attn.v.\2"),
    (re.compile(_BLOCK + r"attention\.(?:output\.dense|o_proj)\.(\w+)$"), r"blocks.\1.attn.proj.\2"),
    (re.compile(_BLOCK + r"(?:intermediate\.dense|mlp\.fc1)\.(\w+)$"), r"blocks.\1.mlp.fc1.\2"),
    (re.compile(_BLOCK + r"(?:output\.dense|mlp\.fc2)\.(\w+)$"), r"blocks.\1.mlp.fc2.\2"),
    (re.compile(_BLOCK + r"layer_scale(\d)\.lambda1$"), r"blocks.\1.ls\2.gamma"),
    (re.compile(r"^layernorm\.(\w+)$"), r"norm.\1"),
)
_SIZES = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge"}


def renamed(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by timm's names, with queries, keys and values in one, as timm has them; what has no such name is left
    out."""
    found: dict[str, Tensor] = {}
    for key, value in theirs.items():
        rule = next(((pattern, name) for pattern, name in _VIT if pattern.match(key)), None)
        if rule is not None:
            found[rule[0].sub(rule[1], key)] = value
    for key in [key for key in found if ".attn.q." in key]:
        parts = [key.replace(".attn.q.", f".attn.{which}.") for which in "qkv"]
        if all(part in found for part in parts):
            found[key.replace(".attn.q.", ".attn.qkv.")] = torch.cat([found.pop(part) for part in parts])
    return found


def guessed(ours: Mapping[str, Tensor]) -> str | None:
    """timm's name of the network that tensors by timm's names are of, by its width and patches; None where they do not
    tell."""
    patch, positions = ours.get("patch_embed.proj.weight"), ours.get("pos_embed")
    if patch is None or positions is None or patch.ndim != 4 or patch.shape[0] not in _SIZES:
        return None
    size, side = _SIZES[patch.shape[0]], patch.shape[2]
    if any(key.endswith("ls1.gamma") for key in ours):
        registers = "_reg4" if "register_tokens" in ours else ""
        return f"vit_{size}_patch{side}{registers}_dinov2"
    pixels = side * round((positions.shape[1] - 1) ** 0.5)
    return f"vit_{size}_patch{side}_{384 if pixels == 384 else 224}"
