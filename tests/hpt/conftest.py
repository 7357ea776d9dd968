"""One small dataset and one small backbone, which tests read and leave as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor

from hpt import encoder
from hpt.config import DataConfig
from hpt.data.dataset import Dataset, load
from hpt.data.images import Images


@pytest.fixture(scope="session")
def dataset(digits_folder: Path) -> Dataset:
    """The scans of digits, decoded for views of 32 px."""
    return load(str(digits_folder), DataConfig(), side=DataConfig().side(32))


@pytest.fixture(scope="session")
def images(dataset: Dataset) -> Images:
    """Those of them that a pretraining sees."""
    return dataset.pretraining_images()


@pytest.fixture(scope="session")
def state() -> dict[str, Tensor]:
    """A backbone as it is drawn."""
    return encoder.build("resnet18", seed=1).state_dict()
