"""`hptctl evaluate segmentation`"""

from __future__ import annotations

from typing import Annotated

import typer

from hptctl.commands.evaluate.evaluation import evaluation

Head = Annotated[str | None, typer.Option("--head", help="fcn (as MoCo has it) or deeplabv3.")]
Lr = Annotated[float | None, typer.Option("--lr", help="Learning rate of a batch of 16.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Optimizer steps.")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", help="Images per step.")]


@evaluation
def segmentation(head: Head = None, lr: Lr = None, steps: Steps = None, batch_size: BatchSize = None) -> None:
    """Finetune a segmenter (FCN or DeepLabV3) on the backbone: mean IoU and pixel accuracy.

    Masks are images of class numbers, or coloured ones beside a list of classes, in `train/images` and `train/masks`.

    Examples:

        hptctl evaluate segmentation my-base -d streets/ --preset small

        hptctl evaluate segmentation my-base -d streets/ --head deeplabv3
    """
