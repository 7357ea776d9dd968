"""`hptctl sweep detection`"""

from __future__ import annotations

from hptctl import options
from hptctl.commands.sweep.search import Labels, Lr, Search, SearchOptions


@options.gathered
def detection(
    run: options.RunArgument = None,
    lr: Lr = None,
    labels: Labels = None,
    dataset: options.Dataset = None,
    metric: options.Metric = None,
    *,
    search: SearchOptions,
) -> None:
    """Train a detector at every point of a space; val chooses, the winner alone is tested, once.

    Without a space: learning rates around that of the preset.

    Examples:

        hptctl sweep detection my-base -d cells/ --lr 0.01,0.02 --preset small

        hptctl sweep detection my-base -d cells/ --set detection.head=c4,fpn
    """
    fields = {"labels": labels, "dataset": dataset, "metric": metric}
    Search("detection", search, fields, {"lr": lr}, run=run).answer()
