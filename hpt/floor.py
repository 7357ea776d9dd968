"""The floor: a network that was never trained. Whatever a pretraining brings has to lie above it.

Its weights are random, and BatchNorm's running statistics are those of the images, as a base's are: at 0 and 1, which
are a fresh model's, its features would say less than they can.
"""

from __future__ import annotations

from torch import Tensor

from hpt import encoder
from hpt.base_statistics import estimate_statistics
from hpt.callbacks import Progress
from hpt.config import EvaluateConfig
from hpt.data.dataset import Dataset
from hpt.processes import Compute


def untrained(config: EvaluateConfig, dataset: Dataset, progress: Progress) -> dict[str, Tensor]:
    """The state of a random `config.backbone` with the statistics of the pretraining images: train and val, never test.

    It has the encoder's keys, fp32 on the CPU, and depends on the seed, the images and the size of their
    views (`config.seed`, `config.image_size`).

    Raises:
        DataError: train and val have fewer than two images. ConfigError: the device is missing, or the backbone has no
            such pooling.
    """
    images = dataset.pretraining_images(1.0, config.seed)
    backbone = encoder.fresh(config, images.form.channels)
    device = Compute.of(config).device
    estimate_statistics(backbone, images, device, progress, image_size=config.image_size, seed=config.seed)
    return {key: value.cpu() for key, value in backbone.state_dict().items()}
