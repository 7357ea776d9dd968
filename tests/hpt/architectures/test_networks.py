"""Networks of timm as encoders: real ones, randomly initialised, on small images."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from hpt import encoder
from hpt.batch_norm import BatchNorm, ungrouped
from hpt.errors import ConfigError, WeightsError

SMALL = ["convnext_atto", "vit_tiny_patch16_224", "resnet26d", "efficientnet_lite0"]
FAMILIES = ["swin_tiny_patch4_window7_224", "regnetx_002", "mobilenetv3_small_050", "resnext50_32x4d"]
FAMILIES += [
    "vit_small_patch14_dinov2",
    "vit_base_patch32_clip_224",
    "deit_tiny_patch16_224",
    "vit_small_patch16_dinov3",
]


def size(name: str) -> int:
    return 56 if "patch14" in name else 64


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(each, marks=pytest.mark.slow) for each in FAMILIES)])
def test_an_encoder_is_timms_network_without_its_classifier(name: str) -> None:
    ours = encoder.build(name, seed=0, image_size=size(name)).eval()
    sized = {"img_size": size(name)} if timm.get_pretrained_cfg(name).fixed_input_size else {}
    theirs = timm.create_model(name, num_classes=0, **sized).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, size(name), size(name), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = ours(images)
        assert torch.equal(features, theirs(images))
    assert features.shape == (2, encoder.width(ours))
    assert set(encoder.layers(ours)) <= dict(ours.named_modules()).keys()
    assert encoder.is_transformer(ours) == name.startswith(("vit", "deit", "swin"))
    assert encoder.stems(ours, name)


def test_weights_depend_on_the_seed_alone_and_the_global_random_state_is_left_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = encoder.build("convnext_atto", seed=5).state_dict()
    assert torch.equal(torch.rand(3), expected)
    again, other = (encoder.build("convnext_atto", seed=seed).state_dict() for seed in (5, 6))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["stem.0.weight"], other["stem.0.weight"])


@pytest.mark.parametrize("name", ["efficientnet_lite0", "regnetx_002"])
def test_batch_norm_of_timm_normalises_in_groups_as_separate_processes_do(name: str) -> None:
    """With the activation behind it, which timm has in one module, and running statistics that are the groups' mean."""
    ours = encoder.build(name, seed=0, image_size=32)
    theirs = timm.create_model(name, num_classes=0)
    theirs.load_state_dict(ours.state_dict())
    apart = [copy.deepcopy(theirs).train() for _ in range(2)]
    for module in (module for each in apart for module in each.modules() if isinstance(module, nn.Dropout)):
        module.p = 0.0
    assert not ungrouped(ours)
    for norm in encoder.batch_norms(ours):
        norm.group, norm.groups = 4, 2
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = ours.train()(images)
        expected = torch.cat([each(part) for each, part in zip(apart, images.split(4), strict=True)])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    names = [name for name, module in ours.named_modules() if isinstance(module, BatchNorm)]
    for each in (names[0], names[-1]):
        statistics = [model.get_submodule(each).running_var for model in apart]
        mean = torch.stack(statistics).mean(dim=0)
        torch.testing.assert_close(ours.get_submodule(each).running_var, mean, atol=1e-4, rtol=1e-3)


def test_tokens_are_pooled_as_asked_for() -> None:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    models = {
        pooling: encoder.build("vit_tiny_patch16_224", seed=0, image_size=32, pooling=pooling).eval()
        for pooling in ("own", "class-token", "average", "both")
    }
    keys = [list(model.state_dict()) for model in models.values()]
    assert keys[0] == keys[1] == keys[2] == keys[3]
    with torch.no_grad():
        tokens = models["own"].forward_features(images)
        found = {pooling: model(images) for pooling, model in models.items()}
        copied = copy.deepcopy(models["both"])
        copied.load_state_dict(encoder.build("vit_tiny_patch16_224", seed=1, image_size=32).state_dict())
        other = copied(images)
    torch.testing.assert_close(found["own"], tokens[:, 0])
    torch.testing.assert_close(found["class-token"], tokens[:, 0])
    torch.testing.assert_close(found["average"], tokens[:, 1:].mean(dim=1))
    torch.testing.assert_close(found["both"], torch.cat([found["class-token"], found["average"]], dim=1))
    assert encoder.width(models["both"]) == 2 * 192
    assert not torch.allclose(other, found["both"]), "a copy computes with its own weights"
    for name in ("convnext_atto", "resnet18"):
        with pytest.raises(ConfigError, match=f"a {name} has no class token; use --set pooling=own"):
            encoder.build(name, seed=0, pooling="class-token")


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_weights_for_another_image_size_are_resized_by_timm(name: str) -> None:
    small = encoder.build(name, seed=0, image_size=64)
    large = encoder.build(name, seed=1, image_size=96)
    encoder.load(large, small.state_dict(), name)
    if name.startswith("vit"):
        state = small.state_dict()
        positions = timm.layers.resample_abs_pos_embed(state["pos_embed"], new_size=[6, 6], num_prefix_tokens=1)
        torch.testing.assert_close(large.state_dict()["pos_embed"], positions)
    same = encoder.build(name, seed=2, image_size=64)
    encoder.load(same, small.state_dict(), name)
    assert all(torch.equal(value, same.state_dict()[key]) for key, value in small.state_dict().items())


@pytest.mark.parametrize("name", ["convnext_atto", "vit_tiny_patch16_224", "resnet26d"])
def test_the_stem_is_adapted_to_other_channels(name: str) -> None:
    rgb = encoder.build(name, seed=0, image_size=32).eval()
    grey = encoder.build(name, seed=1, image_size=32, channels=1).eval()
    encoder.load(grey, rgb.state_dict(), name)
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(grey(images), rgb(images.expand(-1, 3, -1, -1)), atol=1e-4, rtol=1e-3)
    (key,) = encoder.stem_keys(name)
    five = encoder.loaded(name, rgb.state_dict(), channels=5, image_size=32)
    assert five.state_dict()[key].shape[1] == 5
    assert encoder.channels_of(five.state_dict(), name) == 5


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("convnext_tin", {}, WeightsError, r"unknown backbone 'convnext_tin' \(did you mean 'convnext_tiny'\?\)"),
        ("bert_base_uncased", {}, WeightsError, "unknown backbone 'bert_base_uncased'"),
        ("resnet26d.bt_in1k", {}, WeightsError, "'resnet26d.bt_in1k' names weights of the backbone resnet26d"),
        ("vit_tiny_patch16_224", {"image_size": 60}, ConfigError, "of 16 px, and 60 is none; --image-size 48 or 64"),
        ("vit_tiny_patch16_224", {"image_size": 10}, ConfigError, "--image-size 16"),
        ("convnext_atto", {"image_size": 8}, ConfigError, r"takes no images of 8 px .*own size is --image-size 224"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_one_line(name: str, options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        encoder.build(name, seed=0, **options)
    assert "\n" not in str(caught.value)


def test_norms_are_batch_norms_or_else_layer_norms() -> None:
    kinds = {name: encoder.norms(encoder.build(name, seed=0)) for name in ("resnet26d", "convnext_atto", "nf_resnet26")}
    assert {name: kind for name, (kind, _) in kinds.items()} == {
        "resnet26d": "BatchNorm", "convnext_atto": "LayerNorm", "nf_resnet26": "",
    }  # fmt: skip
    assert kinds["nf_resnet26"][1] == []


def test_layers_lie_deeper_the_later_they_come() -> None:
    for name in ("resnet18", "vit_tiny_patch16_224"):
        model = encoder.build(name, seed=0)
        depths = encoder.depths(model)
        assert depths.keys() == dict(model.named_parameters()).keys()
        assert [depths[key] for key in encoder.stem_keys(name)] == [0]
        assert depths[list(depths)[-1]] == max(depths.values()) > 5
