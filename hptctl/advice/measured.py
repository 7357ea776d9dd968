"""All that an advice rests on, measured: the images, the backbones on them, and the curves over labels."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from hpt.base_statistics import estimate_statistics
from hpt.callbacks import Callbacks, Progress
from hpt.data.copies import Copies, copies
from hpt.data.dataset import Dataset
from hpt.data.images import Images
from hpt.dense.find import tasks_of
from hpt.domain_distance import DomainDistance, domain_distance
from hpt.errors import UserError
from hpt.evaluate.features import backbone_under_test
from hpt.evaluate.label_efficiency import Curves, Embedded, Estimate, Head, LabelCount, measure
from hpt.evaluate.labels import in_order, unmeasurable
from hpt.evaluate.setup import Setup
from hpt.processes import Compute
from hpt.representation import effective_rank
from hpt.statistics import FEW_IMAGES
from hptctl import console
from hptctl.advice.backbones import Backbone, Opened

AS_IT_IS, ESTIMATED = "as it is", "with BatchNorm's statistics estimated on these images"
"""The two ways to measure a base, which cost no training."""
MOST_RANKED = 2048
"""The most images whose features' rank is measured, drawn by seed."""


@dataclass(frozen=True)
class Rung:
    """The base and an adaptation at a number of labels."""

    labels: int
    base: Estimate
    adapted: Estimate
    gain: Estimate
    base_needs: LabelCount
    """The labels with which the base is as good as the adapted one with these."""


@dataclass(frozen=True)
class Worth:
    """What one adaptation is worth, against the base."""

    backbone: Backbone
    gain: Estimate
    """At all labels, in shares."""
    enough: LabelCount
    """The labels with which the better of the two is as good as the other with all of them."""
    rungs: tuple[Rung, ...]
    rise: Estimate
    """What the last doubling of labels brought to the adapted backbone."""

    @property
    def verdict(self) -> str:
        """`gain`, `loss`, or `none`: no difference seen."""
        return {1: "gain", -1: "loss", 0: "none"}[self.gain.sign]


@dataclass(frozen=True)
class Measured:
    """What was measured."""

    opened: Opened
    dense: tuple[str, ...]
    """The tasks of boxes or masks that lie beside the images."""
    copies: Copies
    ranks: Mapping[str, float]
    """The effective rank of each backbone's features, by its name."""
    ranked: int
    """Of so many images."""
    distance: DomainDistance | None
    no_distance: str
    """Why there is none; empty where there is one."""
    no_curves: str
    """Why there are no curves; empty where there are some."""
    curves: Curves | None
    reference: int
    """The curve of the base, measured in the better of its two ways."""
    how: str
    """Which that is."""
    worths: tuple[Worth, ...]
    """Of each adapted backbone, in their order."""
    head: Head
    metric: str
    draws: int
    seconds: float
    """What embedding took, and what the heads took."""

    @property
    def base_rise(self) -> Estimate | None:
        """What the last doubling of labels brought to the base."""
        return self.curves.rise(self.reference) if self.curves is not None else None


def measured(opened: Opened, head: Head, draws: int) -> Measured:
    """Measure everything that the labels, the base and the images allow.

    Raises:
        HptError: a feature is NaN or infinite. DataError: there are no images.
    """
    dataset, config = opened.dataset, opened.config
    metric = config.metric or dataset.metric
    why = _no_curves(dataset, config.metric)
    with console.Display() as display:
        twice = copies(dataset, display.progress)
        began = time.perf_counter()
        found = _embedded(opened, not why, display.progress)
        curves = None
        if not why and found.banks:
            curves = measure(
                [found.banks[name] for name in found.banks],
                dataset.labels[dataset.splits["train"]],
                dataset.labels[dataset.splits["val"]],
                len(dataset.classes),
                metric,
                head=head,
                knn=config.knn,
                draws=draws,
                seed=config.seed,
                progress=display.progress,
            )
        seconds = time.perf_counter() - began
    ways = [name for name in found.banks if name in (AS_IT_IS, ESTIMATED)]
    reference = max(range(len(ways)), key=lambda k: curves.figure(k, -1).value) if curves is not None else 0
    worths = tuple(
        _worth(curves, reference, len(ways) + number, backbone)
        for number, backbone in enumerate(opened.adapted)
        if curves is not None
    )
    return Measured(
        opened=opened,
        dense=tuple(tasks_of(config.dataset)),
        copies=twice,
        ranks=found.ranks,
        ranked=found.ranked,
        distance=found.distance,
        no_distance=found.no_distance,
        no_curves=why,
        curves=curves,
        reference=reference,
        how=ways[reference] if ways else "",
        worths=worths,
        head=head,
        metric=metric,
        draws=draws,
        seconds=seconds,
    )


def _no_curves(dataset: Dataset, metric: str | None) -> str:
    """Why no curve over labels can be measured; empty where one can."""
    train, val = dataset.splits["train"], dataset.splits["val"]
    if (why := unmeasurable(dataset, train, val, metric)) is not None:
        return why
    if len(val) < FEW_IMAGES:
        return f"{len(val)} labelled val images tell too little, {FEW_IMAGES} are the least"
    least = max(in_order(dataset.labels[train], seed)[1] for seed in range(2))
    if len(train) < 2 * least:
        return f"{len(train)} labelled training images are too few for a curve, which begins at {least}"
    return ""


@dataclass(frozen=True)
class _Found:
    """What the backbones make of the images."""

    banks: Mapping[str, Embedded]
    """Features of the labelled images: of the base in each of its ways, then of each adaptation by its name."""
    ranks: Mapping[str, float]
    ranked: int
    distance: DomainDistance | None
    no_distance: str


def _embedded(opened: Opened, labelled: bool, progress: Progress) -> _Found:
    dataset, config, base = opened.dataset, opened.config, opened.base
    if base is None:
        return _Found({}, {}, 0, None, "there is no base at hand")
    compute, seen = Compute.of(config), dataset.pretraining_images()
    banks: dict[str, Embedded] = {}
    ranks: dict[str, float] = {}
    drawn = np.sort(np.random.default_rng([config.seed, 0x2A4C]).permutation(len(seen))[:MOST_RANKED])

    def look(name: str, model: nn.Module, backbone: Backbone, *, rank: bool = True) -> None:
        of_it = config.model_copy(update={"weights": backbone.weights})
        setup = Setup(of_it, dataset, model, compute, Callbacks(progress=progress))

        def of(images: Images) -> Tensor:
            return setup.features(images, f"features of {'the base ' if name in (AS_IT_IS, ESTIMATED) else ''}{name}")

        if labelled:
            banks[name] = Embedded(of(setup.images("train")), of(setup.images("val")))
        if rank and len(drawn):
            ranks[backbone.name] = effective_rank(torch.cat(banks[name])[drawn] if labelled else of(seen.subset(drawn)))

    def module(of: Backbone) -> nn.Module:
        return backbone_under_test(config, dataset.images, of.state, compute.device)

    model = module(base)
    look(AS_IT_IS, model, base)
    size, seed = config.image_size, config.seed
    distance, why = None, ""
    try:
        distance = domain_distance(model, seen, compute.device, progress, image_size=size, seed=seed)
    except UserError as error:
        why = error.what
    if labelled and any(key.endswith(".running_mean") for key in base.state):
        estimate_statistics(model, seen, compute.device, progress, image_size=size, seed=seed)
        look(ESTIMATED, model, base, rank=False)
    for each in opened.adapted:
        look(each.name, module(each), each)
    return _Found(banks, ranks, len(drawn), distance, why)


def _worth(curves: Curves, base: int, adapted: int, backbone: Backbone) -> Worth:
    last = len(curves.rungs) - 1
    gain = curves.gain(adapted, base, last)
    better, other = (adapted, base) if gain.value >= 0 else (base, adapted)
    return Worth(
        backbone=backbone,
        gain=gain,
        enough=curves.as_good_as(better, other, last),
        rungs=tuple(
            Rung(
                labels,
                curves.figure(base, rung),
                curves.figure(adapted, rung),
                curves.gain(adapted, base, rung),
                curves.as_good_as(base, adapted, rung),
            )
            for rung, labels in enumerate(curves.rungs)
        ),
        rise=curves.rise(adapted),
    )
