"""Backbones compared layer by layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_evaluation import config
from torch import Tensor

from hpt import encoder, layers
from hpt.data.dataset import Dataset
from hpt.evaluate import embeddings

CPU = torch.device("cpu")


def activations(dataset: Dataset, backbone: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return layers.activations(backbone, state, dataset.images, 32, CPU, lambda *_: None)


def test_the_last_layer_is_the_pooled_feature(dataset: Dataset, state: dict[str, Tensor]) -> None:
    found = activations(dataset, "resnet18", state)
    assert list(found) == ["stem", *(f"layer{i}.{j}" for i in range(1, 5) for j in range(2))]
    rows = dataset.splits["test"]
    features = embeddings.extract(config("knn"), dataset, state, ("test",), progress=lambda *_: None).features
    np.testing.assert_allclose(found["layer4.1"][rows], features, atol=1e-5)


def test_a_backbone_is_alike_to_itself_whatever_the_order_of_its_channels(
    dataset: Dataset, state: dict[str, Tensor]
) -> None:
    found = activations(dataset, "resnet18", state)
    other = activations(dataset, "resnet18", encoder.build("resnet18", seed=2).state_dict())
    order = torch.randperm(512, generator=torch.Generator().manual_seed(0))
    shuffled = found | {"layer4.1": found["layer4.1"][:, order]}
    itself = layers.similarity(found, shuffled)
    assert all(itself[name, name] == pytest.approx(1, abs=1e-6) for name in found)
    assert layers.similarity(found, other)["layer4.1", "layer4.1"] < 0.999


def test_architectures_may_differ(dataset: Dataset, state: dict[str, Tensor]) -> None:
    larger = activations(dataset, "resnet34", encoder.build("resnet34", seed=0).state_dict())
    found = layers.similarity(activations(dataset, "resnet18", state), larger)
    assert len(found) == 9 * 17
    beside = layers.side_by_side([x for x, y in found if y == "stem"], list(larger))
    assert beside["layer3"] == ("layer3.1", "layer3.5")
    assert list(beside) == ["stem", "layer1", "layer2", "layer3", "layer4"]
    assert layers.side_by_side(list(larger), list(larger))["layer3.2"] == ("layer3.2", "layer3.2")
    assert all(-0.2 < value <= 1.0001 for value in found.values())
