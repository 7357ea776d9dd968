"""The advice as JSON for scripts. Figures are shares of 1; what is not known is null."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from hpt.evaluate.label_efficiency import LEVEL, LabelCount
from hpt.processes import Compute
from hptctl.advice import words
from hptctl.advice.backbones import Backbone
from hptctl.advice.measured import Measured
from hptctl.advice.steps import Step


def document(found: Measured, following: Sequence[Step]) -> dict[str, Any]:
    """All of it."""
    opened, curves = found.opened, found.curves
    dataset, config = opened.dataset, opened.config
    return {
        "dataset": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "split_fingerprint": dataset.split_fingerprint,
            "task": dataset.task,
            "classes": len(dataset.classes),
            "images": {split: len(rows) for split, rows in dataset.splits.items()},
        },
        "settings": {
            "backbone": config.backbone,
            "image_size": config.image_size,
            "device": config.device,
            "precision": Compute.of(config).precision,
            "head": found.head,
            "metric": found.metric,
            "split": "val",
            "seeds": list(range(config.seed, config.seed + found.draws)),
            "level": LEVEL,
        },
        "base": None if opened.base is None else _backbone(opened.base) | {"measured": found.how or None},
        "adapted": [_backbone(each) for each in opened.adapted],
        "expected_gain": "unknown" if not found.worths else None,
        "no_curves": found.no_curves or None,
        "copies": asdict(found.copies),
        "effective_rank": {"images": found.ranked} | dict(found.ranks),
        "domain_distance": _distance(found),
        "curve_of_the_base": None
        if curves is None
        else {
            "val_images": curves.images,
            "labels": list(curves.rungs),
            "figures": [asdict(curves.figure(found.reference, rung)) for rung in range(len(curves.rungs))],
            "last_doubling": asdict(curves.rise(found.reference)),
        },
        "worth": [
            {
                "name": worth.backbone.name,
                "verdict": worth.verdict,
                "gain": asdict(worth.gain),
                "enough_labels": _labels(worth.enough, found),
                "better": "adapted" if worth.gain.value >= 0 else "base",
                "last_doubling": asdict(worth.rise),
                "by_labels": [
                    {"labels": rung.labels, "figure": asdict(rung.adapted), "gain": asdict(rung.gain)}
                    | {"base_needs": _labels(rung.base_needs, found)}
                    for rung in worth.rungs
                ],
            }
            for worth in found.worths
        ],
        "next": [{"why": step.why, "commands": list(step.commands)} for step in following],
        "caveats": list(words.caveats(found)),
        "notes": list(opened.notes),
        "seconds": round(found.seconds, 2),
    }


def _backbone(each: Backbone) -> dict[str, Any]:
    cost = each.cost and {key: _number(value) for key, value in asdict(each.cost).items()}
    return {
        "name": each.name,
        "weights": each.weights,
        "sha256": each.sha256,
        "strategy": each.strategy,
        "run": each.run.name if each.run is not None else None,
        "cost": cost,
    }


def _distance(found: Measured) -> dict[str, Any] | None:
    if found.distance is None:
        return None
    return {
        "images": found.distance.images,
        "mean": found.distance.mean,
        "mean_of_halves": found.distance.mean_of_halves,
        "layers": {name: asdict(each) for name, each in found.distance.layers.items()},
    }


def _labels(count: LabelCount, found: Measured) -> dict[str, Any]:
    """A number of labels, each end with its bound where it lies beyond the curve."""
    assert found.curves is not None
    first, every = found.curves.rungs[0], found.curves.rungs[-1]

    def end(value: float) -> dict[str, Any]:
        if value == 0:
            return {"labels": first, "bound": "at most"}
        if math.isinf(value):
            return {"labels": every, "bound": "more than"}
        return {"labels": round(value, 1), "bound": ""}

    return end(count.value) | {"low": end(count.low), "high": end(count.high)}


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
