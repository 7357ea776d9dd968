"""Segmentation: a fully convolutional head on a backbone, all of it trained, and the mean IoU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpt.config import SegmentationConfig
from hpt.dense import figures, networks, views
from hpt.dense.draws import Draws
from hpt.dense.figures import Packed
from hpt.dense.setup import DenseSetup, Loss
from hpt.dense.targets import IGNORED, Mask

LR_BATCH = 16
"""The batch that the learning rate is given for."""


class Segmentation:
    """A segmenter in training and in use."""

    metrics = figures.SEGMENTATION

    def __init__(self, setup: DenseSetup) -> None:
        self.setup = setup
        self.section: SegmentationConfig = setup.config.segmentation
        classes = len(setup.dense.classes)
        self.draws = Draws()
        self.model: nn.Module = networks.segmenter(
            setup.backbone, classes, self.section, self.draws, seed=setup.config.seed
        )
        self.model.to(setup.compute.device).to(memory_format=setup.compute.memory_format)
        self.images = len(setup.train)
        self.batch_size = min(self.section.batch_size, self.images)
        self.lr = self.section.lr * self.batch_size / LR_BATCH
        self.drops = (round(self.section.steps * 0.7), round(self.section.steps * 0.9))

    def batch(self, rows: Tensor, numbers: Tensor, mine: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Views [n, C, crop, crop] and masks [n, crop, crop] of the training images `mine` among those of a step."""
        setup = self.setup
        drawn = list(zip(setup.train[rows.numpy()].tolist(), numbers.tolist(), strict=True))
        made = [
            views.segmentation_view(
                views.pixels(setup.images, row), setup.dense.mask(row), some, self.section, setup.normalisation
            )
            for row, some in (drawn[at] for at in mine)
        ]
        images, masks = (torch.stack(each) for each in zip(*made, strict=True))
        return images, masks

    def loss(self, batch: tuple[Tensor, Tensor]) -> dict[str, Loss]:
        """The cross-entropy of the pixels that count."""
        compute = self.setup.compute
        images, masks = batch[0].to(compute.device, memory_format=compute.memory_format), batch[1].to(compute.device)
        logits: Tensor = self.model(images).float()
        total = F.cross_entropy(logits, masks, ignore_index=IGNORED, reduction="sum")
        count = (masks != IGNORED).sum()
        return {"pixels": Loss(total / count.clamp(min=1), count.float())}

    def figure(self, what: str) -> float:
        """The headline metric on a split."""
        cells, labels = self.counted(what)
        once = np.ones((1, len(cells)), dtype=np.float32)
        return float(figures.weighted(self.setup.metric, cells, labels)(once)[0])

    def counted(self, split: str, keep: Callable[[int, Mask], None] | None = None) -> tuple[Packed, Packed]:
        """Pixels by true and predicted class [n, C * C], and by true class [n, C], of the images of a split, by all
        processes; `keep` takes each mask predicted by this one, with its place in the split."""
        setup = self.setup
        rows, classes, processes = setup.rows(split), len(setup.dense.classes), setup.processes
        portions = processes.portions(range(len(rows)))
        mine = portions[processes.rank]
        cells = np.zeros((len(mine), classes**2), dtype=np.float32)
        for at, guess in zip(mine, self._predicted(rows[list(mine)], len(rows), f"segmenting {split}"), strict=True):
            cells[at - mine[0]] = figures.confusions([setup.dense.mask(int(rows[at]))], [guess], classes)[0][0]
            if keep is not None:
                keep(at, guess)
        every = processes.gather(torch.from_numpy(cells).to(setup.compute.device), [len(each) for each in portions])
        counted = every.cpu().numpy()
        return counted, counted.reshape(-1, classes, classes).sum(axis=2)

    def measure(self, split: str) -> tuple[Packed, Packed, list[Mask]]:
        """As `counted`, and the masks predicted, of which other processes than the main one have their own alone."""
        masks: dict[int, Mask] = {}
        cells, labels = self.counted(split, masks.__setitem__)
        self._tell_main(masks, split)
        return cells, labels, [masks[at] for at in sorted(masks)]

    def _tell_main(self, masks: dict[int, Mask], split: str) -> None:
        """Bring the masks of all processes together in the main one, an image of each at a time."""
        processes, sizes = self.setup.processes, self.setup.images.sizes[self.setup.rows(split)]
        if processes.count == 1:
            return
        portions = processes.portions(range(len(sizes)))
        mine = portions[processes.rank]
        for turn in range(max(map(len, portions))):
            flat = torch.zeros(int(sizes.prod(axis=1).max()), dtype=torch.uint8)
            if turn < len(mine):
                own = torch.from_numpy(masks[mine[turn]]).flatten()
                flat[: len(own)] = own
            every = processes.gather(flat[None].to(self.setup.compute.device))
            for portion, given in zip(portions, every.cpu().numpy(), strict=True):
                if processes.main and turn < len(portion):
                    height, width = sizes[portion[turn]].tolist()
                    masks[portion[turn]] = given[: height * width].reshape(height, width).copy()

    def _predicted(self, rows: npt.NDArray[np.int64], of: int, what: str) -> Iterator[Mask]:
        """The class of each pixel of some images among `of`, in the pixels of the cache."""
        setup = self.setup
        self.model.eval()
        for done, row in enumerate(rows.tolist(), start=1):
            image = setup.normalisation.of(views.pixels(setup.images, row))[None].to(setup.compute.device)
            with torch.no_grad(), setup.compute.autocast():
                logits = self.model(image)
            yield logits[0].argmax(dim=0).to(torch.uint8).cpu().numpy()
            setup.callbacks.progress(of * done // len(rows), of, what)
