"""Networks that only look like a ResNet of ours are refused by name; what lies beside one of ours does no harm."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from hpt import encoder, weights
from hpt.errors import WeightsError

State = OrderedDict[str, Tensor]


def small(shape: torch.Size | tuple[int, ...], value: float = 0.01) -> Tensor:
    """A tensor of any shape that takes four bytes in a file."""
    return torch.full((1,), value).expand(shape) if len(shape) else torch.zeros((), dtype=torch.int64)


def of_timm(name: str) -> State:
    """A model's state dict with the names of its modules, as `torch.save(model.state_dict())` has it."""
    with torch.device("meta"):
        state = timm.create_model(name, pretrained=False).state_dict()
    copy = OrderedDict((key, small(value.shape)) for key, value in state.items())
    copy._metadata = state._metadata  # type: ignore[attr-defined]
    return copy


def plain(prefix: str = "", backbone: str = "resnet18") -> State:
    return OrderedDict((prefix + key, small(shape)) for key, shape in encoder.shapes(backbone).items())


def said(path: Path, content: object, **options: bool) -> str:
    torch.save(content, path)
    with pytest.raises(WeightsError) as caught:
        weights.read(path, **options)
    assert caught.value.fix
    assert "\n" not in str(caught.value)
    return str(caught.value)


QUICK = [
    ("seresnet18", "a ResNet with squeeze-and-excitation"),
    ("resnet18d", "a ResNet with a deep stem"),
    ("resnetblur18", "a ResNet with anti-aliasing"),
    ("skresnet18", "selective kernels"),
    ("resnext50_32x4d", "convolutions in 32 groups (ResNeXt)"),
    ("resnetv2_18", "a pre-activation ResNet"),
]
SLOW = [
    ("legacy_seresnet18", "squeeze-and-excitation"),
    ("ecaresnetlight", "efficient channel attention (ECA) and average pooling in its shortcuts (ResNet-D)"),
    ("resnet50c", "a ResNet with a deep stem"),
    ("resnetrs50", "convolutions in place of its max-pooling and squeeze-and-excitation"),
    ("resnest14d", "split attention"),
    ("res2net50_26w_4s", "split convolutions (Res2Net)"),
    ("wide_resnet50_2", "convolutions of 128 channels instead of 64 (a wide ResNet)"),
    ("resnet50_gn", "group norms"),
    ("gernet_s", "a relative of ResNets"),
    (
        "regnety_002",
        "no ResNet in it (its tensors are stem.conv.weight, stem.bn.weight, stem.bn.bias and 315 more), but a RegNet",
    ),
]


@pytest.mark.parametrize(("name", "words"), [*QUICK, *(pytest.param(*each, marks=pytest.mark.slow) for each in SLOW)])
def test_a_relative_of_a_resnet_in_timm_is_refused_by_what_it_has(tmp_path: Path, name: str, words: str) -> None:
    state = of_timm(name)
    told = said(tmp_path / "w.pth", state)
    assert words in told
    assert "plain" in told


@pytest.mark.parametrize("prefix", ["model.", "module.encoder_q."])
def test_a_wrapper_hides_nothing_of_it(tmp_path: Path, prefix: str) -> None:
    for name, words in (("seresnet18", "squeeze-and-excitation"), ("resnet18d", "a deep stem")):
        state = {prefix + key: value for key, value in of_timm(name).items()}
        assert words in said(tmp_path / "w.ckpt", {"state_dict": state, "epoch": 3})


def test_what_no_tensor_shows_is_told_by_a_name(tmp_path: Path) -> None:
    """timm's resnetaa50 has average pooling where resnet50 has strides, and equal names of tensors and modules."""
    state = of_timm("resnetaa50")
    assert "by its name it is a resnetaa50, a ResNet with anti-aliasing" in said(tmp_path / "resnetaa50_a1h.pth", state)
    torch.save({"arch": "resnetaa50", "state_dict": state}, tmp_path / "best.pth.tar")
    assert weights.read(tmp_path / "best.pth.tar").backbone == "resnetaa50"  # as timm's own network of that name
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "config.json").write_text(json.dumps({"architecture": "resnetaa50"}))
    torch.save(state, tmp_path / "hub" / "pytorch_model.bin")
    assert weights.read(tmp_path / "hub" / "pytorch_model.bin").backbone == "resnetaa50"
    with pytest.raises(WeightsError, match="a ResNet with anti-aliasing"):
        weights.read(tmp_path / "hub" / "pytorch_model.bin", backbone="resnet50")
    torch.save(state, tmp_path / "resnet50_aaron.pth")
    (tmp_path / "config.json").write_text("[1")
    assert weights.read(tmp_path / "resnet50_aaron.pth").whole


EXTRA: dict[str, tuple[State, str]] = {
    "an SE module in one block": (OrderedDict({"layer4.1.se.fc.0.weight": small((4, 512))}), "squeeze-and-excitation"),
    "CBAM's channel gate, whose layers are called mlp": (
        OrderedDict({"layer1.0.cbam.ChannelGate.mlp.1.weight": small((4, 64))}), "attention"),
    "a PReLU": (OrderedDict({"layer1.0.relu.weight": small((1,))}), "PReLU"),
    "LoRA": (OrderedDict({"layer1.0.conv1.lora_A": small((4, 64))}), "adapters"),
    "biases": (OrderedDict({"layer1.0.conv1.bias": small((64,))}), "biases in its convolutions"),
    "a deeper layer": (OrderedDict({"layer5.0.conv1.weight": small((4, 4, 1, 1))}), "modules that a plain ResNet does"),
    "a third convolution in one basic block": (
        OrderedDict({"layer2.0.conv3.weight": small((128, 128, 1, 1))}), "modules that a plain resnet18 does not"),
    "a blur": (OrderedDict({"layer2.0.downsample.0.filt": small((64, 1, 3, 3))}), "anti-aliasing"),
}  # fmt: skip


@pytest.mark.parametrize("what", EXTRA)
def test_a_module_that_has_no_place_in_ours_is_refused(tmp_path: Path, what: str) -> None:
    extra, words = EXTRA[what]
    words = words.replace("resnet18 does not", "ResNet does not")
    for prefix in ("", "module.encoder_q."):
        content = {"state_dict": plain(prefix) | {prefix + key: value for key, value in extra.items()}}
        told = said(tmp_path / "w.pth", content)
        assert words in told
        assert prefix + next(iter(extra)) in told
    assert words in said(tmp_path / "w.pth", plain() | extra, allow_partial=True)


def test_what_lies_between_the_layers_is_refused_and_what_follows_them_is_not(tmp_path: Path) -> None:
    gates = {"ca.fc1.weight": small((4, 64, 1, 1)), "sa.conv.weight": small((1, 2, 7, 7))}
    keys = list(plain().items())
    between = OrderedDict([*keys[:6], *gates.items(), *keys[6:]])
    assert "a ResNet with attention" in said(tmp_path / "w.pth", between)
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file({key: value.contiguous() for key, value in between.items()}, path)
    with pytest.raises(WeightsError, match="a ResNet with attention"):
        weights.read(path)
    decoder = {"decoder.0.weight": small((4, 4)), "conv2.weight": small((4, 4, 1, 1)), "up.weight": small((4,))}
    torch.save(plain() | decoder, tmp_path / "unet.pth")
    assert weights.read(tmp_path / "unet.pth").unexpected == tuple(decoder)


class Doubled(nn.Module):
    """A ResNet's names with another activation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.silu = nn.Conv2d(3, 64, 7, bias=False), nn.SiLU()


def test_another_activation_is_told_by_the_names_of_modules(tmp_path: Path) -> None:
    state = plain()
    state._metadata = OrderedDict(Doubled().state_dict()._metadata)  # type: ignore[attr-defined]
    assert "a ResNet with another activation" in said(tmp_path / "w.pth", state)


def test_shapes_of_other_stems_and_orders_are_named(tmp_path: Path) -> None:
    assert "a stem of 3 x 3 instead of 7 x 7" in said(
        tmp_path / "w.pth", plain() | {"conv1.weight": small((64, 3, 3, 3))}
    )
    before = plain() | {f"layer2.0.bn1.{key}": small((64,)) for key in ("weight", "bias", "running_mean")}
    assert "norms before its convolutions (pre-activation)" in said(tmp_path / "w.pth", before)


BESIDE: dict[str, Callable[[], object]] = {
    "heads, prototypes and a queue": lambda: plain() | {
        "fc.weight": small((10, 512)), "head.mlp.0.weight": small((4, 4)), "prototypes.weight": small((4, 4)),
        "queue": small((128, 64)), "queue_ptr": torch.zeros(1), "projector.0.weight": small((4, 4))},
    "DINO: a head with normalised weights": lambda: {
        "student": plain("module.backbone.") | {"module.head.last_layer.weight_g": small((4, 1)),
                                                "module.head.last_layer.weight_v": small((4, 4))},
        "teacher": plain("backbone."), "dino_loss": {"center": small((1, 4))}},
    "Lightning with an optimizer": lambda: {
        "pytorch-lightning_version": "2.0", "state_dict": plain("model.") | {"criterion.weight": small((3,))},
        "optimizer_states": [{"state": {0: {"exp_avg": small((3,))}}}]},
    "EMA beside the model": lambda: {"state_dict_ema": plain(), "state_dict": plain(), "optimizer": {"state": {}}},
    "an optimizer's moments by name, first": lambda: {
        "exp_avg": OrderedDict((k, v) for k, v in plain().items() if "running" not in k), "model": plain()},
    "no step counters": lambda: OrderedDict((k, v) for k, v in plain().items() if not k.endswith("tracked")),
    "biases of zeros": lambda: plain() | {"layer1.0.conv1.bias": small((64,), 0.0)},
    "an FPN after the body": lambda: plain("backbone.body.") | {"backbone.fpn.inner_blocks.0.0.weight": small((4, 4))},
    "names of input statistics": lambda: OrderedDict({"mean": small((3,)), "std": small((3,))}) | plain(),
    "nn.Sequential": lambda: OrderedDict(
        (k.replace("conv1", "0", 1) if k.startswith("conv1") else k.replace("bn1", "1", 1) if k.startswith("bn1")
         else f"{int(k[5]) + 3}{k[6:]}", v) for k, v in plain().items()) | {"9.weight": small((10, 512))},
}  # fmt: skip


@pytest.mark.parametrize("what", BESIDE)
def test_what_does_not_change_the_function_does_not_matter(tmp_path: Path, what: str) -> None:
    torch.save(BESIDE[what](), tmp_path / "w.pth")
    loaded = weights.read(tmp_path / "w.pth")
    assert loaded.backbone == "resnet18"
    assert loaded.whole
    assert "optimizer" not in loaded.dialect
