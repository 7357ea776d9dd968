"""Tracked runs as one tidy DataFrame, one row per run, and the figures that a reader compares.

A row holds what the report says of a run:

    run_id name kind state start end experiment command        the run
    strategy dataset pretrain_dataset steps length labels      what was done
    pretrain_seed seed preset backbone image_size              how
    metric val test test_std test_images probes                what came out (NaN where there is nothing)
    origin target evaluation arm own policy share chain        what it is compared as (see `tidy`)
    standing                                                   counts, superseded, or the state
    images_per_second pretraining_images seconds hardware energy_wh  what it took
    folder                                                     where it keeps its predictions
    digest weights_sha256 data_fingerprint split_fingerprint   what it can be checked by
    settings source_id parent_id config.*                      not as published, links, and every setting
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd

from hpt.config import Config, EvaluateConfig, PretrainConfig, flatten
from hpt.errors import RunError, did_you_mean
from hpt.strategies import STRATEGIES
from hptctl.tracking import Record

EVALUATIONS = {"linear": "linear probe", "finetune": "finetuning", "knn": "kNN"}
"""Evaluation kinds in the order of their weight: the first that a dataset has answers for it."""
PROTOCOL_STEPS = {
    "hpt": {50, 500, 5000, 50000},
    "hpt-bn": {5000},
    "target": {5000, 50000, 100000, 200000, 400000},
}
"""arXiv 2103.12718v2, section 4.1."""


@dataclass(frozen=True)
class Cell:
    """The runs that differ in nothing but their seeds, as one figure. All figures are shares, 0 to 1."""

    target: str
    evaluation: str
    arm: str
    strategy: str
    own: bool
    """Pretrained on the dataset that it is evaluated on, or on nothing known to us."""
    steps: int
    """Pretraining steps behind the backbone."""
    origin: str
    """What its pretraining started from: a run, or weights by their name."""
    policy: str
    """Augmentations of the pretraining."""
    share: float
    """Of the pretraining images that were used."""
    chain: tuple[str, ...]
    """Datasets pretrained on one after the other, the own one last; the weights before them are no part of it."""
    metric: str
    mean: float
    std: float | None
    """Sample standard deviation over seeds; None for a single seed."""
    val: float
    """Mean of the headline metric on val; NaN where it was not logged."""
    spread: float
    """What a difference must exceed to count: `std`, or two binomial standard errors for a single seed."""
    run_ids: tuple[str, ...]
    seeds: tuple[str, ...]

    @property
    def variant(self) -> bool:
        """A row of the studies of robustness: pretrained with fewer augmentations, or on a share of the images."""
        return self.policy != "baseline" or self.share < 1

    @property
    def place(self) -> tuple[str, str, str, int]:
        """Where the figure stands; no other has the same."""
        return self.target, self.evaluation, self.arm, self.steps


@dataclass(frozen=True)
class Deviation:
    """A setting in which runs differ from the published protocol."""

    stage: str
    setting: str
    used: tuple[str, ...]
    protocol: str
    runs: int
    of: int


def tidy(records: Sequence[Record]) -> pd.DataFrame:
    """One row per run, the oldest first.

    Three columns say what a run is compared as, so that unlike runs never share a figure:

    - `target`: the dataset; with a hash where other images or another split go by the same name, with the
      backbone and image size where it was evaluated in several, and with the metric where several chose.
    - `evaluation`: linear probe, finetuning or kNN, with the labels used.
    - `arm`: the strategy; with the dataset it was pretrained on where that is another one, with the augmentations and
      the share of images where that is not all of them, with the weights it started from where a strategy was
      started from several, and with the length of its run where backbones of as many steps come from runs of several
      lengths (the learning rate of a longer one had not decayed yet). What is left of a pretraining that was deleted
      says so: nobody can tell any more what it was.
    """
    by_id = {record.run_id: record for record in records}
    frame = pd.DataFrame([_row(record, by_id) for record in records])
    if frame.empty:
        return frame
    evaluated = frame["evaluation"] != ""
    frame["target"] = _qualified(frame, "dataset", " #", "images", ["dataset"], evaluated)
    frame["target"] = _qualified(frame, "target", " · ", "setting", ["target"], evaluated)
    measured = evaluated & frame["test"].notna()  # a trial, or a run that failed, was chosen by nothing
    frame["target"] = _qualified(frame, "target", " by ", "metric", ["target"], measured)
    started = evaluated & (frame["strategy"] != "weights")
    frame["arm"] = _qualified(frame, "arm", " from ", "origin", ["target", "arm"], started)
    frame["arm"] = _qualified(frame, "arm", " in a run of ", "length", ["target", "arm", "steps"], started)
    frame["standing"] = _standing(frame)
    return frame


def named(records: Sequence[Record], names: Sequence[str]) -> set[str]:
    """Ids of the runs of these names (or MLflow ids), of their evaluations, and of their children.

    Raises:
        RunError: no such run.
    """
    found: set[str] = set()
    for name in names:
        ids = {r.run_id for r in records if r.name == name or (len(name) >= 8 and r.run_id.startswith(name))}
        if not ids:
            known = did_you_mean(name, [record.name for record in records])
            raise RunError(f"the store has no run '{name}'{known}", "see `hptctl runs list`")
        found |= ids
    while more := {
        r.run_id
        for r in records
        if r.run_id not in found and (r.parent_id in found or (r.kind != "pretrain" and r.source_id in found))
    }:
        found |= more
    return found


def with_what_they_rest_on(records: Sequence[Record], ids: set[str]) -> list[Record]:
    """The records of these ids, of what they started from or evaluated, and of the sweeps and studies they are of."""
    by_id = {record.run_id: record for record in records}
    found, left = set(), [id for id in ids if id in by_id]
    while left:
        id = left.pop()
        found.add(id)
        links = (by_id[id].source_id, by_id[id].parent_id)
        left += [link for link in links if link in by_id and link not in found]
    return [record for record in records if record.run_id in found]


def counted(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows whose test figure the report uses."""
    return frame[frame["standing"] == "counts"]


def cells(frame: pd.DataFrame) -> list[Cell]:
    """Every figure, by target, evaluation, arm and steps."""
    order = ["target", "evaluation", "arm", "strategy", "steps"]
    out = []
    # Every setting has a column, which each group would be copied with: 1,300 runs took 2 s.
    for key, runs in counted(frame)[[*order, *_OF_A_CELL]].groupby(order, sort=True):
        target, evaluation, arm, strategy, steps = key
        first = runs.iloc[0]
        runs = runs.sort_values(["pretrain_seed", "seed"])
        mean = float(runs["test"].mean())
        alone = len(runs) == 1
        std = None if alone else float(runs["test"].std(ddof=1))
        by_pretraining = runs["pretrain_seed"].is_unique and runs["pretrain_seed"].ne("").all()
        seeds = runs["pretrain_seed"] if by_pretraining else runs["pretrain_seed"] + "/" + runs["seed"]
        out.append(
            Cell(
                target=str(target),
                evaluation=str(evaluation),
                arm=str(arm),
                strategy=str(strategy),
                own=bool(runs["own"].all()),
                steps=int(str(steps)),
                origin=str(first["origin"]),
                policy=str(first["policy"]),
                share=float(first["share"]),
                chain=tuple(first["chain"]),
                metric=str(first["metric"]),
                mean=mean,
                std=std,
                val=float(runs["val"].mean()),
                spread=_sampling_noise(mean, int(runs["test_images"].min())) if std is None else std,
                run_ids=tuple(runs["run_id"]),
                seeds=tuple(seed.strip("/") for seed in seeds),
            )
        )
    return out


_OF_A_CELL = ["run_id", "own", "origin", "policy", "share", "chain", "metric", "val", "test", "test_images"]
_OF_A_CELL += ["pretrain_seed", "seed"]


def at_best_length(found: Sequence[Cell]) -> list[Cell]:
    """Of each arm's lengths of pretraining the one that is best on val; test takes no part in the choice."""
    best: dict[tuple[str, str, str], Cell] = {}
    for cell in found:
        key = (cell.target, cell.evaluation, cell.arm)
        if key not in best or _val(cell) > _val(best[key]):
            best[key] = cell
    return list(best.values())


def published(found: Sequence[Cell]) -> list[Cell]:
    """The cells of the method as published; variants only of strategies that have nothing else there."""
    whole = {(c.target, c.evaluation, c.strategy) for c in found if not c.variant}
    return [c for c in found if not c.variant or (c.target, c.evaluation, c.strategy) not in whole]


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


def deviations(frame: pd.DataFrame) -> list[Deviation]:
    """Where the runs behind the figures differ from the protocol, which the configuration defaults to."""
    evaluations = counted(frame)
    behind = frame[frame["run_id"].isin(evaluations["source_id"])]
    trained = behind[behind["strategy"] != "base"]
    protocol = _defaults(PretrainConfig(strategy="hpt", dataset="-"))
    everywhere = {key: protocol.pop(key) for key in ("config.backbone", "config.image_size")}
    del protocol["config.steps"]
    found = _deviating("all runs", pd.concat([behind, evaluations]), everywhere)
    del protocol["config.share"]  # of the study of robustness, as its augmentations are
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
        if kind == "finetune":
            mine |= {
                "config.finetune.lr": {"0.01", "0.001"},
                "config.finetune.schedule": {"2500-steps", "90-epochs"},
            }
        found += _deviating(name, rows, mine)
    return found


def _row(record: Record, by_id: dict[str, Record]) -> dict[str, object]:
    tags, facts, params = record.tags, record.facts, record.params
    metric, strategy, dataset = facts.metric or "", tags.strategy or "", tags.dataset or ""
    source = by_id.get(record.source_id)
    origin = _origin(source) if source else ""
    pretrain_dataset = tags.pretrain_dataset or ""
    own = pretrain_dataset in {"", dataset}
    if strategy == "weights":
        arm = f"weights {Path(params.get('weights', '')).name}".strip()
    else:
        arm = strategy if own else f"{strategy} on {pretrain_dataset}"
    pretraining = record if record.kind == "pretrain" else source
    how = pretraining.params if pretraining else {}
    policy, share = how.get("augment.policy", "baseline"), float(how.get("share", 1))
    if policy != "baseline":
        arm += f" {policy}"  # a row of the robustness study is an arm of its own
    if share < 1:
        arm += f" {100 * share:g} % of images"
    if record.source_id and pretraining is None:
        arm += " (its pretraining is deleted)"
    if source and source.params.get("keep_best") == "True" and tags.of_steps is None:
        arm += " kept best"
    backbone, size = params.get("backbone", ""), params.get("image_size", "")
    config = {f"config.{key}": value for key, value in params.items()}
    return {
        "run_id": record.run_id,
        "name": record.name,
        "kind": record.kind,
        "state": record.state.lower(),
        "start": record.start,
        "end": record.end if record.end is not None else math.nan,
        "experiment": record.experiment,
        "command": record.command,
        "strategy": strategy,
        "dataset": dataset,
        "pretrain_dataset": pretrain_dataset,
        "steps": tags.steps or 0,
        "length": f"{tags.of_steps or tags.steps or 0:,}",
        "labels": facts.labels or "",
        "pretrain_seed": _text(tags.pretrain_seed),
        "seed": _text(tags.seed),
        "preset": tags.preset or "",
        "setting": f"{backbone}, {size} px" if backbone and size else "",
        "metric": metric,
        "val": record.metrics.get(f"val/{metric}", math.nan),
        "test": record.metrics.get(f"test/{metric}", math.nan),
        "test_std": record.metrics.get(f"test/{metric}_std", math.nan),
        "test_images": facts.test_images or 0,
        "probes": tuple(sorted(key for key in record.metrics if key.startswith("probe/"))),
        "origin": origin,
        "evaluation": _evaluation(record.kind, facts.labels or ""),
        "arm": arm,
        "own": own,
        "policy": policy,
        "share": share,
        "chain": tuple(_chain(pretraining, by_id)) if pretraining else (),
        "images_per_second": record.metrics.get("images_per_second", math.nan),
        "energy_wh": record.metrics.get("energy_wh", math.nan),
        "pretraining_images": facts.images or 0,
        "seconds": record.end - record.start if record.end is not None else math.nan,
        "folder": record.folder,
        "settings": _settings(record),
        "digest": hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest(),
        "weights_sha256": facts.weights_sha256 or "",
        "data_fingerprint": facts.data_fingerprint or "",
        "images": (facts.data_fingerprint or "")[:3] + (facts.split_fingerprint or "")[:3],
        "split_fingerprint": facts.split_fingerprint or "",
        "hardware": facts.hardware or "",
        "version": tags.version or "",
        "commit": tags.commit or "",
        "source_id": record.source_id,
        "parent_id": record.parent_id or "",
        **config,
    }


def _chain(pretraining: Record, by_id: dict[str, Record]) -> list[str]:
    """Datasets that a backbone was pretrained on, back to the run that made the base: it starts from random weights."""
    source = by_id.get(pretraining.source_id)
    before = _chain(source, by_id) if source and source.tags.strategy in {"hpt", "hpt-bn"} else []
    return [*before, pretraining.tags.dataset or ""]


def _settings(record: Record) -> tuple[str, ...]:
    """The settings of a run that are not the protocol's, as `--set` takes them."""
    if record.kind not in {"pretrain", *EVALUATIONS}:
        return tuple(f"{k}={v}" for k, v in sorted(record.params.items()) if not k.startswith("evaluate."))
    protocol = _protocol(record.kind)
    params = {k: v for k, v in record.params.items() if k.partition(".")[0] not in set(EVALUATIONS) - {record.kind}}
    return tuple(f"{k}={v}" for k, v in sorted(params.items()) if k not in _IN_THE_ROW and v != protocol.get(k))


_IN_THE_ROW = {"strategy", "dataset", "weights", "seed", "steps", "labels", "kind", "preset"}


@cache
def _protocol(kind: str) -> dict[str, str]:
    """Every setting of a kind of run as published."""
    config: Config = PretrainConfig(strategy="hpt", dataset="-")
    if kind != "pretrain":
        config = EvaluateConfig(kind="linear", weights="-", dataset="-")
    return {key: str(value) for key, value in flatten(config.model_dump(mode="json")).items()}


def _origin(pretraining: Record) -> str:
    """What a pretraining started from: the run, or the weights by their name."""
    if pretraining.tags.strategy == "target":
        return ""
    source, weights = pretraining.source, pretraining.tags.weights or ""
    if source and weights.startswith(f"{source}@"):  # its backbone after some of its steps
        return weights
    return source or Path(weights).name


def _evaluation(kind: str, labels: str) -> str:
    name = EVALUATIONS.get(kind, "")
    if not name or (kind != "finetune" and labels in {"", "all"}):
        return name
    return f"{name}, {int(labels):,} labels" if labels.isdecimal() else f"{name}, {labels or 'all'} labels"


def _qualified(
    frame: pd.DataFrame, column: str, joint: str, qualifier: str, within: list[str], telling: pd.Series[bool]
) -> pd.Series[str]:
    """`column`, followed by `qualifier` in the groups whose `telling` rows hold several of it."""
    has_one = frame[qualifier] != ""
    several = frame[telling & has_one].groupby(within)[qualifier].nunique()
    groups = pd.MultiIndex.from_frame(frame[within])
    ambiguous = groups.isin([key if isinstance(key, tuple) else (key,) for key in several[several > 1].index])
    return (frame[column] + joint + frame[qualifier]).where(has_one & ambiguous, frame[column])


def _standing(frame: pd.DataFrame) -> pd.Series[str]:
    """`counts`: the newest finished run of a figure and seed; `superseded`: the older ones; or the state."""
    standing = frame["state"].copy()
    usable = frame[(frame["state"] == "finished") & (frame["evaluation"] != "") & frame["test"].notna()]
    same = ["target", "evaluation", "arm", "steps", "pretrain_seed", "seed"]
    older = usable.sort_values("end", kind="stable").duplicated(same, keep="last")
    standing[usable.index] = "counts"
    standing[older[older].index] = "superseded"
    return standing


def _sampling_noise(share: float, images: int) -> float:
    """Two standard errors of a share of so many test images; without their number no difference counts."""
    return 2 * math.sqrt(max(share * (1 - share), 0.0) / images) if images else math.inf


def _val(cell: Cell) -> tuple[float, int]:
    return (-math.inf if math.isnan(cell.val) else cell.val), cell.steps


def _defaults(config: Config) -> dict[str, set[str]]:
    """What the protocol allows for each setting of the method, as against the machine and the bookkeeping."""
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
    }
    values = flatten(config.model_dump(mode="json"))
    return {
        f"config.{key}": {str(value)}
        for key, value in values.items()
        if key not in aside and not key.endswith("_every") and not key.startswith("data.")
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


def _text(number: int | None) -> str:
    return "" if number is None else str(number)
