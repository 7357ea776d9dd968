"""`hptctl sweep finetune`"""

from __future__ import annotations

from typing import Annotated

import typer

from hptctl import options
from hptctl.commands.sweep.search import Labels, Lr, Search, SearchOptions


@options.gathered
def finetune(
    run: options.RunArgument = None,
    lr: Lr = None,
    schedule: Annotated[
        str | None, typer.Option("--schedule", help="Schedules.", show_default="2500-steps,90-epochs")
    ] = None,
    labels: Labels = None,
    dataset: options.Dataset = None,
    metric: options.Metric = None,
    *,
    search: SearchOptions,
) -> None:
    """Finetune at every point of a space; val chooses, the winner alone is tested, once.

    Without a space: the protocol's learning rates x schedules, in the preset's size.

    Examples:

        hptctl sweep finetune

        hptctl sweep finetune my-base -d digits --schedule 60-steps,80-steps --labels 100

        hptctl sweep finetune my-base --lr 1e-4..1e-1 --trials 20 --pruner median --workers 2

        hptctl sweep finetune --resume sweep-my-base
    """
    fields = {"labels": labels, "dataset": dataset, "metric": metric}
    Search("finetune", search, fields, {"lr": lr, "schedule": schedule}, run=run).answer()
