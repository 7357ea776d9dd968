"""Gradient checkpointing: the backward pass computes again what was not kept, and all else stays the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_evaluation import config as evaluation
from small_evaluation import run as evaluate
from small_pretraining import SETTINGS, config, run
from torch import Tensor, nn

from hpt import encoder
from hpt.data.dataset import Dataset
from hpt.data.images import Images
from hpt.errors import ConfigError


@pytest.mark.parametrize(
    "backbone",
    [
        "resnet18",
        "test_efficientnet",  # with an activation in its BatchNorm
        "test_vit",
        pytest.param("convnext_atto", marks=pytest.mark.slow),
        pytest.param("resnet26d", marks=pytest.mark.slow),
        pytest.param("densenet121", marks=pytest.mark.slow),
    ],
)
def test_a_pretraining_ends_in_the_same_bits(backbone: str, images: Images, tmp_path: Path) -> None:
    logged, ended = [], []
    for again in (False, True):
        settings = config(
            backbone=backbone,
            steps=1,
            gradient_checkpointing=again,
            moco=SETTINGS["moco"] | {"bn_group": 4, "micro_batch": 8},
        )
        outcome, each = run(settings, images, tmp_path / str(again))
        logged.append([{name: value for name, value in row.items() if name != "images_per_second"} for row in each])
        ended.append(load_file(outcome.backbone))
    assert logged[0] == logged[1]
    assert not [name for name, value in ended[0].items() if not torch.equal(value, ended[1][name])]


def test_a_finetuning_ends_in_the_same_bits(dataset: Dataset, state: dict[str, Tensor], tmp_path: Path) -> None:
    ended = []
    for again in (False, True):
        tune = {"schedule": "2-steps", "batch_size": 16, "micro_batch": 8, "gradient_checkpointing": again}
        evaluate(evaluation("finetune", finetune=tune), dataset, state, tmp_path / str(again))
        ended.append(load_file(tmp_path / str(again) / "model.safetensors"))
    assert not [name for name, value in ended[0].items() if not torch.equal(value, ended[1][name])]


def peak(model: nn.Module, images: Tensor) -> int:
    """The most bytes that a forward and a backward pass have at a time, beside what was there before."""
    model(images).sum().backward()  # gradients are there
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        model(images).sum().backward()
    events = [each for each in profiler.profiler.kineto_results.events() if each.name() == "[memory]"]
    now = most = 0
    for each in sorted(events, key=lambda event: event.start_ns()):
        now += each.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize(
    ("backbone", "share"),
    [
        ("resnet18", 0.6),
        pytest.param("vit_tiny_patch16_224", 0.4, marks=pytest.mark.slow),
        pytest.param("efficientnet_lite0", 0.6, marks=pytest.mark.slow),
    ],
)
def test_a_step_takes_less_memory(backbone: str, share: float) -> None:
    model = encoder.build(backbone, seed=0, image_size=64)
    images = torch.rand(32, 3, 64, 64)
    kept = peak(model, images)
    encoder.recompute(model, backbone)
    assert peak(model, images) < share * kept


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("levit_128s", "a levit_128s cannot be computed twice: .* would count a batch twice; do without"),
        ("pit_ti_224", "timm has no gradient checkpointing for a pit_ti_224; do without"),
    ],
)
def test_a_network_that_cannot_is_refused_in_one_line(backbone: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        encoder.recompute(encoder.build(backbone, seed=0), backbone)
