"""`hptctl sweep segmentation`"""

from __future__ import annotations

from hptctl import options
from hptctl.commands.sweep.search import Labels, Lr, Search, SearchOptions


@options.gathered
def segmentation(
    run: options.RunArgument = None,
    lr: Lr = None,
    labels: Labels = None,
    dataset: options.Dataset = None,
    metric: options.Metric = None,
    *,
    search: SearchOptions,
) -> None:
    """Train a segmenter at every point of a space; val chooses, the winner alone is tested, once.

    Without a space: learning rates around that of the preset.

    Examples:

        hptctl sweep segmentation my-base -d streets/ --lr 0.01,0.02 --preset small

        hptctl sweep segmentation my-base -d streets/ --set segmentation.head=fcn,deeplabv3
    """
    fields = {"labels": labels, "dataset": dataset, "metric": metric}
    Search("segmentation", search, fields, {"lr": lr}, run=run).answer()
