"""Measures of the representation during pretraining, which show while it runs whether a run is too long.

Every look measures the same images and views, so only the backbone changes between looks. kNN on val needs labels,
which stay in this module: pretraining receives the measures and nothing else. The other measures need no labels and
take its place where there are none.
"""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hpt import augment, representation
from hpt.config import KnnConfig, PretrainConfig
from hpt.data.dataset import Dataset
from hpt.data.images import Images
from hpt.data.listing import Labels
from hpt.evaluate.features import embed, embed_views
from hpt.evaluate.knn import knn_logits
from hpt.evaluate.labels import unmeasurable
from hpt.metrics import Weighted, weighted
from hpt.processes import Compute
from hpt.randomness import generator

log = logging.getLogger("hpt.online")

PAIRS = 512
"""Number of images for the alignment, of which two views each are embedded."""
EFFECTIVE_RANK = "probe/effective_rank"
RESAMPLES = 200
"""Bootstrap resamples of val, for the noise of a look's kNN."""
RANK_NOISE = 0.1
"""Share of an effective rank within which two count as equal: an image that is drawn twice lowers a rank, so that
resamples do not tell its noise."""


class OnlineProbe:
    """kNN on val, alignment, uniformity and effective rank of a backbone's pooled features.

    Alignment compares two views as pretraining draws them; the others use test views of train images (of all images
    that pretraining sees, where there is no train split). The effective rank (RankMe) depends on the number of images,
    which `config.probe_images` limits, so only looks of the same run are comparable by it.
    """

    def __init__(self, config: PretrainConfig, dataset: Dataset, compute: Compute) -> None:
        self.config, self.compute = config, compute
        train, val = (self._some(dataset, name) for name in ("train", "val"))
        self.classes, self.metric = len(dataset.classes), dataset.metric
        self.bank = dataset.images.subset(train) if len(train) > 1 else self._few(dataset.pretraining_images())
        self.val: tuple[Images, Labels] | None = None
        self.labels = torch.empty(0)
        if (why := unmeasurable(dataset, train, val)) is None:
            self.labels = torch.from_numpy(dataset.labels[train]).to(compute.device)
            self.val = dataset.images.subset(val), dataset.labels[val]
        self.favours = f"probe/knn_{self.metric}" if self.val else EFFECTIVE_RANK
        self.noise = 0.0
        others = f"{len(self.bank)} images" if why else f"{len(train)} train and {len(val)} val images"
        log.info("probing on %s%s", others, f"; no kNN: {why}" if why else "")

    def __call__(self, backbone: nn.Module) -> dict[str, float]:
        """The measures, named `probe/...`.

        Raises:
            HptError: a feature is NaN or infinite.
        """
        features = self._embed(backbone, self.bank)
        found = {
            EFFECTIVE_RANK: representation.effective_rank(features),
            "probe/uniformity": representation.uniformity(features),
            "probe/alignment": representation.alignment(*(self._views(backbone, name) for name in ("a", "b"))),
        }
        if self.val is not None:
            images, truth = self.val
            logits = knn_logits(features, self.labels, self._embed(backbone, images), self.classes, KnnConfig())
            once = np.ones((1, len(truth)), dtype=np.float32)
            measure = weighted(self.metric, logits.cpu().numpy(), truth)
            found[self.favours] = float(measure(once)[0])
            if self.config.stop_when_worse:
                self.noise = self._spread(measure, len(truth))
        else:
            self.noise = RANK_NOISE * found[EFFECTIVE_RANK]
        return found

    def _spread(self, measure: Weighted, images: int) -> float:
        """Half of the 95 % interval of a figure over resamples of its images."""
        random = np.random.default_rng([self.config.seed, 0x5EED])
        draws = random.multinomial(images, np.full(images, 1 / images), size=RESAMPLES).astype(np.float32)
        low, high = np.nanquantile(measure(draws), [0.025, 0.975])
        return float(high - low) / 2

    def _embed(self, backbone: nn.Module, images: Images) -> Tensor:
        return embed(backbone, images, self.config.image_size, self.compute, lambda *_: None, "")

    def _views(self, backbone: nn.Module, which: str) -> Tensor:
        rows = torch.arange(min(PAIRS, len(self.bank)))
        uniform = augment.draw(len(rows), generator(self.config.seed, f"online view {which}"))
        policy, size = self.config.augment, self.config.image_size
        return embed_views(backbone, self.bank, rows, uniform, policy, size, self.compute)

    def _some(self, dataset: Dataset, split: str) -> npt.NDArray[np.int64]:
        return dataset.splits[split][self._draw(len(dataset.splits[split]))]

    def _few(self, images: Images) -> Images:
        return images.subset(self._draw(len(images)))

    def _draw(self, count: int) -> npt.NDArray[np.int64]:
        order = np.random.default_rng([self.config.seed, 0x9808E]).permutation(count)
        return np.sort(order[: self.config.probe_images])
