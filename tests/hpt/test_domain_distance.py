"""The distance of images from what a backbone's BatchNorm has kept."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hpt import encoder
from hpt.base_statistics import estimate_statistics
from hpt.config import DataConfig
from hpt.data.dataset import load
from hpt.data.images import Images
from hpt.domain_distance import DomainDistance, domain_distance
from hpt.errors import DataError, WeightsError

CPU = torch.device("cpu")


def quiet(done: int, total: int, what: str) -> None: ...


def of(name: str, count: int) -> Images:
    images = load(name, DataConfig(), side=36).images
    return images.subset(range(count))


@pytest.fixture(scope="module")
def of_digits() -> nn.Module:
    """A backbone whose statistics are those of digits."""
    backbone = encoder.build("resnet18", seed=0)
    estimate_statistics(backbone, of("digits", 128), CPU, quiet, image_size=32, seed=1)
    return backbone.eval()


def distance(backbone: nn.Module, images: Images) -> DomainDistance:
    return domain_distance(backbone, images, CPU, quiet, image_size=32, seed=0)


def test_images_of_its_own_are_near_and_others_far(of_digits: nn.Module) -> None:
    own = distance(of_digits, load("digits", DataConfig(), side=36).images.subset(range(128, 256)))
    other = distance(of_digits, of("shapes@128", 128))
    assert own.images == 128
    assert own.mean < 2 * own.mean_of_halves  # chance alone
    assert other.mean > 2 * other.mean_of_halves
    assert other.mean > 2 * own.mean


def test_the_very_images_are_at_no_distance_and_the_backbone_stays_as_it_is(of_digits: nn.Module) -> None:
    before = {key: value.clone() for key, value in of_digits.state_dict().items()}
    found = domain_distance(of_digits, of("digits", 128), CPU, quiet, image_size=32, seed=1)
    assert found.mean < found.mean_of_halves / 3  # groups are drawn otherwise
    assert all(torch.equal(value, before[key]) for key, value in of_digits.state_dict().items())
    assert not of_digits.training


def test_what_kept_nothing_of_its_images_is_told() -> None:
    with pytest.raises(WeightsError, match="fresh model"):
        distance(encoder.build("resnet18", seed=0), of("digits", 16))
    with pytest.raises(WeightsError, match="without BatchNorm"):
        distance(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), of("digits", 16))


def test_a_few_images_have_no_halves(of_digits: nn.Module) -> None:
    with pytest.raises(DataError, match="too few"):
        distance(of_digits, of("digits", 7))
