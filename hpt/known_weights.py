"""Published weights that a name stands for, and where they are kept."""

from __future__ import annotations

import logging
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from hpt.callbacks import Progress
from hpt.data.fetch import Checksum, download
from hpt.errors import DataError, WeightsError
from hpt.user_folders import cache_folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class KnownWeights:
    """Published weights that a name stands for."""

    url: str
    size: int | None
    """The size in bytes, where it is published."""
    checksum: Checksum
    backbone: str
    source: str
    """The page that publishes the address and the checksum."""
    note: str
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """The mean of the images that they were trained on, by channel in [0, 1]: ImageNet's. A run here normalises by its
    own images instead, as the protocol does, and BatchNorm's statistics follow."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    @property
    def file_name(self) -> str:
        return urllib.parse.urlsplit(self.url).path.rpartition("/")[2]

    @property
    def path(self) -> Path:
        """Where the cache keeps the file, whether it has been fetched or not."""
        return cache_folder() / "weights" / self.file_name


_MOCO = "https://dl.fbaipublicfiles.com/moco/moco_checkpoints"
_MOCO_PAGE = "https://github.com/facebookresearch/moco"

KNOWN: dict[str, KnownWeights] = {
    "moco-v2-800ep": KnownWeights(
        f"{_MOCO}/moco_v2_800ep/moco_v2_800ep_pretrain.pth.tar",
        None,
        Checksum("md5", "a04e12f8"),
        "resnet50",
        _MOCO_PAGE,
        "MoCo-v2, 800 epochs of ImageNet without labels: the protocol's base",
    ),
    "moco-v2-200ep": KnownWeights(
        f"{_MOCO}/moco_v2_200ep/moco_v2_200ep_pretrain.pth.tar",
        None,
        Checksum("md5", "59fd9945"),
        "resnet50",
        _MOCO_PAGE,
        "MoCo-v2, 200 epochs of ImageNet without labels",
    ),
    "imagenet-supervised": KnownWeights(
        "https://download.pytorch.org/models/resnet50-0676ba61.pth",
        None,
        Checksum("sha256", "0676ba61"),
        "resnet50",
        "https://docs.pytorch.org/vision/stable/models/generated/torchvision.models.resnet50.html",
        "torchvision's ResNet-50 (IMAGENET1K_V1), trained with ImageNet's labels",
    ),
    "imagenet-supervised-resnet18": KnownWeights(
        "https://download.pytorch.org/models/resnet18-f37072fd.pth",
        None,
        Checksum("sha256", "f37072fd"),
        "resnet18",
        "https://docs.pytorch.org/vision/stable/models/generated/torchvision.models.resnet18.html",
        "torchvision's ResNet-18 (IMAGENET1K_V1), trained with ImageNet's labels: a base that a CPU bears",
    ),
}


def locate(name: str, *, progress: Progress | None = None, patient: bool = True) -> Path | None:
    """The file of known weights, fetched into the cache on first use; None when the name is not in `KNOWN`.

    Where others would do, a fetch need not be `patient` (`hpt.data.fetch.download`).

    Raises:
        WeightsError: it cannot be fetched; says where to put it by hand.
    """
    known = KNOWN.get(name)
    if known is None:
        return None
    path = known.path
    if not path.exists():
        logger.info("fetching %s (%s) into %s", name, known.url, path.parent)
        try:
            download(known.url, path, checksum=known.checksum, size=known.size, progress=progress, patient=patient)
        except DataError as error:
            raise WeightsError(
                error.what, f"put {known.file_name} into {path.parent}, or give --weights FILE or RUN"
            ) from None
    return path
