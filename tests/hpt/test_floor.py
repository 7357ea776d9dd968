"""The floor: a network that was never trained, with the images' own statistics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from small_evaluation import config

from hpt import encoder
from hpt.config import DataConfig
from hpt.data.dataset import Dataset, load
from hpt.floor import untrained


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
