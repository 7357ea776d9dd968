"""Where runs differ from the published protocol.

Most of it are settings. Two are what a run came to: the precision that it computed in, and the base that its first
stage started from, which another base model may be, or a run of one's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from hpt.config import DEFAULT_WEIGHTS, Config, EvaluateConfig, PretrainConfig, flatten
from hptctl.report.frame import counted
from hptctl.report.names import EVALUATIONS

PROTOCOL_STEPS = {
    "hpt": {50, 500, 5000, 50000},
    "hpt-bn": {5000},
    "target": {5000, 50000, 100000, 200000, 400000},
}
"""Lengths of pretraining in the paper (arXiv 2103.12718v2, section 4.1)."""


@dataclass(frozen=True)
class Deviation:
    """A setting in which runs differ from the published protocol."""

    stage: str
    setting: str
    used: tuple[str, ...]
    protocol: str
    runs: int
    of: int


def deviations(frame: pd.DataFrame) -> list[Deviation]:
    """The settings in which the runs behind the results differ from the protocol, whose values are the defaults."""
    evaluations = counted(frame)
    behind = frame[frame["run_id"].isin(evaluations["source_id"])]
    trained = behind[behind["strategy"] != "base"]
    protocol = _defaults(PretrainConfig(strategy="hpt", dataset="-"))
    everywhere = {key: protocol.pop(key) for key in ("config.backbone", "config.image_size")}
    del protocol["config.steps"]
    found = _deviating("all runs", pd.concat([behind, evaluations]), everywhere | {"precision": {"fp32"}})
    found += _deviating("pretraining", behind, {"base": {DEFAULT_WEIGHTS}})
    del protocol["config.share"]  # varied by the study of robustness, like the augmentations
    augment = {key: protocol.pop(key) for key in list(protocol) if key.startswith("config.augment.")}
    found += _deviating("pretraining", trained, protocol)
    found += _deviating("pretraining", trained[trained["policy"] == "baseline"], augment)
    for strategy, lengths in PROTOCOL_STEPS.items():
        rows = trained[trained["strategy"] == strategy]
        found += _deviating(f"pretraining {strategy}", rows, {"config.steps": {str(n) for n in sorted(lengths)}})
    for kind, name in EVALUATIONS.items():
        rows = evaluations[evaluations["kind"] == kind]
        protocol = _defaults(EvaluateConfig(kind="linear", weights="-", dataset="-"))
        mine = {k: v for k, v in protocol.items() if k.startswith(f"config.{kind}.")}
        mine["config.allow_near_copies"] = {"False"}
        if kind == "finetune":
            mine |= {
                "config.finetune.lr": {"0.01", "0.001"},
                "config.finetune.schedule": {"2500-steps", "90-epochs"},
            }
        found += _deviating(name, rows, mine)
    return found


def _defaults(config: Config) -> dict[str, set[str]]:
    """What the protocol allows for each setting of the method; those of machine and bookkeeping are left out."""
    aside = {
        "strategy",
        "dataset",
        "weights",
        "seed",
        "processes",
        "device",
        "precision",
        "preset",
        "kind",
        "labels",
        "save_at",
        "probe_images",
        "keep_best",
        "stop_when_worse",
    }
    values = flatten(config.model_dump(mode="json"))
    return {
        f"config.{key}": {str(value)}
        for key, value in values.items()
        if key not in aside and not key.endswith(("_every", "gradient_checkpointing")) and not key.startswith("data.")
    }


def _deviating(stage: str, rows: pd.DataFrame, protocol: dict[str, set[str]]) -> list[Deviation]:
    found = []
    for column, allowed in protocol.items():
        if column not in rows or rows.empty:
            continue
        values = rows[column].dropna()
        strange = values[~values.isin(allowed)]
        if not strange.empty:
            found.append(
                Deviation(
                    stage=stage,
                    setting=column.removeprefix("config."),
                    used=tuple(sorted(set(strange), key=_numerically)),
                    protocol=" or ".join(sorted(allowed, key=_numerically)),
                    runs=len(strange),
                    of=len(rows),
                )
            )
    return found


def _numerically(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return math.inf, text
