"""Weights of networks of timm, as their authors' programs write them: timm, transformers, and those of papers."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hpt import encoder, weights
from hpt.errors import WeightsError

State = dict[str, Tensor]
VIT = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(VIT).eval()


@pytest.fixture(scope="module")
def convnext() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("convnext_atto").eval()


def prefixed(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def same(loaded: weights.Loaded, theirs: nn.Module, size: int, **close: float) -> bool:
    """Whether an encoder with these weights gives their features before the classifier."""
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    ours = encoder.loaded(loaded.backbone, loaded.state, image_size=size).eval()
    with torch.no_grad():
        expected = theirs.forward_head(theirs.forward_features(images), pre_logits=True)  # type: ignore[operator]
        found = ours(images)
    torch.testing.assert_close(found, expected, **(close or {"atol": 0, "rtol": 0}))
    return True


def test_a_file_of_timm_names_its_network(tmp_path: Path, vit: nn.Module, convnext: nn.Module) -> None:
    timm.models.save_for_hf(vit, str(tmp_path / "hub"), safe_serialization=True)
    loaded = weights.read(tmp_path / "hub" / "model.safetensors")
    assert loaded.backbone == VIT
    assert loaded.image_size == 224
    assert loaded.dialect == "timm"
    assert loaded.ignored == ("head.bias", "head.weight")
    assert loaded.unexpected == loaded.missing == ()
    assert same(loaded, vit, 224)
    torch.save({"arch": "convnext_atto", "state_dict": convnext.state_dict(), "epoch": 1}, tmp_path / "last.pth.tar")
    loaded = weights.read(tmp_path / "last.pth.tar")
    assert (loaded.backbone, loaded.matched) == ("convnext_atto", loaded.expected)
    assert same(loaded, convnext, 64)
    assert loaded.oddities() == []


WRAPPERS: dict[str, Any] = {
    "bare": lambda s: s,
    "DataParallel": lambda s: {"state_dict": prefixed("module.", s)},
    "Lightning": lambda s: {"pytorch-lightning_version": "2.1", "state_dict": prefixed("model.backbone.", s)},
    "DINO": lambda s: {
        "student": prefixed("module.backbone.", s) | {"module.head.mlp.0.weight": torch.ones(2, 2)},
        "teacher": prefixed("backbone.", {key: value + 1 for key, value in s.items()}),
    },
    "DINOv2, the teacher alone": lambda s: {"teacher": prefixed("backbone.", s) | {"dino_head.weight": torch.ones(2)}},
    "MoCo-v3": lambda s: {
        "arch": "vit_tiny",
        "state_dict": prefixed("module.base_encoder.", s)
        | prefixed("module.momentum_encoder.", {key: value + 1 for key, value in s.items()})
        | {"module.predictor.0.weight": torch.ones(2, 2), "module.base_encoder.head.0.weight": torch.ones(2, 2)},
    },
    "MAE": lambda s: {
        "model": s | {"mask_token": torch.ones(1, 1, 4), "decoder_embed.weight": torch.ones(2, 2),
                      "decoder_blocks.0.norm1.weight": torch.ones(4), "decoder_pos_embed": torch.ones(1, 4, 4)}
    },
}  # fmt: skip


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_encoder_is_found_in_what_methods_save(tmp_path: Path, wrapper: str, vit: nn.Module) -> None:
    state = {key: value for key, value in vit.state_dict().items() if not key.startswith("head.")}
    torch.save(WRAPPERS[wrapper](state), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="--backbone NAME"):
        weights.read(tmp_path / "w.pth")
    loaded = weights.read(tmp_path / "w.pth", backbone=VIT)
    assert all(torch.equal(value, loaded.state[key]) for key, value in state.items())
    assert loaded.unexpected == ()
    assert loaded.matched == loaded.expected == len(state)


def clip(vit: nn.Module) -> State:
    """OpenAI's names of a ViT, beside a text model's (github.com/openai/CLIP, clip/model.py)."""
    out: State = {"token_embedding.weight": torch.ones(4, 4), "logit_scale": torch.ones(())}
    rules = [(r"patch_embed\.proj", "conv1"), (r"^pos_embed$", "positional_embedding"),
             (r"^cls_token$", "class_embedding"),
             (r"^norm_pre\.", "ln_pre."), (r"^norm\.", "ln_post."), (r"^blocks\.", "transformer.resblocks."),
             (r"attn\.qkv\.", "attn.in_proj_"), (r"attn\.proj", "attn.out_proj"), (r"\.norm(\d)", r".ln_\1"),
             (r"mlp\.fc1", "mlp.c_fc"), (r"mlp\.fc2", "mlp.c_proj")]  # fmt: skip
    for key, value in vit.state_dict().items():
        if key.startswith("head."):
            continue
        for pattern, name in rules:
            key = re.sub(pattern, name, key)
        flat = {"class_embedding": value.flatten(), "positional_embedding": value.reshape(-1, value.shape[-1])}
        out[f"visual.{key}"] = flat.get(key, value)
    return out | {"visual.proj": torch.ones(768, 512)}


@pytest.mark.slow
def test_clips_image_tower_is_read_and_its_text_model_left(tmp_path: Path) -> None:
    name = "vit_base_patch32_clip_224"
    theirs = timm.create_model(name, num_classes=0).eval()
    torch.save(clip(theirs), tmp_path / "clip.pt")
    loaded = weights.read(tmp_path / "clip.pt", backbone=name)
    assert loaded.dialect == "CLIP"
    assert loaded.unexpected == ("token_embedding.weight", "logit_scale")
    assert same(loaded, theirs, 224)


@pytest.mark.slow
def test_dinov2s_own_files_are_for_518_px_and_serve_smaller_images(tmp_path: Path) -> None:
    name = "vit_small_patch14_dinov2"
    theirs = timm.create_model(name, num_classes=0).eval()
    torch.save(theirs.state_dict() | {"mask_token": torch.zeros(1, 384)}, tmp_path / "dinov2.pth")
    loaded = weights.read(tmp_path / "dinov2.pth", backbone=name)
    assert loaded.image_size == 518
    assert loaded.ignored == ("mask_token",)
    small = timm.create_model(name, num_classes=0, img_size=56, pretrained=True,
                              pretrained_cfg_overlay={"state_dict": theirs.state_dict()}).eval()  # fmt: skip
    assert same(loaded, small, 56, atol=1e-5, rtol=1e-5)


def transformers_model(kind: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        import transformers
    torch.manual_seed(0)
    # timm's eps of LayerNorm, where transformers has 1e-12: of random weights, whose activations are small, it shows.
    small = {
        "layer_norm_eps": 1e-6,
        "hidden_size": 192,
        "num_hidden_layers": 12,
        "num_attention_heads": 3,
        "intermediate_size": 768,
    }
    if kind == "vit":
        model = transformers.ViTModel(transformers.ViTConfig(**small), add_pooling_layer=True)
    elif kind == "dinov2":
        config = transformers.Dinov2Config(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=56,
                                           patch_size=14)  # fmt: skip
        model = transformers.Dinov2Model(config)
    else:
        config = transformers.ResNetConfig(depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], layer_type="basic")
        model = transformers.ResNetModel(config)
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vit", "resnet", "dinov2"])
def test_a_model_of_transformers_gives_the_same_features_here(kind: str, tmp_path: Path) -> None:
    model = transformers_model(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(tmp_path)
    loaded = weights.read(tmp_path / "model.safetensors")
    assert loaded.backbone == {"vit": VIT, "resnet": "resnet18", "dinov2": "vit_small_patch14_dinov2"}[kind]
    assert loaded.dialect == "transformers"
    assert loaded.matched == loaded.expected
    assert [key for key in loaded.unexpected if "pooler" not in key] == []
    size = {"vit": 224, "resnet": 64, "dinov2": 56}[kind]
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    ours = encoder.loaded(loaded.backbone, loaded.state, image_size=size).eval()
    with torch.no_grad():
        out = model(images)
        theirs = out.last_hidden_state[:, 0] if kind != "resnet" else out.pooler_output.flatten(1)
        torch.testing.assert_close(ours(images), theirs, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", [VIT, pytest.param("swin_tiny_patch4_window7_224", marks=pytest.mark.slow)])
def test_our_own_file_says_its_network_and_its_size(tmp_path: Path, name: str) -> None:
    for size in (32, 64):
        model = encoder.build(name, seed=3, image_size=size)
        weights.save(
            model.state_dict(), tmp_path / "b.safetensors", metadata={"backbone": name, "image_size": str(size)}
        )
        loaded = weights.read(tmp_path / "b.safetensors")
        assert (loaded.backbone, loaded.image_size, loaded.dialect) == (name, size, "hptctl")
        assert all(torch.equal(value, loaded.state[key]) for key, value in model.state_dict().items())


@pytest.mark.slow
def test_weights_of_other_sizes_are_refused_in_one_line(tmp_path: Path, vit: nn.Module, convnext: nn.Module) -> None:
    state = vit.state_dict()
    torch.save(state, tmp_path / "w.pth")
    torch.save(convnext.state_dict(), tmp_path / "c.pth")
    last = {key: value for key, value in state.items() if "blocks.11." in key}
    deeper = state | {key.replace("blocks.11.", "blocks.12."): value for key, value in last.items()}
    torch.save(deeper, tmp_path / "deeper.pth")
    shallow = {key: value for key, value in state.items() if key not in last}
    torch.save(shallow, tmp_path / "shallow.pth")
    for file, name, message in (
        ("w.pth", "vit_small_patch16_224", r"has shape \[1, 1, 192\], in a vit_small_patch16_224 it is \[1, 1, 384\]"),
        ("w.pth", "convnext_atto", "no convnext_atto in it"),
        ("c.pth", "convnext_femto", "in a convnext_femto it is"),
        ("deeper.pth", VIT, f"it is no {VIT}: that has no place for blocks.12."),
        ("shallow.pth", VIT, "missing: blocks.11."),
        ("w.pth", "resnet18", "no ResNet in it"),
    ):
        with pytest.raises(WeightsError, match=message) as caught:
            weights.read(tmp_path / file, backbone=name)
        assert "\n" not in str(caught.value)
    loaded = weights.read(tmp_path / "shallow.pth", backbone=VIT, allow_partial=True)
    assert len(loaded.missing) == 12


def test_an_architecture_that_timm_does_not_have_is_not_believed(tmp_path: Path, convnext: nn.Module) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "convnext_from_nowhere"}))
    save_file(convnext.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="but a ConvNeXt; say which network of timm it is by --backbone NAME"):
        weights.read(tmp_path / "model.safetensors")
