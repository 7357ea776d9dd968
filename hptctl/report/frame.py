"""Tracked runs as one tidy DataFrame, one row per run.

A row holds:

    run_id shown_id name kind state start end experiment command  the run; how a page names it
    strategy dataset pretrain_dataset steps length labels      what was done (`length`: of the run, where it went on)
    pretrain_seed seed training preset backbone image_size     how
    metric val test test_std test_images reruns probes         what came out (NaN where there is nothing)
    precision base                                             what it computed in; what its first stage started from
    origin target evaluation arm own policy share chain        what it is compared as (see `tidy`)
    standing                                                   counts, superseded, or the state
    lr_at_edge                                                 whether val chose the last learning rate of a grid
    decayed                                                    whether the learning rate had come to its end
    images_per_second pretraining_images seconds hardware energy_wh  what it took
    folder                                                     where it keeps its predictions
    fingerprint digest weights_sha256 data_fingerprint split_fingerprint  what it can be checked by
    settings source_id parent_id config.*                      not as published, links, and every setting
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import pandas as pd

from hpt.config import Config, EvaluateConfig, PretrainConfig, flatten
from hptctl.compare.arms import FROZEN, SIDES
from hptctl.format import round_percent, thousands, weights_name
from hptctl.report.names import EVALUATIONS, arm_order
from hptctl.tracking import Record


def tidy(records: Sequence[Record]) -> pd.DataFrame:
    """One row per run, in the order of what they are: by dataset, kind, strategy, steps, seeds and labels; of equal
    ones the oldest first.

    Three columns say what a run is compared as, so that unlike runs never share a figure:

    - `target`: the dataset; with a hash where other images or another split go by the same name, with the
      backbone and image size where it was evaluated in several, and with the metric where several chose. Weights as
      they are, of whatever backbone and size, stand beside what was pretrained: their arm says what differs.
    - `evaluation`: linear probe, finetuning or kNN, with the labels used.
    - `arm`: the strategy; with the dataset it was pretrained on where that is another one, with the augmentations and
      the share of images where that is not all of them, with the weights it started from where a strategy was
      started from several, and with the length of its run where it was kept on the way of a longer one, whose learning
      rate had not decayed yet. What is left of a pretraining that was deleted says so, since what it was is no longer
      known.
    """
    by_id = {record.run_id: record for record in records}
    rows = sorted([_row(record, by_id) for record in records], key=_by_what_it_is)
    frame = pd.DataFrame(rows)
    if frame.empty:
        return frame
    evaluated = frame["evaluation"] != ""
    frame["target"] = _qualified(frame, "dataset", " #", "images", ["dataset"], evaluated)
    guests, frame["arm"] = _guests(frame, evaluated)
    frame["target"] = _qualified(frame, "target", " · ", "setting", ["target"], evaluated & ~guests)
    measured = evaluated & frame["test"].notna()  # neither a trial nor a failed run chose by a metric
    frame["target"] = _qualified(frame, "target", " by ", "metric", ["target"], measured)
    started = evaluated & (frame["strategy"] != "weights")
    frame["arm"] = _qualified(frame, "arm", " from ", "origin", ["target", "arm"], started)
    on_the_way = frame["length"] != ""
    frame["arm"] = (frame["arm"] + " on the way to " + frame["length"]).where(started & on_the_way, frame["arm"])
    frame["standing"] = _standing(frame)
    # A store may have got one run twice, from two folders.
    frame["shown_id"] = frame["shown_id"].mask(frame["shown_id"].duplicated(keep=False), frame["run_id"])
    return frame


def without_circumstances(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame without what depends on when, where and under which name a run ran: times, durations, energy, machine
    and command are unknown in it.

    Runs are named by what their result rests on (`hpt.config.fingerprint`), one that has not recorded it by its
    settings; a second run of the same has a number behind it.
    """
    digest = frame["fingerprint"].where(frame["fingerprint"] != "", frame["digest"].str[:32])
    again = digest.groupby(digest).cumcount()
    number = ("-" + (again + 1).astype(str)).where(again > 0, "")
    unknown = dict.fromkeys(("start", "end", "seconds", "images_per_second", "energy_wh"), math.nan)
    return frame.assign(shown_id=digest + number, name=digest.str[:10] + number, hardware="", command="", **unknown)


def counted(frame: pd.DataFrame) -> pd.DataFrame:
    """The runs whose test figure the report uses."""
    return frame[frame["standing"] == "counts"]


def _row(record: Record, by_id: dict[str, Record]) -> dict[str, object]:
    tags, facts, params = record.tags, record.facts, record.params
    metric, strategy, dataset = facts.metric or "", tags.strategy or "", tags.dataset or ""
    source = by_id.get(record.source_id)
    origin = _origin(source) if source else ""
    pretrain_dataset = tags.pretrain_dataset or ""
    own = pretrain_dataset in {"", dataset}
    if strategy == "weights":
        arm = f"weights {weights_name(params.get('weights', ''))}".strip()
    else:
        arm = strategy if own else f"{strategy} on {pretrain_dataset}"
    pretraining = record if record.kind == "pretrain" else source
    how = pretraining.params if pretraining else {}
    policy, share = how.get("augment.policy", "baseline"), float(how.get("share", 1))
    if policy != "baseline":
        arm += f" {policy}"  # a row of the study of robustness is a separate arm
    if share < 1:
        arm += f" {round_percent(share)} of images"
    if record.source_id and pretraining is None:
        arm += " (its pretraining is deleted)"
    kept_best = bool(source and source.params.get("keep_best") == "True" and tags.of_steps is None)
    if kept_best:
        arm += " kept best"
    backbone = params.get("backbone", "")
    size = params.get(f"{record.kind}.{SIDES[record.kind]}" if record.kind in SIDES else "image_size", "")
    config = {f"config.{key}": value for key, value in params.items()}
    return {
        "run_id": record.run_id,
        "shown_id": record.first_id or record.run_id,
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
        "length": thousands(tags.of_steps) if tags.of_steps and tags.of_steps != tags.steps else "",
        "labels": facts.labels or "",
        "pretrain_seed": _text(tags.pretrain_seed),
        "training": _training(record, strategy),
        "seed": _text(tags.seed),
        "preset": tags.preset or "",
        "setting": f"{backbone}, {size} px" if backbone and size else "",
        "metric": metric,
        "val": record.metrics.get(f"val/{metric}", math.nan),
        "test": record.metrics.get(f"test/{metric}", math.nan),
        "test_std": record.metrics.get(f"test/{metric}_std", math.nan),
        "test_images": facts.test_images or 0,
        "lr_at_edge": facts.lr_at_edge or "",
        "reruns": {"knn": 0, "linear": int(params.get("linear.reruns", 1))}.get(record.kind, 1),
        "probes": tuple(sorted(key for key in record.metrics if key.startswith("probe/"))),
        "precision": facts.precision or _asked_precision(params),
        "base": _base(record, by_id) if record.kind == "pretrain" else None,
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
        "decayed": tags.of_steps in {None, tags.steps} and not kept_best,
        "fingerprint": facts.fingerprint or "",
        "digest": hashlib.sha256(
            json.dumps({key: without_folders(value) for key, value in params.items()}, sort_keys=True).encode()
        ).hexdigest(),
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


def _by_what_it_is(row: Mapping[str, Any]) -> tuple[Any, ...]:
    kinds = ["pretrain", *EVALUATIONS]
    kind = kinds.index(row["kind"]) if row["kind"] in kinds else len(kinds)
    seeds = [int(row[key] or -1) for key in ("pretrain_seed", "seed")]
    of_result = [row[key] for key in ("labels", "fingerprint", "digest")]
    return row["dataset"], kind, row["kind"], arm_order(row["arm"]), row["steps"], *seeds, *of_result


def _training(record: Record, strategy: str) -> str:
    """What an evaluation has in common with those that are no further seed of it: the backbone that was trained."""
    if strategy in FROZEN:  # what trains there, if anything, is the evaluation
        return record.run_id
    return record.source_id or _text(record.tags.pretrain_seed) or record.run_id


def _chain(pretraining: Record, by_id: dict[str, Record]) -> list[str]:
    """Datasets that a backbone was pretrained on, back to the run that made the base: it starts from random weights."""
    source = by_id.get(pretraining.source_id)
    before = _chain(source, by_id) if source and source.tags.strategy in {"hpt", "hpt-bn"} else []
    return [*before, pretraining.tags.dataset or ""]


def _settings(record: Record) -> tuple[str, ...]:
    """The settings of a run that are not the protocol's, as `--set` takes them."""
    if record.kind not in {"pretrain", *EVALUATIONS}:
        return tuple(
            f"{k}={without_folders(v)}" for k, v in sorted(record.params.items()) if not k.startswith("evaluate.")
        )
    protocol = _protocol(record.kind)
    params = {k: v for k, v in record.params.items() if k.partition(".")[0] not in set(EVALUATIONS) - {record.kind}}
    return tuple(f"{k}={v}" for k, v in sorted(params.items()) if k not in _IN_THE_ROW and v != protocol.get(k))


def without_folders(value: str) -> str:
    """A setting with the names of files and folders in place of their paths, which say nothing to another machine."""
    return _PATH.sub(r"\1\2", value) if "/" in value else value


_PATH = re.compile(r"(^|['\"])/(?:[^'\"]*/)?([^'\"/]+)/?(?=$|['\"])")
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
    return source or weights_name(weights)


def _asked_precision(params: dict[str, str]) -> str | None:
    """What a run of version 0.1, which recorded nothing else, was told to compute in; None for what it chose itself."""
    asked = params.get("precision")
    return asked if asked in {"fp32", "bf16"} else None


def _base(pretraining: Record, by_id: dict[str, Record]) -> str | None:
    """What the first stage of a chain started from: weights by their name, or a run that began at random weights and
    how long it was; None for random weights themselves."""
    if pretraining.tags.strategy == "target":
        return None
    source, weights = by_id.get(pretraining.source_id), pretraining.tags.weights or ""
    if source is None:
        return weights_name(weights) or None
    if source.tags.strategy != "target":
        return _base(source, by_id)
    name, _, step = weights.rpartition("@")
    steps = int(step) if name == source.name and step.isdecimal() else source.tags.steps or 0
    length = thousands(source.tags.steps or 0)
    how_long = f"{thousands(steps)} of {length} steps" if steps != source.tags.steps else f"{length} steps"
    return f"{source.name} (pretrained here, {how_long} on {source.tags.dataset or 'a dataset'})"


def _evaluation(kind: str, labels: str) -> str:
    name = EVALUATIONS.get(kind, "")
    if not name or (kind != "finetune" and labels in {"", "all"}):
        return name
    return f"{name}, {thousands(int(labels))} labels" if labels.isdecimal() else f"{name}, {labels or 'all'} labels"


def _qualified(
    frame: pd.DataFrame, column: str, joint: str, qualifier: str, within: list[str], telling: pd.Series[bool]
) -> pd.Series[str]:
    """`column`, followed by `qualifier` in the groups whose `telling` rows hold several of it."""
    has_one = frame[qualifier] != ""
    several = frame.loc[telling & has_one, [*within, qualifier]].groupby(within)[qualifier].nunique()
    groups = pd.MultiIndex.from_frame(frame[within])
    ambiguous = groups.isin([key if isinstance(key, tuple) else (key,) for key in several[several > 1].index])
    return (frame[column] + joint + frame[qualifier]).where(has_one & ambiguous, frame[column])


def _guests(frame: pd.DataFrame, evaluated: pd.Series[bool]) -> tuple[pd.Series[bool], pd.Series[str]]:
    """Which evaluations of weights as they are stand beside those of the one setting that a dataset's own backbones
    have, or of none; and the arms, which say in what such weights differ from these."""
    weights = evaluated & (frame["strategy"] == "weights") & (frame["setting"] != "")
    settings = frame[evaluated & ~weights & (frame["setting"] != "")].groupby("target")["setting"].unique()
    several = settings[settings.map(len) > 1].index
    guests = weights & ~frame["target"].isin(several)
    hosts = settings[settings.map(len) == 1].map(lambda found: found[0])
    arms = frame["arm"].copy()
    for row in frame.index[guests]:
        arm, own = arms[row], str(hosts.get(frame.at[row, "target"], "")).split(", ")
        differs = [each for each in str(frame.at[row, "setting"]).split(", ") if each not in own and each not in arm]
        arms[row] = ", ".join([arm, *differs])
    return guests, arms


def _standing(frame: pd.DataFrame) -> pd.Series[str]:
    """`counts`: the newest finished run of a figure and seed; `superseded`: the older ones; or the state."""
    standing = frame["state"].copy()
    same = ["target", "evaluation", "arm", "steps", "pretrain_seed", "seed"]
    finished = (frame["state"] == "finished") & (frame["evaluation"] != "") & frame["test"].notna()
    usable = frame.loc[finished, [*same, "end"]]
    older = usable.sort_values("end", kind="stable").duplicated(same, keep="last")
    standing[usable.index] = "counts"
    standing[older[older].index] = "superseded"
    return standing


def _text(number: int | None) -> str:
    return "" if number is None else str(number)
