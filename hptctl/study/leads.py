"""Which cells are worth beginning in the time that is left: by what runs like them took here before their first
saved step, or in all where they save nothing on their way."""

from __future__ import annotations

import socket
from collections import defaultdict
from math import inf

from hpt.config import PretrainConfig
from hpt.data.names import find, name_of
from hptctl.runs import Run
from hptctl.runs.record import Spec, Status
from hptctl.study.cost import costs
from hptctl.study.definition import Cell
from hptctl.study.progress import Progress

UNKNOWN_LEAD_SECONDS = 4.0
"""Taken for the lead of a run where none like it has been made: images, weights, the first step."""
SAVED_SECONDS = 3.0
"""For some steps after the lead, and their save."""
WORKER_SECONDS = 10.0
"""For a process of its own to begin, as a sweep's workers and a study's jobs are."""
Key = tuple[str, str, str | None, int | None]


class Leads:
    """What the runs of the folder took until they trained, and in all."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self._estimated: dict[str, float] = {}
        self._read: dict[str, float] = {}
        """Runs that have been looked at, and when they were begun the last time."""
        self._leads: dict[tuple[Key, bool], float] = defaultdict(lambda: inf)
        self._whole: dict[tuple[Key, bool], float] = defaultdict(lambda: inf)

    def useful_seconds(self, cell: Cell, *, own_process: bool) -> float:
        """The least time in which a cell gets somewhere: all that it takes where nothing of it is saved on its way,
        else its lead and some steps.

        The quickest of the runs like it counts: time that no cell uses is lost, and a slow moment of the machine must
        not keep a cell from ever being begun.
        """
        self._look()
        config, starting = cell.config, WORKER_SECONDS if own_process or cell.sweep else 0.0
        kind = config.strategy if isinstance(config, PretrainConfig) else config.kind
        key = kind, name_of(find(config.dataset)), config.backbone, config.image_size
        if kind in {"base", "knn"}:
            whole = self._known(self._whole, key)
            return starting + (self._estimate(cell) if whole is None else whole)
        lead = self._known(self._leads, key)
        return starting + (UNKNOWN_LEAD_SECONDS if lead is None else lead) + SAVED_SECONDS

    def _known(self, figures: dict[tuple[Key, bool], float], key: Key) -> float | None:
        """The figure of this machine, or else of others whose runs are here."""
        return figures.get((key, True)) or figures.get((key, False))

    def _estimate(self, cell: Cell) -> float:
        """By the measured speed of the bare model."""
        if cell.id not in self._estimated:
            self._estimated[cell.id] = costs(self.progress, [cell], measured=True)[cell.id].seconds
        return UNKNOWN_LEAD_SECONDS + self._estimated[cell.id]

    def _look(self) -> None:
        for run, spec, status in self.progress.runs:
            if status.started is not None and self._read.get(run.name) != status.started:
                self._read[run.name] = status.started
                self._take(run, spec, status)

    def _take(self, run: Run, spec: Spec, status: Status) -> None:
        tags, started = spec.tags, status.started or 0.0
        kind = (tags.strategy or "") if spec.kind == "pretrain" else spec.kind
        key = (kind, tags.dataset or "", tags.backbone, tags.image_size), status.host == socket.gethostname()
        if status.state == "finished" and status.ended is not None:
            self._whole[key] = min(self._whole[key], status.ended - started)
        if (first := next((line["time"] for line in run.metrics() if line["time"] >= started), None)) is not None:
            self._leads[key] = min(self._leads[key], first - started)
