from __future__ import annotations

import subprocess
import sys

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from hpt import encoder
from hpt.errors import WeightsError

DEPTHS = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]


def test_the_encoder_maps_images_to_pooled_features() -> None:
    model = encoder.build("resnet18", seed=0).eval()
    features = model(torch.zeros(3, 3, 40, 32))
    assert features.shape == (3, encoder.feature_dim("resnet18")) == (3, 512)


@pytest.mark.parametrize("backbone", DEPTHS)
def test_shapes_and_feature_dim_are_those_of_torchvision(backbone: str) -> None:
    with torch.device("meta"):
        theirs = getattr(torchvision.models, backbone)().state_dict()
    assert encoder.feature_dim(backbone) == theirs.pop("fc.weight").shape[1]
    del theirs["fc.bias"]
    assert dict(encoder.shapes(backbone)) == {key: value.shape for key, value in theirs.items()}


def test_the_state_dict_has_torchvisions_keys_without_the_classifier() -> None:
    theirs = torchvision.models.resnet18().state_dict().keys()
    ours = encoder.build("resnet18", seed=0).state_dict().keys()
    assert list(ours) == [key for key in theirs if not key.startswith("fc.")]


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_initial_weights_and_features_are_torchvisions_to_the_last_bit(backbone: str) -> None:
    ours = encoder.build(backbone, seed=3).eval()
    torch.manual_seed(3)
    theirs = getattr(torchvision.models, backbone)()
    theirs.fc = torch.nn.Identity()
    state = theirs.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in ours.state_dict().items())
    images = torch.randn(2, 3, 48, 40)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs.eval()(images))


@pytest.mark.slow
def test_a_worker_that_reads_its_images_and_weights_has_not_imported_torchvision_or_torchs_compiler() -> None:
    code = (
        "import sys, torch, hptctl.runs.worker\n"
        "from hpt import encoder\n"
        "from hpt.data.embedded import digits\n"
        "from hpt.sgd import SGD\n"
        "digits()\n"
        "encoder.detect(encoder.build('resnet18', seed=0).state_dict())\n"
        "layer = torch.nn.Linear(2, 2)\n"
        "sgd = SGD(layer.parameters(), momentum=0.9)\n"
        "layer(torch.ones(1, 2)).sum().backward()\n"
        "sgd.step(0.1)\n"
        "slow = {'torchvision', 'torch._dynamo', 'timm', 'huggingface_hub', 'mlflow', 'sklearn', 'scipy'}\n"
        "print(slow & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.stderr) == ("set()", "")


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = encoder.build("resnet18", seed=5).state_dict()
    torch.manual_seed(2)
    again = encoder.build("resnet18", seed=5).state_dict()
    other = encoder.build("resnet18", seed=6).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_building_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    encoder.build("resnet18", seed=7)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("backbone", DEPTHS)
def test_every_depth_is_detected_from_its_state(backbone: str) -> None:
    with torch.device("meta"):
        assert encoder.detect(getattr(torchvision.models, backbone)().state_dict()) == backbone


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnext50_32x4d", "a variant of resnet50"),
        ("wide_resnet50_2", "a variant of resnet50"),
        ("vit_b_16", "no ResNet in it"),
    ],
)
def test_other_architectures_of_torchvision_are_refused(name: str, said: str) -> None:
    with torch.device("meta"):
        state = getattr(torchvision.models, name)().state_dict()
    with pytest.raises(WeightsError, match=said):
        encoder.detect(state)


def test_a_depth_that_is_not_in_the_table_is_refused_with_its_blocks() -> None:
    with torch.device("meta"):
        state = timm.create_model("resnet26").state_dict()
    with pytest.raises(WeightsError, match=r"2\+2\+2\+2 bottleneck blocks is none of resnet18"):
        encoder.detect(state)


def test_rgb_weights_adapted_to_other_channels_see_the_same_in_equal_channels() -> None:
    rgb = encoder.build("resnet18", seed=0).eval()
    grey = torch.rand(2, 1, 32, 32)
    seen = rgb(grey.expand(-1, 3, -1, -1))
    for channels in (1, 2, 3, 5, 16):
        for how in ("repeat", "mean"):
            adapted = encoder.adapted(rgb.state_dict(), channels, how)
            model = encoder.build("resnet18", seed=1, channels=channels).eval()
            model.load_state_dict(dict(adapted))
            close = {"rtol": 1e-3, "atol": 1e-3}
            if how == "mean" or (channels % 3 in (0, 1) and channels < 4):
                torch.testing.assert_close(model(grey.expand(-1, channels, -1, -1)), seen, **close)
    theirs = timm.models._manipulate.adapt_input_conv(5, rgb.state_dict()["conv1.weight"])
    torch.testing.assert_close(encoder.adapted(rgb.state_dict(), 5)["conv1.weight"], theirs)


def test_weights_of_other_channels_are_left_as_they_are_and_adapted_to_no_others() -> None:
    five = encoder.build("resnet18", seed=0, channels=5).state_dict()
    assert encoder.detect(five) == "resnet18"
    assert encoder.adapted(five, 5) is five
    with pytest.raises(WeightsError, match="weights of a network of 5 channels, and the images have 3"):
        encoder.adapted(five, 3)


def test_an_unknown_backbone_gets_a_suggestion() -> None:
    with pytest.raises(WeightsError, match=r"unknown backbone 'resnet5' \(did you mean 'resnet50'\?\)"):
        encoder.build("resnet5", seed=0)


def test_batch_norms_lists_all_of_them_in_order() -> None:
    model = encoder.build("resnet18", seed=0)
    layers = encoder.batch_norms(model)
    assert len(layers) == 20
    assert layers[0] is model.bn1


@pytest.mark.parametrize("together", [1, 2, 4])
def test_groups_are_normalised_apart_and_running_statistics_are_their_mean(together: int) -> None:
    """As four processes would have it, each with BatchNorm of its own, which then average."""
    bn, alone = encoder.BatchNorm(3), [nn.BatchNorm2d(3) for _ in range(4)]
    bn.group, bn.groups = 6, 4
    batches = torch.randn(3, 24, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for step in batches:
        ours = torch.cat([bn(some) for some in step.split(6 * together)])
        theirs = torch.cat([each(some) for each, some in zip(alone, step.split(6), strict=True)])
        torch.testing.assert_close(ours, theirs)
        for name in ("running_mean", "running_var"):
            mean = torch.stack([getattr(each, name) for each in alone]).mean(dim=0)
            torch.testing.assert_close(getattr(bn, name), mean)
    assert bn.num_batches_tracked == 12
    images = torch.randn(5, 3, 4, 4)
    assert torch.equal(bn.eval()(images), F.batch_norm(images, bn.running_mean, bn.running_var, bn.weight, bn.bias))
