"""`hptctl evaluate detection`"""

from __future__ import annotations

from typing import Annotated

import typer

from hptctl.commands.evaluate.evaluation import evaluation

Head = Annotated[
    str | None, typer.Option("--head", help="c4 (layer4 classifies boxes) or fpn (a pyramid of features).")
]
Lr = Annotated[float | None, typer.Option("--lr", help="Learning rate of a batch of 8.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Optimizer steps.")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", help="Images per step.")]


@evaluation
def detection(head: Head = None, lr: Lr = None, steps: Steps = None, batch_size: BatchSize = None) -> None:
    """Finetune a detector (Faster R-CNN) on the backbone: AP, AP50 and AP75 by COCO's rules.

    Boxes are read from COCO's JSON, Pascal VOC's XML, YOLO's text or a list. The defaults are Pascal VOC's published
    protocol (24,000 steps); `--preset small` suits a laptop, `tiny` a first try.

    Examples:

        hptctl evaluate detection my-base -d cells/ --preset small

        hptctl evaluate detection untrained --backbone resnet18 -d cells/ --preset tiny
    """
