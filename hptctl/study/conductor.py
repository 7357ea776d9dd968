"""Do what is missing of a study: one run after the other, or several beside each other."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from hpt.config import PretrainConfig
from hpt.data.names import find, name_of
from hpt.errors import HptError, Interrupted
from hptctl import console, runs, tracking
from hptctl.runs import Run, launch
from hptctl.runs.record import Tags
from hptctl.runs.signals import held_back
from hptctl.study.definition import Cell, Study
from hptctl.study.progress import Progress
from hptctl.sweep import folder as sweeps
from hptctl.sweep.conductor import run_sweep

# ---- what it costs


# ---- doing it


def parent(study: Study, experiment: str) -> Run:
    """The run of a study, under which the tracking store has its cells: the one of this very grid, or a new one."""
    config = study.model_dump(mode="json")
    for run in reversed(runs.all_runs()):
        if run.spec().kind == "study" and run.spec().config == config:
            return run
    tags = Tags(dataset=" ".join(name_of(find(each)) for each in study.datasets), preset=study.preset)
    return runs.create(
        "study", None, study.name, experiment=experiment, command=launch.command_line(), config=config, tags=tags
    )


@dataclass(frozen=True)
class Outcome:
    """How a call of `conduct` ended."""

    done: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]
    """Cells and why; those that wait for a failed one among them."""


def conduct(study: Run, progress: Progress, cells: Sequence[Cell], *, jobs: int, retry: bool) -> Outcome:
    """Do the cells that are left, each after those that it needs; one that fails stops none but those that need it.

    `retry` does those that failed before, too. With several jobs each run is a process of its own.

    Raises:
        Interrupted: by a signal; every run under way saved what it had. Busy: another process works on the study.
    """
    with study.working():
        study.start()
        with tracking.tracked(study, at_once=True) as tracker:
            try:
                outcome = _Conductor(study, progress, cells, jobs, retry).conduct()
            except BaseException as error:
                study.write_failure(error)
                raise
            figures = {"cells_done": float(len(outcome.done)), "cells_failed": float(len(outcome.failed))}
            tracker.log(figures, len(list(study.metrics())) + 1)
            study.write_status(state="finished", ended=time.time(), results=figures)
    return outcome


class _Conductor:
    def __init__(self, study: Run, progress: Progress, cells: Sequence[Cell], jobs: int, retry: bool) -> None:
        self.study, self.progress, self.cells, self.jobs, self.retry = study, progress, cells, jobs, retry
        self.failed: dict[str, str] = {}
        self.tried: list[str] = []

    def conduct(self) -> Outcome:
        self._one_by_one() if self.jobs == 1 else self._side_by_side()
        found = {cell.id: self.progress[cell.id] for cell in self.cells}
        return Outcome(
            done=tuple(id for id, each in found.items() if each.state == "done"),
            failed=tuple((id, self.failed.get(id, each.why)) for id, each in found.items() if each.state != "done"),
        )

    def _one_by_one(self) -> None:
        for cell in self.cells:  # each comes after those that it needs
            if self._ready(cell) and (run := self._begin(cell)) is not None:
                try:
                    self._settle(cell, _here(run))
                except Interrupted as stop:
                    raise self._interrupted(stop.signum) from None

    def _side_by_side(self) -> None:
        slots = list(range(self.jobs))
        flying: dict[Future[str], tuple[Cell, int]] = {}
        with held_back() as stop, ThreadPoolExecutor(self.jobs) as pool:
            while True:
                for cell in self.cells:
                    if slots and not stop() and self._ready(cell) and (run := self._begin(cell)) is not None:
                        slot = slots.pop(0)
                        flying[pool.submit(_beside, run, slot, self.jobs, stop)] = cell, slot
                if not flying:
                    break
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    cell, slot = flying.pop(future)
                    slots.append(slot)
                    self._settle(cell, "" if stop() else future.result())
        if stop():
            raise self._interrupted(stop())

    def _ready(self, cell: Cell) -> bool:
        """Whether a cell is to be done now."""
        if cell.id in self.tried or (cell.backbone and self.progress[cell.backbone.cell].state != "done"):
            return False
        state = self.progress[cell.id].state
        return state in {"left", "stopped"} or (state == "failed" and self.retry)

    def _begin(self, cell: Cell) -> Run | None:
        """The cell's run: the one that was begun, or a new one; None where it cannot begin."""
        self.tried.append(cell.id)
        console.note(f"[{[each.id for each in self.cells].index(cell.id) + 1}/{len(self.cells)}] {cell.id}")
        found = self.progress[cell.id]
        if found.state in {"stopped", "failed"}:
            return runs.get(found.run)
        config, experiment = self.progress.config(cell), self.study.spec().experiment
        try:
            if isinstance(config, PretrainConfig):
                return launch.create_pretraining(
                    config, name=None, experiment=experiment, parent=self.study.name, suggestion=cell.id
                )
            create = sweeps.create_protocol if cell.sweep else launch.create_evaluation
            return create(config, name=None, experiment=experiment, parent=self.study.name, suggestion=cell.id)
        except HptError as error:
            self._settle(cell, str(error))
        return None

    def _settle(self, cell: Cell, why: str) -> None:
        if why:
            self.failed[cell.id] = why
            console.warn(f"{cell.id}: {why}")
        self.progress.refresh(store=False)

    def _interrupted(self, signum: int) -> Interrupted:
        return Interrupted(signum, f"study '{self.study.name}' was stopped", f"go on with `{launch.command_line()}`")


def _here(run: Run) -> str:
    """Do a run in this process; why it failed, or nothing."""
    try:
        run_sweep(run) if run.spec().kind == "sweep" else launch.execute(run)
    except Interrupted:
        raise
    except HptError as error:  # one failed cell does not stop the others
        return str(error)
    return ""


def _beside(run: Run, slot: int, jobs: int, stop: Callable[[], int]) -> str:
    """Do a run in a process of its own, on a GPU in turn or a share of the cores; why it failed, or nothing."""
    import torch

    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}
    if gpus := torch.cuda.device_count():
        environment["CUDA_VISIBLE_DEVICES"] = str(slot % gpus)
    command = [sys.executable, "-m", "hptctl", *launch.resume_words(run)]
    with (run.path / "study.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, start_new_session=True, stdout=log, stderr=log)
        asked = False
        while process.poll() is None:
            if stop() and not asked:
                asked = True
                process.terminate()
            time.sleep(0.1)
    status = run.status()
    if status.state == "finished":
        return ""
    return status.reason or f"its process ended with exit code {process.returncode}; see {run.path / 'study.log'}"
