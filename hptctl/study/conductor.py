"""Do what is missing of a study: one run after the other, or several beside each other."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import TYPE_CHECKING

from hpt.config import PretrainConfig
from hpt.data.names import find, name_of
from hpt.errors import TIME_IS_UP, TIME_IS_UP_CODE, HptError, Interrupted
from hptctl import console, deadline, runs, tracking
from hptctl.format import duration
from hptctl.runs import Run, launch
from hptctl.runs.children import SHUTDOWN_SECONDS, Child, Children, child_processes, share, threads
from hptctl.runs.launch import Origin
from hptctl.runs.record import Tags
from hptctl.study.definition import Cell, Study
from hptctl.study.import_runs import point_here
from hptctl.study.progress import Progress
from hptctl.sweep import folder as sweeps
from hptctl.sweep.conductor import run_sweep

if TYPE_CHECKING:
    from hptctl.study.leads import Leads

PATIENCE_SECONDS = SHUTDOWN_SECONDS + 30.0
"""Seconds for a run's process to end after a signal: it may have to end processes of its own first."""


def find_parent(study: Study) -> Run | None:
    """The run of this very grid, if there is one."""
    for run in reversed(runs.all_runs()):
        if run.spec().kind == "study" and run.spec().config == study.model_dump(mode="json"):
            return run
    return None


def parent(study: Study, origin: Origin) -> Run:
    """The run of a study, under which the tracking store has its cells: the one of this very grid, or a new one."""
    if (run := find_parent(study)) is not None:
        return run
    tags = Tags(dataset=" ".join(name_of(find(each)) for each in study.datasets), preset=study.preset)
    return runs.create("study", None, study.name, **launch.spec_of(study, tags, None, origin))


@dataclass(frozen=True)
class StudyOutcome:
    """What a call of `conduct` came to."""

    done: tuple[str, ...]
    """Cells that are done."""
    failed: tuple[tuple[str, str], ...]
    """Cells that are not done, each with the reason; those that wait for a failed one are among them."""
    under_way: tuple[str, ...] = ()
    """Cells that are not waited for, since their jobs are in the queue; `failed` has none then."""


class StudyConductor:
    """Does the cells that are left, each after those that it needs; one that fails stops none but those that need it.

    With several jobs each run is a process of its own.
    """

    looks = True
    """Whether device and weights are looked at here, before a run's folder is made."""

    def __init__(
        self, study: Run, progress: Progress, cells: Sequence[Cell], *, jobs: int = 1, retry: bool, command: str
    ) -> None:
        """`retry` does those that failed before, too. `command` is what the user gave, to be given again."""
        self.study, self.progress, self.cells = study, progress, cells
        self.jobs, self.retry, self.command = jobs, retry, command
        self.failed: dict[str, str] = {}
        self.tried: list[str] = []
        self.put_off: set[str] = set()
        """Cells that the time left was too short for."""
        self.too_short = ""
        """Why nothing was begun."""

    def conduct(self) -> StudyOutcome:
        """Do them.

        Raises:
            Interrupted: by a signal, or since the time that is left is too short for what is left; every run under way
                saved what it had. Busy: another process works on the study.
        """
        launch.say_what_is_not_followed()
        study = self.study
        with study.working():
            study.start()
            with tracking.tracked(study, at_once=True) as tracker:
                try:
                    outcome = self._outcome()
                except BaseException as error:
                    study.write_failure(error)
                    raise
                figures = {"cells_done": float(len(outcome.done)), "cells_failed": float(len(outcome.failed))}
                tracker.log(figures, len(list(study.metrics())) + 1)
                state = "interrupted" if outcome.under_way else "finished"
                study.write_status(state=state, ended=time.time(), results=figures)
        return outcome

    def _outcome(self) -> StudyOutcome:
        self._do()
        if self.put_off:
            raise self._interrupted(TIME_IS_UP)
        found = {cell.id: self.progress[cell.id] for cell in self.cells}
        return StudyOutcome(
            done=tuple(id for id, each in found.items() if each.state == "done"),
            failed=tuple((id, self.failed.get(id, each.why)) for id, each in found.items() if each.state != "done"),
        )

    def _do(self) -> None:
        point_here(self.progress, self.cells)
        self._one_by_one() if self.jobs == 1 else self._side_by_side()

    @cached_property
    def leads(self) -> Leads:
        from hptctl.study.leads import Leads  # PyTorch, to measure this machine

        return Leads(self.progress)

    def _one_by_one(self) -> None:
        for cell in self.cells:  # each comes after those that it needs
            if self._ready(cell) and (run := self._begin(cell)) is not None:
                try:
                    self._settle(cell, _here(run))
                except Interrupted as stop:
                    raise self._interrupted(stop.signum) from None

    def _side_by_side(self) -> None:
        doing: dict[int, tuple[Cell, Run]] = {}
        with child_processes(self.jobs, patience=PATIENCE_SECONDS) as children:
            while True:
                for cell in self.cells:
                    if children.stop() or not (free := children.free()):
                        break
                    if self._ready(cell) and (run := self._begin(cell)) is not None:
                        _start(run, free[0], children)
                        doing[free[0]] = cell, run
                if not children.running:
                    break
                for child in children.wait():
                    cell, run = doing.pop(child.slot)
                    if run.status().exit_code == TIME_IS_UP_CODE:
                        self.put_off.add(cell.id)
                    self._settle(cell, "" if children.stop() or cell.id in self.put_off else _why(run, child))
        if stop := children.stop():
            raise self._interrupted(stop)

    def _ready(self, cell: Cell) -> bool:
        """Whether a cell is to be done now."""
        if cell.id in self.tried or any(self.progress[id].state != "done" for id in self.progress.settled(cell).needs):
            return False
        state = self.progress[cell.id].state
        return (state in {"left", "stopped"} or (state == "failed" and self.retry)) and self._in_time(cell)

    def _in_time(self, cell: Cell) -> bool:
        """Whether a cell would get somewhere in the time that is left."""
        left = deadline.left()
        needed = 0.0 if left == inf else self.leads.useful_seconds(cell, own_process=self.jobs > 1)
        if left > needed:
            return True
        if not self.tried:
            self.too_short = (
                f"; to begin {cell.id} takes about {duration(needed)}, and {duration(max(left, 0))} were left"
            )
        self.put_off.add(cell.id)
        return False

    def _begin(self, cell: Cell) -> Run | None:
        """The cell's run: the one that was begun, or a new one; None where it cannot begin."""
        self.tried.append(cell.id)
        console.note(f"[{[each.id for each in self.cells].index(cell.id) + 1}/{len(self.cells)}] {cell.id}")
        found = self.progress[cell.id]
        if found.state in {"stopped", "failed"}:
            return runs.get(found.run)
        config = self.progress.config(cell)
        origin = Origin(self.command, self.study.spec().experiment, parent=self.study.name)
        try:
            if isinstance(config, PretrainConfig):
                return launch.create_pretraining(config, origin, suggestion=cell.id, look=self.looks)
            create = sweeps.create_protocol if cell.sweep else launch.create_evaluation
            return create(config, origin, suggestion=cell.id, look=self.looks)
        except HptError as error:
            self._settle(cell, str(error))
        return None

    def _settle(self, cell: Cell, why: str) -> None:
        if why:
            self.failed[cell.id] = why
            console.warn(f"{cell.id}: {why}")
        self.progress.refresh(store=False)

    def _interrupted(self, signum: int) -> Interrupted:
        done = sum(self.progress[cell.id].state == "done" for cell in self.cells)
        too_short = self.too_short if not self.tried else ""
        return Interrupted(
            signum, f"study '{self.study.name}' was stopped, {done} of {len(self.cells)} cells done{too_short}"
        )


def _here(run: Run) -> str:
    """Do a run in this process; the reason where it failed, else an empty text."""
    try:
        run_sweep(run) if run.spec().kind == "sweep" else launch.execute(run)
    except Interrupted:
        raise
    except HptError as error:  # one failed cell does not stop the others
        return str(error)
    return ""


def _start(run: Run, slot: int, children: Children) -> None:
    """Begin a run, or go on with it, in a process of its own, on a GPU in turn and a share of the cores."""
    processes = int(run.spec().config.get("processes", 1))
    environment = share(slot, children.slots) | threads(children.slots * processes)
    command = [sys.executable, "-m", "hptctl", *launch.resume_words(run)]
    children.start(slot, command, run.path / "study.log", environment)


def _why(run: Run, child: Child) -> str:
    """Why a run whose process has ended failed; an empty text where it finished."""
    status = run.status()
    if status.state == "finished":
        return ""
    return status.reason or f"its process {child.ending}; see {child.log}"
