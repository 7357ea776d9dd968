"""`hptctl evaluate finetune`"""

from __future__ import annotations

from typing import Annotated

import typer

from hptctl.commands.evaluate.evaluation import evaluation

Lr = Annotated[float | None, typer.Option("--lr", help="Learning rate of the backbone; the head's is 100 times it.")]
Schedule = Annotated[
    str | None, typer.Option("--schedule", help="Length: 2500-steps, 90-epochs; lr drops at 1/3 and 2/3.")
]


@evaluation
def finetune(lr: Lr = None, schedule: Schedule = None) -> None:
    """Finetune all weights on few labels (1,000 by default, all where there are fewer).

    Examples:

        hptctl evaluate finetune my-base --lr 0.01 --schedule 2500-steps

        hptctl evaluate finetune my-base -d digits --labels 100
    """
