"""The floor: a network that was never trained, with the images' own statistics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_evaluation import config

from hpt import encoder
from hpt.config import DataConfig
from hpt.data.dataset import Dataset, load
from hpt.errors import ConfigError
from hpt.evaluate.features import backbone_under_test, embed
from hpt.floor import untrained
from hpt.processes import Compute


def silent(*_: object) -> None:
    pass


def test_an_untrained_network_is_random_weights_with_the_statistics_of_the_images(dataset: Dataset) -> None:
    found = untrained(config("knn", seed=3), dataset, silent)
    drawn = encoder.build("resnet18", seed=3).state_dict()
    assert found.keys() == drawn.keys()
    moved = {key for key, value in drawn.items() if not torch.equal(value, found[key])}
    assert moved == {key for key in drawn if key.endswith(("running_mean", "running_var", "num_batches_tracked"))}


def test_it_is_the_same_for_the_same_seed_and_another_for_another(dataset: Dataset) -> None:
    first, again, other = (untrained(config("knn", seed=seed), dataset, silent) for seed in (0, 0, 1))
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert not torch.equal(first["bn1.running_mean"], other["bn1.running_mean"])


def test_test_images_play_no_part_in_it(digits_folder: Path) -> None:
    settings = DataConfig()
    one, other = (load(str(digits_folder), settings, side=settings.side(32)) for _ in range(2))
    other.splits["test"] = np.array(other.splits["test"][:3])
    states = [untrained(config("knn"), each, silent) for each in (one, other)]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_a_transformers_floor_is_pooled_as_its_evaluation_is(dataset: Dataset) -> None:
    images, found = dataset.images.subset(np.arange(4)), {}
    for pooling in ("own", "class-token", "average", "both"):
        settings = config("knn", backbone="vit_tiny_patch16_224", pooling=pooling)
        state, compute = untrained(settings, dataset, silent), Compute.of(settings)
        backbone = backbone_under_test(settings, images, state, compute.device)
        found[pooling] = embed(backbone, images, settings.image_size, compute, silent, "")
    assert torch.equal(found["own"], found["class-token"])
    assert not torch.allclose(found["own"], found["average"])
    torch.testing.assert_close(found["both"], torch.cat([found["own"], found["average"]], dim=1))
    with pytest.raises(ConfigError, match="a resnet18 has no class token; use --set pooling=own"):
        untrained(config("knn", pooling="both"), dataset, silent)
