"""Every run, for whoever checks or repeats it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from hptctl.format import percent, unbroken, when


@dataclass(frozen=True)
class Settings:
    """A set of settings that differ from the protocol, and how many runs share it."""

    id: str
    settings: tuple[str, ...]
    runs: int


@dataclass(frozen=True)
class Provenance:
    """The row of one run. Hashes are cut to ten digits."""

    run_id: str
    """As pages name it (`frame.tidy`)."""
    name: str
    kind: str
    strategy: str
    dataset: str
    steps: int
    seed: str
    labels: str
    test: str
    standing: str
    ended: str
    settings: str
    """The id of its `Settings`; empty where they are those of the protocol."""
    digest: str
    data: str
    split: str
    weights: str
    made_by: str
    experiment: str
    command: str


def provenance(frame: pd.DataFrame) -> tuple[tuple[Provenance, ...], tuple[Settings, ...]]:
    """The rows of all runs, in the frame's order, and the settings that they refer to."""
    runs = frame[_COLUMNS].to_dict("records")
    shared = Counter(run["settings"] for run in runs if run["settings"])
    ids = {settings: f"settings-{number}" for number, settings in enumerate(shared, 1)}
    rows = tuple(_row(run, ids.get(run["settings"], "")) for run in runs)
    return rows, tuple(Settings(id, settings, shared[settings]) for settings, id in ids.items())


_COLUMNS = ["shown_id", "name", "kind", "arm", "dataset", "steps", "pretrain_seed", "seed", "labels", "test"]
_COLUMNS += ["standing", "end", "settings", "digest", "data_fingerprint", "split_fingerprint", "weights_sha256"]
_COLUMNS += ["version", "commit", "hardware", "experiment", "command"]


def _row(row: Mapping[Any, Any], settings: str) -> Provenance:
    seeds = [str(row["pretrain_seed"]), str(row["seed"])]
    return Provenance(
        run_id=str(row["shown_id"]),
        name=str(row["name"]),
        kind=str(row["kind"]),
        strategy=str(row["arm"]),
        dataset=str(row["dataset"]),
        steps=int(row["steps"]),
        seed="/".join(seed for seed in seeds if seed),
        labels=str(row["labels"]),
        test=unbroken(percent(float(row["test"]))),
        standing=str(row["standing"]),
        ended=when(float(row["end"])),
        settings=settings,
        digest=str(row["digest"])[:10],
        data=str(row["data_fingerprint"])[:10],
        split=str(row["split_fingerprint"])[:10],
        weights=str(row["weights_sha256"])[:10],
        made_by=" ".join(part for part in (str(row["version"]), str(row["commit"])[:10], str(row["hardware"])) if part),
        experiment=str(row["experiment"]),
        command=str(row["command"]),
    )
