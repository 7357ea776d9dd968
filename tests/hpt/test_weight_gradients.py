"""Convolutions in bf16 on a CPU: what they compute is autocast's, and what they learn is nearer to the truth."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_pretraining import SETTINGS, config, run
from torch import Tensor, nn

from hpt import encoder
from hpt.data.images import Images
from hpt.processes import Compute
from hpt.weight_gradients import WeightGradientsInFp32

CPU = Compute(torch.device("cpu"), bf16=True)
LAYERS = {
    "plain": {"kernel_size": 3},
    "without a bias": {"kernel_size": 3, "padding": 1, "bias": False},
    "strided, dilated, uneven": {"kernel_size": (3, 5), "stride": (2, 1), "padding": (0, 2), "dilation": 2},
    "in groups": {"kernel_size": 1, "groups": 4},
}


def backward(layer: nn.Conv2d, images: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """What a layer computes, and the gradients of a sum of it: of the images, and of the layer's parameters."""
    layer.zero_grad()
    images = images.detach().requires_grad_()
    found = layer(images)
    (found.to(weights.dtype) * weights).sum().backward()
    assert images.grad is not None
    return found.detach(), images.grad, [each.grad.clone() for each in layer.parameters() if each.grad is not None]


@pytest.mark.parametrize("options", LAYERS.values(), ids=LAYERS)
def test_outputs_are_autocasts_and_gradients_of_weights_are_nearer_to_the_truth(options: dict[str, object]) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 12, **options)  # type: ignore[arg-type]
    images = torch.randn(16, 8, 24, 20)
    weights = torch.randn(layer(images).shape)
    with torch.autocast("cpu", torch.bfloat16):
        usual = backward(layer, images, weights)
    with CPU.autocast():
        ours = backward(layer, images, weights)
    rounded = images.bfloat16().double()
    exact_layer = nn.Conv2d(8, 12, **options).double()  # type: ignore[arg-type]
    exact_layer.load_state_dict({name: value.bfloat16().double() for name, value in layer.state_dict().items()})
    exact = backward(exact_layer, rounded, weights.bfloat16().double())

    assert ours[0].dtype == torch.bfloat16
    assert torch.equal(ours[0], usual[0])
    assert torch.equal(ours[1], usual[1])
    for mine, autocasts, true in zip(ours[2], usual[2], exact[2], strict=True):
        assert mine.dtype == torch.float32
        error, of_autocast = ((each.double() - true).norm() / true.norm() for each in (mine, autocasts))
        assert error < 1e-5 < of_autocast


@pytest.mark.parametrize("case", ["frozen", "no gradient", "autocast is off", "double", "one image alone"])
def test_everything_else_is_left_as_it_was(case: str) -> None:
    torch.manual_seed(0)
    layer, images = nn.Conv2d(3, 4, 3, padding="same"), torch.randn(2, 3, 8, 8)
    if case == "frozen":
        layer.requires_grad_(False)
    if case == "double":
        layer, images = layer.double(), images.double()
    if case == "one image alone":
        images = images[0]

    def computed() -> Tensor:
        with torch.set_grad_enabled(case != "no gradient"):
            if case == "autocast is off":
                with torch.autocast("cpu", enabled=False):
                    return layer(images)  # type: ignore[no-any-return]
            return layer(images)  # type: ignore[no-any-return]

    for padding in ("same", 1):
        layer.padding = padding  # type: ignore[assignment]
        with torch.autocast("cpu", torch.bfloat16):
            usual = computed()
            with WeightGradientsInFp32():
                ours = computed()
        assert ours.dtype == usual.dtype
        assert torch.equal(ours, usual)
        assert str(ours.grad_fn).split(" ")[0] == str(usual.grad_fn).split(" ")[0]


@pytest.mark.parametrize("backbone", [pytest.param("resnet18", marks=pytest.mark.slow), "test_efficientnet"])
def test_a_pretraining_repeats_itself_also_where_it_computes_twice(
    backbone: str, images: Images, tmp_path: Path
) -> None:
    ended = []
    for name, again in (("first", False), ("second", False), ("again", True)):
        settings = config(
            backbone=backbone,
            precision="bf16",
            steps=2,
            gradient_checkpointing=again,
            moco=SETTINGS["moco"] | {"bn_group": 4, "micro_batch": 8},
        )
        ended.append(load_file(run(settings, images, tmp_path / name)[0].backbone))
    assert [name for name in ended[0] if not torch.equal(ended[0][name], ended[1][name])] == []
    assert [name for name in ended[0] if not torch.equal(ended[0][name], ended[2][name])] == []


def test_every_convolution_of_a_resnet_takes_part(images: Images) -> None:
    network = encoder.build("resnet18", seed=0)
    network.train()
    with CPU.autocast():
        found = network(torch.randn(4, 3, 32, 32))
    seen: set[object] = set()
    names: list[str] = []
    waiting = [found.grad_fn]
    while waiting:
        each = waiting.pop()
        if each is not None and each not in seen:
            seen.add(each)
            names.append(each.name())
            waiting += [following for following, _ in each.next_functions]
    assert names.count("_ConvolutionBackward") == sum(isinstance(each, nn.Conv2d) for each in network.modules())
    assert "ConvolutionBackward0" not in names
