"""`hptctl sweep detection`"""

from __future__ import annotations

from hptctl.commands.sweep.search import over_learning_rates


@over_learning_rates
def detection() -> None:
    """Train a detector at every point of a space; val chooses, the winner alone is tested, once.

    Without a space: learning rates around that of the preset.

    Examples:

        hptctl sweep detection my-base -d cells/ --lr 0.01,0.02 --preset small

        hptctl sweep detection my-base -d cells/ --set detection.head=c4,fpn
    """
