"""`hptctl sweep linear`"""

from __future__ import annotations

from hptctl.commands.sweep.search import over_learning_rates


@over_learning_rates
def linear() -> None:
    """Probe at every point of a space; val chooses, the winner alone is tested, once.

    Without a space: learning rates 0.3, 3 and 30, which `hptctl evaluate linear` tries in one pass, and so for less.

    Examples:

        hptctl sweep linear my-base --lr 0.01..100 --trials 10

        hptctl sweep linear my-base --set linear.batch_size=64,256 --set linear.min_scale=0.08,0.3
    """
