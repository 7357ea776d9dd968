"""`hptctl sweep pretrain`"""

from __future__ import annotations

from typing import Annotated

import typer

from hptctl import options
from hptctl.commands.sweep.search import Lr, Search, SearchOptions


@options.gathered
def pretrain(
    strategy: Annotated[str | None, typer.Option("--strategy", "-s", help="target, hpt or hpt-bn.")] = None,
    dataset: options.Dataset = None,
    weights: Annotated[
        str | None,
        typer.Option("--weights", "-w", help="The base: a known name, a file, or an earlier run."),
    ] = None,
    lr: Lr = None,
    steps: Annotated[
        str | None, typer.Option("--steps", help="Lengths of pretraining.", show_default="50,500,5000,50000")
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option("--objective", help="Whose figure on val counts: knn (cheap) or linear.", show_default="knn"),
    ] = None,
    *,
    search: SearchOptions,
) -> None:
    """Pretrain at every point of a space; nearest neighbours on val choose, the winner alone is tested, once.

    kNN on val trains nothing, so it costs seconds beside a pretraining; --objective linear probes instead. Either needs
    labels, which pretraining itself never sees.

    Examples:

        hptctl sweep pretrain -s hpt -d my-images/ -w my-base --lr 0.003..0.1 --steps 500 --trials 10

        hptctl sweep pretrain -s hpt -d my-images/ --set augment.policy=baseline,no-color,crop-only
    """
    fields = {"strategy": strategy, "dataset": dataset, "weights": weights}
    Search("pretrain", search, fields, {"lr": lr, "steps": steps}, objective=objective).answer()
