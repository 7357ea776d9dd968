"""The progress of a study: which of its cells are done.

A cell is done when a finished run has its fingerprint (`hpt.config.fingerprint`: method, images, split, weights,
version), in this folder or in the tracking store, whoever made it. So a study has no state of its own that could be
lost: what is done is found anew each time.

Looking downloads nothing. Of a dataset that a run would download first, it cannot be told what is done: its cells are
left until `Progress.fetch` gets it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from hpt.config import UNTRAINED, EvaluateConfig, PretrainConfig, fingerprint
from hpt.data.listing import SPLITS
from hpt.data.names import absence_of, find, published_sizes
from hpt.data.row import Absence, CatalogRow
from hpt.errors import DataError, RunError
from hptctl import console, deadline, runs, tracking
from hptctl.runs import Run, launch
from hptctl.runs.record import Facts
from hptctl.runs.weights import backbone_of, kept_backbone, would_fetch
from hptctl.study.at_hand import choose, settled
from hptctl.study.definition import Backbone, Cell, Study, cells
from hptctl.study.materials import Images, Materials, Recorded, key_of
from hptctl.sweep.plan import protocol

if TYPE_CHECKING:
    from hpt.data.dataset import Dataset

CellState = Literal["done", "left", "stopped", "running", "failed", "no data", "waits"]


@dataclass(frozen=True)
class Found:
    """What was found of a cell."""

    state: CellState
    """How far the cell is."""
    run: str = ""
    """The name of its run; empty where there is none."""
    why: str = ""
    """Why a cell failed, has no data, waits or is made again; empty elsewhere."""
    backbones: tuple[tuple[int | None, str], ...] = ()
    """The backbones of a finished pretraining: each its step (None for the run's own) and its sha256."""
    here: bool = True
    """Whether the run is on this machine, of a pretraining with its backbones; one that is not counts, but what it made
    cannot be used."""
    mlflow_id: str | None = None
    """The id in the tracking store of a run that has no folder on this machine."""

    def sha256(self, step: int | None) -> str | None:
        return dict(self.backbones).get(step)


@dataclass(frozen=True)
class Missing:
    """What the cells that are not done need and this machine does not have yet."""

    datasets: tuple[Absence, ...]
    weights: tuple[str, ...]
    """The names of known weights, which a run fetches."""


class Progress:
    """What there is of a study's cells, looked up once when it is made."""

    def __init__(self, cells: Sequence[Cell], materials: Materials | None = None) -> None:
        """`materials` are what the cells rest on, looked at in this process if None."""
        self.cells = {cell.id: cell for cell in cells}
        if materials is None:
            from hptctl.study.here import Here  # PyTorch

            materials = Here()
        self.materials = materials
        self._images: dict[tuple[str, int, str], Images | DataError] = {}
        self._unfetched: dict[str, DataError] = {}
        self._absences: dict[str, Absence | None] = {}
        self._known: dict[str, str | None] = {}
        self.refresh()

    def refresh(self, *, store: bool = True) -> None:
        """Look at the runs again, `runs`; at those of the tracking store too, which takes longer."""
        self.runs = [(run, run.spec(), run.status()) for run in runs.all_runs()]
        self._finished: dict[str, list[Run]] = {}
        for run, _, status in self.runs:
            if status.state == "finished" and (fingerprint_ := status.facts.fingerprint):
                self._finished.setdefault(fingerprint_, []).insert(0, run)  # the newest first
        if store:
            finished = [r for r in _records() if r.state == "FINISHED"]
            self._elsewhere = {r.facts.fingerprint: r for r in finished if r.facts.fingerprint}
        self._found: dict[str, Found] = {}
        self._absences.clear()

    def look_again(self) -> None:
        """The materials know more than before."""
        self._images.clear()
        self._known.clear()
        self.refresh(store=False)

    def fetch(self) -> None:
        """Get the datasets that a run would download by itself, since without them it cannot be told what is done."""
        for name in dict.fromkeys(cell.config.dataset for cell in self.cells.values()):
            try:
                row = find(name)
                if isinstance(row, CatalogRow):
                    with console.Display(follow=deadline.follow) as display:
                        row.fetch(display.progress)
            except DataError as error:
                self._unfetched[name] = error
        self._absences.clear()
        self._found.clear()

    def missing(self) -> Missing:
        """What the cells that are not done need and this machine does not have yet."""
        left = [cell for cell in self.cells.values() if self[cell.id].state != "done"]
        datasets = {name: self._absence_or_none(name) for name in dict.fromkeys(cell.config.dataset for cell in left)}
        bases = dict.fromkeys(cell.config.weights for cell in left if not cell.needs)
        return Missing(
            datasets=tuple(absence for absence in datasets.values() if absence is not None),
            weights=tuple(name for name in bases if name is not None and would_fetch(name)),
        )

    def __getitem__(self, id: str) -> Found:
        """What there is of a cell."""
        if id not in self._found:
            self._found[id] = self._look(self.settled(self.cells[id]))
        return self._found[id]

    def images(self, config: PretrainConfig | EvaluateConfig) -> Images | None:
        """The images of a cell, decoded where they are not yet; None where a run would have to download them first, or
        nothing is known of them.

        Raises:
            DataError: they are not here and no run downloads them, or they are not fit.
        """
        if config.dataset in self._unfetched:
            raise self._unfetched[config.dataset]
        key = key_of(config)
        if key not in self._images:
            try:
                absence = self._absence(config.dataset)
                if absence is not None and absence.by == "run":
                    return None
                found = self.materials.images(config)
            except DataError as error:
                self._images[key] = error
                raise
            if found is None:
                return None
            self._images[key] = found
        known = self._images[key]
        if isinstance(known, DataError):
            raise known
        return known

    def readable(self, config: PretrainConfig | EvaluateConfig) -> Dataset | None:
        """The whole dataset of a cell; None wherever it cannot be read."""
        return self.materials.readable(config) if self._known_images(config) is not None else None

    def _known_images(self, config: PretrainConfig | EvaluateConfig) -> Images | None:
        """As `images`; None wherever they cannot be read."""
        try:
            return self.images(config)
        except DataError:
            return None

    def sizes(self, config: PretrainConfig | EvaluateConfig) -> dict[str, int]:
        """Images of each split of a cell's dataset; as published where it cannot be read, 0 where nothing is known."""
        images = self._known_images(config)
        if images is not None:
            return dict(images.sizes)
        try:
            return published_sizes(find(config.dataset))
        except DataError:
            return dict.fromkeys(SPLITS, 0)

    def weights_of(self, backbone: Backbone) -> str:
        """How `--weights` names a cell's backbone."""
        run = self[backbone.cell].run
        return run if backbone.step is None else f"{run}@{backbone.step}"

    def settled(self, cell: Cell) -> Cell:
        """The cell with the backbone that val has chosen for it, once all of the linear probes are done."""
        if not cell.among:
            return cell
        figures = [self._val(each.probe) for each in cell.among]
        known = [figure for figure in figures if figure is not None]
        if len(known) < len(figures):
            return cell
        return replace(cell, backbone=cell.among[known.index(max(known))].backbone)

    def _val(self, probe: str) -> float | None:
        """The headline figure on val of an evaluation; None where it is not done."""
        # Not through `self[probe]`, which may ask in turn whether a cell like the one to be settled needs a backbone.
        found = self._finished_run(self.cells[probe])
        if found is None:
            return None
        if found.here:
            status = runs.get(found.run).status()
            return status.results.get(f"val/{status.facts.metric}")
        record = next(each for each in self._elsewhere.values() if each.run_id == found.mlflow_id)
        return record.metrics.get(f"val/{record.facts.metric}")

    def config(self, cell: Cell) -> PretrainConfig | EvaluateConfig:
        """The cell's configuration as its run has it; only where the cells that it needs are done and here."""
        cell = self.settled(cell)
        if cell.backbone is None:
            return cell.config
        return cell.config.model_copy(update={"weights": self.weights_of(cell.backbone)})

    def _look(self, cell: Cell) -> Found:
        try:
            self.images(cell.config)
        except DataError as error:
            return Found("no data", why=str(error))
        again = ""
        if (found := self._finished_run(cell)) is not None:
            if found.here or not self._needed(cell):
                return found
            again = f"the weights of '{found.run}' are not here, and cells that are left start from them"
        for id in cell.needs:
            if self[id].state in {"failed", "waits", "no data"}:
                return Found("waits", why=f"for {id}")
        if cell.among and cell.backbone is None:
            return Found("left", why="val of its linear probes chooses its length")
        if cell.backbone is not None:
            needed = self[cell.backbone.cell]
            if needed.state != "done" or not needed.here:
                return Found("left", why=again)
        begun = self._begun(cell)
        return replace(begun, why=again) if begun.state == "left" else begun

    def _finished_run(self, cell: Cell) -> Found | None:
        """The finished run of a cell's fingerprint: one of this folder, or else one that the store knows."""
        of_cell = self._fingerprint(cell)
        if of_cell is None:
            return None
        done = [found for run in self._finished.get(of_cell, ()) if (found := _done(cell, run))]
        if done:
            return next((found for found in done if found.here), done[0])
        record = self._elsewhere.get(of_cell)
        if record is None:
            return None
        kept = _backbones(cell.config, record.facts) if isinstance(cell.config, PretrainConfig) else ()
        if isinstance(cell.config, PretrainConfig) and not kept:
            return None
        return Found("done", record.name, backbones=kept, here=False, mlflow_id=record.run_id)

    def _fingerprint(self, cell: Cell) -> str | None:
        """What a cell's result rests on; None where its images or the weights that it starts from are not known."""
        start, images = self._sha256(cell), self._known_images(cell.config)
        precision = self.materials.precision(cell.config)
        if start is None or images is None or precision is None:
            return None
        of: Callable[..., str] = partial(fingerprint, cell.config)
        if cell.sweep and isinstance(cell.config, EvaluateConfig):
            of = protocol(cell.config).fingerprint
        return of(data=images.fingerprint, split=images.split_fingerprint, weights=start, precision=precision)

    def needed(self, id: str) -> bool:
        """Whether cells that are not done start from the backbones of a pretraining, or will if val chooses so."""
        undecided = (cell for cell in map(self.settled, self.cells.values()) if cell.backbone is None)
        candidates = {each.backbone.cell for cell in undecided for each in cell.among}
        return id in candidates or self._needed(self.cells[id])

    def _needed(self, cell: Cell) -> bool:
        """Whether a cell that is not done needs the backbone of this one."""
        for other in map(self.settled, self.cells.values()):
            if other.backbone is not None and other.backbone.cell == cell.id:
                found = self._finished_run(other)
                if found is None or (not found.here and self._needed(other)):
                    return True
        return False

    def _sha256(self, cell: Cell) -> str | None:
        """The sha256 of the weights that a cell starts from or evaluates; None where it is unknown, "" for random
        weights."""
        if cell.among and cell.backbone is None:
            return None
        if cell.backbone is not None:
            found = self._finished_run(self.cells[cell.backbone.cell])
            return found.sha256(cell.backbone.step) if found else None
        name = cell.config.weights
        if name is None or (name == UNTRAINED and isinstance(cell.config, EvaluateConfig)):
            return ""
        if name not in self._known:
            self._known[name] = self._sha256_of(name)
        return self._known[name]

    def _sha256_of(self, weights: str) -> str | None:
        """The sha256 of known weights that are in the cache, of a file, or of a run, whether its weights are here or
        not; None where there is no such thing."""
        if would_fetch(weights):
            return None
        run = runs.find(weights)
        if run is not None and run.status().state == "finished" and not run.backbone.exists():
            return run.status().facts.backbone_sha256
        return self.materials.sha256(weights)

    def _begun(self, cell: Cell) -> Found:
        """What there is of a cell that has no finished run: a run of its configuration that stopped, failed or is
        running. One that has found its images and weights to be the cell's may have them at another place."""
        config, of_cell = self._config_of_run(cell), self._fingerprint(cell)
        source = self[cell.backbone.cell].run if cell.backbone is not None else None
        started = runs.get(source).spec().created if source else 0.0
        for run, spec, status in reversed(self.runs):
            if spec.kind != cell.kind or runs.is_trial(run):
                continue
            rests_on = status.facts.fingerprint
            same = rests_on is not None and rests_on == of_cell and _elsewhere(spec.config) == _elsewhere(config)
            if not same and (spec.config != config or spec.created < started):
                continue
            if status.state == "finished":
                return Found("left")  # of images that have changed since
            if status.state in {"failed", "running"}:
                return Found("failed" if status.state == "failed" else "running", run.name, status.reason)
            return Found("stopped", run.name)
        return Found("left")

    def _absence(self, dataset: str) -> Absence | None:
        if dataset not in self._absences:
            self._absences[dataset] = absence_of(find(dataset))
        return self._absences[dataset]

    def _absence_or_none(self, dataset: str) -> Absence | None:
        try:
            return self._absence(dataset)
        except DataError:  # of a name that means nothing: that is said in its cells' states
            return None

    def _config_of_run(self, cell: Cell) -> dict[str, Any]:
        """The configuration as `run.json` of the cell's run has it."""
        config = self.config(cell)
        pinned = launch.pinned(config)
        if cell.sweep and isinstance(config, EvaluateConfig):
            return protocol(config).model_dump(mode="json") | {"evaluate": pinned}
        return pinned


def _elsewhere(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's configuration but for where its images and weights lie."""
    return {key: value for key, value in config.items() if key not in {"dataset", "weights"}}


def _done(cell: Cell, run: Run) -> Found | None:
    facts = run.status().facts
    if isinstance(cell.config, EvaluateConfig):
        return Found("done", run.name)
    kept = _backbones(cell.config, facts)
    here = run.backbone.exists() and all(kept_backbone(run, step).exists() for step, _ in kept if step)
    return Found("done", run.name, backbones=kept, here=here) if kept else None


def _backbones(config: PretrainConfig, facts: Facts) -> tuple[tuple[int | None, str], ...]:
    """The step and sha256 of each backbone that a pretraining has to have kept; nothing where one of them is
    missing."""
    kept: list[tuple[int | None, str | None]] = [(None, facts.backbone_sha256)]
    kept += [(step, facts.backbone_sha256_at.get(step)) for step in config.save_at if step != config.steps]
    found = tuple((step, sha256) for step, sha256 in kept if sha256 is not None)
    return found if len(found) == len(kept) else ()


def _records() -> list[tracking.Record]:
    """The runs of the tracking store; none where there is no store."""
    try:
        return tracking.read_runs()
    except RunError:
        return []


def of_run(run: Run) -> Progress:
    """The progress of a study that was begun in this folder; where its cells were jobs, by what one found on a node.

    Raises:
        ConfigError: its base is not here. RunError: it is another version's.
    """
    study = run.config(Study)
    every = cells(settled(study, choose(study, fetch=False)), backbone_of)
    found = Recorded(run.path)
    return Progress(every, found if found.where else None)


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
    progress = of_run(run)
    progress.fetch()
    found = [progress[id] for id in progress.cells]
    ids = [each.mlflow_id or runs.tracked_id(runs.get(each.run)) for each in found if each.state == "done"]
    if not (known := {id for id in ids if id is not None}):
        raise RunError(f"nothing of the study '{run.name}' is finished", f"`{run.spec().command}`")
    return known
