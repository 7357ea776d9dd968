"""`hptctl evaluate knn`"""

from __future__ import annotations

from hptctl.commands.evaluate.evaluation import evaluation


@evaluation
def knn() -> None:
    """Weighted nearest neighbours in the frozen backbone's features: quick, with nothing to train.

    Examples:

        hptctl evaluate knn

        hptctl evaluate knn my-base --dataset digits --set knn.k=5
    """
