"""A study under way: which of its cells are done, what the rest costs, and doing it.

A cell is done when a finished run has its fingerprint (`hpt.config.fingerprint`: method, images, split, weights,
version), in this folder or in the tracking store, whoever made it. So a study has no state of its own that could be
lost: what is done is found anew each time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from hpt.config import PROTOCOL_LABELS, EvaluateConfig, PretrainConfig, fingerprint
from hpt.data.dataset import Dataset, find, load, name_of
from hpt.data.listing import SPLITS
from hpt.errors import DataError, HptError, Interrupted, RunError, WeightsError
from hpt.schedule import parse_schedule
from hptctl import console, launch, runs, search, tracking
from hptctl.grid import Backbone, Cell, Study, cells
from hptctl.runs import Run
from hptctl.search import conductor
from hptctl.signals import held_back

State = Literal["done", "left", "stopped", "running", "failed", "no data", "waits"]


@dataclass(frozen=True)
class Found:
    """What there is of a cell."""

    state: State
    run: str = ""
    """Name of its run, where there is one."""
    why: str = ""
    """Of `failed`, `no data` and `waits`."""
    backbones: tuple[tuple[int | None, str], ...] = ()
    """Of a finished pretraining: steps (None: its own) and sha256 of its backbones."""
    here: bool = True
    """Whether the run's folder is within reach; a run of another machine counts, but its backbone cannot be used."""
    mlflow_id: str | None = None
    """In the tracking store, of a run of another machine."""

    def sha256(self, step: int | None) -> str | None:
        return dict(self.backbones).get(step)


@dataclass(frozen=True)
class Cost:
    """What a cell takes."""

    images: int
    """Images through the model, forward and backward."""
    forward: int
    """Images through the model, forward only."""
    seconds: float
    """By this machine's measured speed of the bare model; NaN where it was not measured."""


class Progress:
    """What is there of a study's cells, looked up once when it is made."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.cells = {cell.id: cell for cell in cells}
        self._datasets: dict[tuple[str, int], Dataset | DataError] = {}
        self._known: dict[str, str | None] = {}
        self.refresh()

    def refresh(self, *, store: bool = True) -> None:
        """Look at the runs again; at those of the tracking store too, which takes longer."""
        self._runs = [(run, run.spec(), run.status()) for run in runs.all_runs()]
        self._finished: dict[str, list[Run]] = {}
        for run, _, status in self._runs:
            if status.state == "finished" and "fingerprint" in status.facts:
                self._finished.setdefault(status.facts["fingerprint"], []).insert(0, run)  # the newest first
        if store:
            finished = [r for r in _records() if r.state == "FINISHED" and "fingerprint" in r.tags]
            self._elsewhere = {record.tags["fingerprint"]: record for record in finished}
        self._found: dict[str, Found] = {}

    def __getitem__(self, id: str) -> Found:
        """What there is of a cell."""
        if id not in self._found:
            self._found[id] = self._look(self.cells[id])
        return self._found[id]

    def dataset(self, config: PretrainConfig | EvaluateConfig) -> Dataset:
        """The dataset of a cell, decoded where it is not yet.

        Raises:
            DataError: it is not there, or not fit.
        """
        key = (config.dataset, config.data.side(config.image_size))
        if key not in self._datasets:
            try:
                with console.Display() as display:
                    self._datasets[key] = load(key[0], config.data, side=key[1], progress=display.progress)
            except DataError as error:
                self._datasets[key] = error
        found = self._datasets[key]
        if isinstance(found, DataError):
            raise found
        return found

    def weights_of(self, backbone: Backbone) -> str:
        """How `--weights` names a cell's backbone."""
        run = self[backbone.cell].run
        return run if backbone.step is None else f"{run}@{backbone.step}"

    def config(self, cell: Cell) -> PretrainConfig | EvaluateConfig:
        """The cell's configuration as its run has it; only where the cell that it needs is done and here."""
        if cell.backbone is None:
            return cell.config
        return cell.config.model_copy(update={"weights": self.weights_of(cell.backbone)})

    def _look(self, cell: Cell) -> Found:
        try:
            self.dataset(cell.config)
        except DataError as error:
            return Found("no data", why=str(error))
        if (found := self._finished_run(cell)) is not None and (found.here or not self._needed(cell)):
            return found
        if cell.backbone is not None:
            needed = self[cell.backbone.cell]
            if needed.state in {"failed", "waits", "no data"}:
                return Found("waits", why=f"for {cell.backbone.cell}")
            if needed.state != "done" or not needed.here:
                return Found("left")
        return self._begun(cell)

    def _finished_run(self, cell: Cell) -> Found | None:
        """The finished run of a cell's fingerprint: one of this folder, or else one that the store knows."""
        start = self._sha256(cell)
        if start is None:
            return None
        dataset = self.dataset(cell.config)
        of: Callable[..., str] = partial(fingerprint, cell.config)
        if cell.sweep and isinstance(cell.config, EvaluateConfig):
            of = search.protocol(cell.config).fingerprint
        of_cell = of(data=dataset.fingerprint, split=dataset.split_fingerprint, weights=start)
        for run in self._finished.get(of_cell, ()):
            if found := _done(cell, run):
                return found
        record = self._elsewhere.get(of_cell)
        if record is None:
            return None
        kept = _backbones(cell.config, record.tags) if isinstance(cell.config, PretrainConfig) else ()
        if isinstance(cell.config, PretrainConfig) and not kept:
            return None
        return Found("done", record.name, backbones=kept, here=False, mlflow_id=record.run_id)

    def _needed(self, cell: Cell) -> bool:
        """Whether a cell that is not done needs the backbone of this one."""
        for other in self.cells.values():
            if other.backbone is not None and other.backbone.cell == cell.id:
                found = self._finished_run(other)
                if found is None or (not found.here and self._needed(other)):
                    return True
        return False

    def _sha256(self, cell: Cell) -> str | None:
        """Of the weights that the cell starts from or evaluates; None where it is not known, "" for random weights."""
        if cell.backbone is not None:
            found = self._finished_run(self.cells[cell.backbone.cell])
            return found.sha256(cell.backbone.step) if found else None
        name = cell.config.weights
        if name is None:
            return ""
        if name not in self._known:
            self._known[name] = _sha256_of(name)
        return self._known[name]

    def _begun(self, cell: Cell) -> Found:
        """Runs of this configuration that are not finished."""
        config = self._config_of_run(cell)
        source = self[cell.backbone.cell].run if cell.backbone is not None else None
        started = runs.get(source).spec().created if source else 0.0
        for run, spec, status in reversed(self._runs):
            if spec.kind != cell.kind or spec.config != config or runs.is_trial(run) or spec.created < started:
                continue
            if status.state == "finished":
                return Found("left")  # of images that have changed since
            if status.state in {"failed", "running"}:
                return Found("failed" if status.state == "failed" else "running", run.name, status.reason)
            return Found("stopped", run.name)
        return Found("left")

    def _config_of_run(self, cell: Cell) -> dict[str, Any]:
        """As `run.json` of the cell's run has it."""
        config = self.config(cell)
        pinned = launch.pinned(config)
        if cell.sweep and isinstance(config, EvaluateConfig):
            return search.protocol(config).model_dump(mode="json") | {"evaluate": pinned}
        return pinned


def _done(cell: Cell, run: Run) -> Found | None:
    facts = run.status().facts
    if isinstance(cell.config, EvaluateConfig):
        return Found("done", run.name)
    kept = _backbones(cell.config, facts)
    there = run.backbone.exists() and all(launch.kept_backbone(run, step).exists() for step, _ in kept if step)
    return Found("done", run.name, backbones=kept) if kept and there else None


def _backbones(config: PretrainConfig, facts: dict[str, str]) -> tuple[tuple[int | None, str], ...]:
    """Steps and hashes of what a pretraining has to have kept; nothing where one of them is missing."""
    named: list[tuple[int | None, str]] = [(None, "backbone_sha256")]
    named += [(step, f"backbone_sha256_at_{step}") for step in config.save_at if step != config.steps]
    if any(name not in facts for _, name in named):
        return ()
    return tuple((step, facts[name]) for step, name in named)


def _records() -> list[tracking.Record]:
    """What the tracking store has, where there is one."""
    try:
        return tracking.read_runs()
    except RunError:
        return []


def _sha256_of(weights: str) -> str | None:
    """Of known weights that are in the cache, a file, or a run."""
    from hpt.places import cache_folder
    from hpt.weights import KNOWN, read

    if runs.find(weights) is None and weights in KNOWN:
        file = cache_folder() / "weights" / KNOWN[weights].file_name
        return read(file).sha256 if file.exists() else None
    try:
        return read(launch.find_weights(weights)[0]).sha256
    except (WeightsError, RunError):
        return None


def run_ids(name: str) -> set[str]:
    """The tracking store's ids of the finished runs of a study that was begun in this folder.

    Raises:
        RunError: no such study, or nothing of it is finished.
    """
    run = runs.get(name)
    if run.spec().kind != "study":
        raise RunError(
            f"run '{run.name}' is a {run.spec().kind} run, not a study", "see `hptctl runs list --kind study`"
        )
    study = Study.model_validate(run.spec().config)
    progress = Progress(cells(study, launch.backbone_of))
    found = [progress[id] for id in progress.cells]
    ids = [each.mlflow_id or runs.tracked_id(runs.get(each.run)) for each in found if each.state == "done"]
    if not (known := {id for id in ids if id is not None}):
        raise RunError(f"nothing of the study '{run.name}' is finished", f"`{run.spec().command}`")
    return known


# ---- what it costs


def costs(progress: Progress, cells: Sequence[Cell], *, measured: bool) -> dict[str, Cost]:
    """What is left to do of each cell; seconds only where `measured`, which takes some itself."""
    from hpt.pretrain import image_seconds

    speeds: dict[tuple[str, int, str, str], tuple[float, float]] = {}
    out = {}
    for cell in cells:
        config, found = cell.config, progress[cell.id]
        images, forward = (0, 0) if found.state == "done" else _images(cell, progress)
        seconds = float("nan")
        if measured:
            key = (config.backbone, config.image_size, config.device, config.precision)
            if key not in speeds and images + forward:
                speeds[key] = image_seconds(config)
            training, looking = speeds.get(key, (0.0, 0.0))
            seconds = (images * training + forward * looking) / int(getattr(config, "processes", 1))
        out[cell.id] = Cost(images, forward, seconds)
    return out


def _images(cell: Cell, progress: Progress) -> tuple[int, int]:
    """Images through the model with and without a backward pass, for what is left of a cell."""
    config = cell.config
    try:
        dataset: Dataset | None = progress.dataset(config)
    except DataError:
        dataset = None
    sizes = {name: len(rows) for name, rows in dataset.splits.items()} if dataset else dict.fromkeys(SPLITS, 0)
    if isinstance(config, PretrainConfig):
        if config.strategy == "base":
            return 0, round((sizes["train"] + sizes["val"]) * config.share)
        left = config.steps - _steps_done(progress[cell.id])
        return left * config.batch_size, left * config.batch_size
    evaluated = sizes["val"] + sizes["test"]
    if config.kind == "knn":
        return 0, sizes["train"] + evaluated
    labels = _labels(config, dataset)
    if config.kind == "linear":
        drawn = config.linear.views * labels or config.linear.steps * min(config.linear.batch_size, labels or 10**9)
        return 0, drawn + evaluated
    tunes = search.configs(config) if cell.sweep else [config]
    images = forward = 0
    for each in tunes:
        batch = min(each.finetune.batch_size, labels or each.finetune.batch_size)
        steps = parse_schedule(each.finetune.schedule).steps(labels or PROTOCOL_LABELS, batch)
        images += steps * batch
        forward += -(-steps // each.finetune.eval_every) * sizes["val"]
    return images, forward + sizes["test"]


def _labels(config: EvaluateConfig, dataset: Dataset | None) -> int:
    """Training labels that an evaluation will use; 0 where that is not known."""
    from hpt.evaluate.labels import choose

    if dataset is None or not dataset.classes:
        return 0
    try:
        return len(choose(dataset.split("train")[1], len(dataset.classes), config, dataset.classes))
    except DataError:
        return 0


def _steps_done(found: Found) -> int:
    if found.state != "stopped":
        return 0
    return int(max((line["step"] for line in runs.get(found.run).metrics()), default=0))


# ---- doing it


def parent(study: Study, experiment: str) -> Run:
    """The run of a study, under which the tracking store has its cells: the one of this very grid, or a new one."""
    config = study.model_dump(mode="json")
    for run in reversed(runs.all_runs()):
        if run.spec().kind == "study" and run.spec().config == config:
            return run
    tags = {"dataset": " ".join(name_of(find(each)) for each in study.datasets), "preset": study.preset}
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
            create = search.create_protocol if cell.sweep else launch.create_evaluation
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
        conductor.run_sweep(run) if run.spec().kind == "sweep" else launch.execute(run)
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
