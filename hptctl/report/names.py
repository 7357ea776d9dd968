"""What evaluations are called, and the order of evaluations and arms."""

from __future__ import annotations

from hpt.config import UNTRAINED
from hpt.strategies import STRATEGIES

EVALUATIONS = {
    "linear": "linear probe",
    "finetune": "finetuning",
    "knn": "kNN",
    "detection": "detection",
    "segmentation": "segmentation",
}
"""Kinds of evaluation in the order of their weight: the first one that a dataset has answers for it."""
FLOOR = UNTRAINED
"""The arm of random weights: what a backbone brings that nothing was learned by."""
MISSING = "missing"
"""Shown in place of a figure whose run was never made or has been deleted."""


def evaluation_order(evaluation: str) -> tuple[int, int, float, str]:
    """Sort key of evaluations: linear probe, finetuning, kNN; each with all labels first, then with fewer and fewer."""
    name, _, labels = evaluation.partition(", ")
    number = labels.removesuffix(" labels").replace(",", "")
    place = list(EVALUATIONS.values()).index(name) if name in EVALUATIONS.values() else len(EVALUATIONS)
    return place, int(number not in {"", "all"}), -float(number) if number.isdecimal() else 0.0, labels


def arm_order(arm: str) -> tuple[int, str]:
    """Sort key of arms: the floor, the strategies in the protocol's order, each followed by its variants, then all
    others."""
    strategy = arm.split(" ")[0]
    names = [FLOOR, *STRATEGIES]
    return names.index(strategy) if strategy in names else len(names), arm
