"""`hptctl evaluate linear`"""

from __future__ import annotations

from hptctl.commands.evaluate.evaluation import evaluation


@evaluation
def linear() -> None:
    """Linear probe: one linear layer on the frozen backbone; several learning rates and reruns in one pass.

    The learning rate and the step are chosen on val; test is computed once, for the choice.

    Examples:

        hptctl evaluate linear

        hptctl evaluate linear my-base --dataset digits --set linear.steps=200

        hptctl evaluate linear weights.pth --dataset my-images/ --metric balanced_accuracy

        hptctl evaluate linear my-base --all-checkpoints

        hptctl evaluate linear my-base@500

        hptctl evaluate linear my-base --processes 4

        hptctl evaluate linear untrained --dataset my-images/ --backbone resnet18

        hptctl evaluate linear --resume linear-my-base
    """
