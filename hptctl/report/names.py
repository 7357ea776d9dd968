"""What evaluations are called, and in which order evaluations and arms stand."""

from __future__ import annotations

from hpt.strategies import STRATEGIES

EVALUATIONS = {"linear": "linear probe", "finetune": "finetuning", "knn": "kNN"}
"""Evaluation kinds in the order of their weight: the first that a dataset has answers for it."""
MISSING = "missing"
"""What stands where nobody has run something, or where the run has been deleted."""


def evaluation_order(evaluation: str) -> tuple[int, int, float, str]:
    """Sort key: linear probe, finetuning, kNN; all labels first, then fewer and fewer."""
    name, _, labels = evaluation.partition(", ")
    number = labels.removesuffix(" labels").replace(",", "")
    place = list(EVALUATIONS.values()).index(name) if name in EVALUATIONS.values() else len(EVALUATIONS)
    return place, int(number not in {"", "all"}), -float(number) if number.isdecimal() else 0.0, labels


def arm_order(arm: str) -> tuple[int, str]:
    """Sort key: the strategies in the protocol's order, each followed by its variants, then the rest."""
    strategy = arm.split(" ")[0]
    names = list(STRATEGIES)
    return names.index(strategy) if strategy in names else len(names), arm
