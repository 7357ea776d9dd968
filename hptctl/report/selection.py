"""Which runs of the store a report is about, and the findings from them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from hpt.errors import DataError, RunError, did_you_mean
from hptctl import tracking
from hptctl.report.findings import Findings, gather
from hptctl.report.frame import counted, tidy, without_circumstances
from hptctl.tracking import Record


@dataclass(frozen=True)
class Selection:
    """Which runs of the store a report is about; the runs that they started from or evaluated are included."""

    experiment: str | None = None
    names: Sequence[str] = ()
    """Runs with their evaluations and children, by name, MLflow id or fingerprint; empty for all."""
    datasets: Sequence[str] = ()
    only: Collection[str] | None = None
    """MLflow ids of the only runs to consider, for instance of a study's cells; None for all."""


EVERYTHING = Selection()


def read(selection: Selection, *, reproducible: bool = False) -> Findings:
    """The findings from the selected runs of the store; `reproducible` ones are the same of runs with equal results,
    wherever and whenever they ran (`without_circumstances`).

    Raises:
        RunError: the store, experiment or run does not exist, or has no finished evaluation.
        DataError: no run is of the dataset.
    """
    # All runs, since one may start from a run of another experiment.
    records = tracking.read_runs()
    wanted = {record.run_id for record in records}
    if selection.experiment is not None:
        known = {record.experiment for record in records}
        if selection.experiment not in known:
            near = did_you_mean(selection.experiment, known)
            raise RunError(f"{tracking.uri()} has no runs of an experiment '{selection.experiment}'{near}")
        wanted = {record.run_id for record in records if record.experiment == selection.experiment}
    if selection.names:
        wanted &= _named(records, selection.names)
    if selection.only is not None:
        wanted &= set(selection.only)
    if selection.datasets:
        known = {record.tags.dataset for record in records if record.tags.dataset}
        for name in selection.datasets:
            if name not in known:
                raise DataError(f"no run in the store is of a dataset '{name}'{did_you_mean(name, known)}")
        wanted &= {record.run_id for record in records if record.tags.dataset in selection.datasets}
    frame = tidy(_with_what_they_rest_on(records, wanted))
    evaluated = frame if frame.empty else counted(frame)
    if evaluated.empty or (selection.datasets and not set(evaluated["dataset"]) & set(selection.datasets)):
        of = f"experiment '{selection.experiment}' of " if selection.experiment else ""
        among = " among the runs chosen" if selection.names or selection.datasets or selection.only is not None else ""
        raise RunError(f"no finished evaluation runs in {of}{tracking.uri()}{among}", "`hptctl evaluate linear` first")
    return gather(without_circumstances(frame) if reproducible else frame, reproducible=reproducible)


def _named(records: Sequence[Record], names: Sequence[str]) -> set[str]:
    """Ids of the runs of these names (or MLflow ids, or fingerprints), of their evaluations, and of their children.

    Raises:
        RunError: the store has no run of that name.
    """
    found: set[str] = set()
    for name in names:
        ids = {r.run_id for r in records if r.name == name}
        if len(name) >= 8:
            ids |= {r.run_id for r in records if any(id.startswith(name) for id in _ids(r))}
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


def _ids(record: Record) -> tuple[str, ...]:
    """What a page may name a run by, beside its name."""
    return record.run_id, record.first_id, record.facts.fingerprint or ""


def _with_what_they_rest_on(records: Sequence[Record], ids: set[str]) -> list[Record]:
    """The records of these ids, of what they started from or evaluated, and of the sweeps and studies they are of."""
    by_id = {record.run_id: record for record in records}
    found, left = set(), [id for id in ids if id in by_id]
    while left:
        id = left.pop()
        found.add(id)
        links = (by_id[id].source_id, by_id[id].parent_id)
        left += [link for link in links if link in by_id and link not in found]
    return [record for record in records if record.run_id in found]
