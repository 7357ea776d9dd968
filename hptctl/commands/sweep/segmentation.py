"""`hptctl sweep segmentation`"""

from __future__ import annotations

from hptctl.commands.sweep.search import over_learning_rates


@over_learning_rates
def segmentation() -> None:
    """Train a segmenter at every point of a space; val chooses, the winner alone is tested, once.

    Without a space: learning rates around that of the preset.

    Examples:

        hptctl sweep segmentation my-base -d streets/ --lr 0.01,0.02 --preset small

        hptctl sweep segmentation my-base -d streets/ --set segmentation.head=fcn,deeplabv3
    """
