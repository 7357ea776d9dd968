"""What arrives from another machine: runs that are unpacked and checked aside, compared with what is here, and moved
into place, all of them or none.
"""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from hpt.errors import HptError, Interrupted, RunError
from hpt.files import sync, write_text
from hptctl import console, runs, tracking
from hptctl.console import Display
from hptctl.format import listed
from hptctl.runs import Run, Spec, archive, launch, places
from hptctl.runs.archive import TOP, Manifest
from hptctl.runs.places import Move
from hptctl.runs.signals import held_back
from hptctl.study.definition import Cell
from hptctl.study.progress import Progress
from hptctl.sweep import folder as sweeps

STAGING = ".import-"
"""How the folders begin, inside that of the runs, in which archives are unpacked."""
REPLACED = "replaced"
"""In such a folder: the runs that made way for a further state of theirs, until the import is whole."""


@dataclass(frozen=True)
class Arrival:
    """What came of an import."""

    new: tuple[str, ...]
    updated: tuple[str, ...]
    """Runs that were here, and had got further elsewhere."""
    here: tuple[str, ...]
    """Runs that were here already, as far or further."""
    renamed: Mapping[str, str]
    """Studies whose name was taken, and the one that each has here."""
    absent: Mapping[str, int]
    """Images of unfinished runs that are not here, and the number of runs that need them."""
    without_weights: tuple[str, ...]
    """Runs that came, and whose weights are not here."""
    stopped: Mapping[str, str]
    """Runs that came and can go on, and the command that does so."""


@dataclass(frozen=True)
class _Arriving:
    """A run that has been unpacked."""

    run: Run
    """Its folder for the time being."""
    spec: Spec
    """Its record, with the paths of this machine."""

    @property
    def name(self) -> str:
        return self.spec.name


def import_runs(files: Sequence[Path], moves: Sequence[Move] = (), *, display: Display) -> Arrival:
    """Bring the runs of archives into the working folder, and then into its tracking store.

    A run that is here already is kept unless the archive's got further. `moves` say where images and weights lie here
    that lay elsewhere outside of the exporter's working folder.

    Raises:
        RunError: an archive is damaged, or incomplete, or holds other work under a name that is taken; a run that would
            be replaced is being worked on; the disk has no room. Nothing has changed then.
        Interrupted: likewise; or once the runs are in place, before the store has all of them.
    """
    found = [archive.read(file) for file in {archive.whole_of(file): file for file in files}.values()]
    fresh = not runs.RUNS.exists()
    runs.make_runs()
    try:
        _clear_leftovers()
        archive.refuse_without_room(runs.RUNS, sum(each.manifest.total for each in found))
        with _staging() as folder:
            arriving: dict[str, _Arriving] = {}
            renamed: dict[str, str] = {}
            for number, each in enumerate(found):
                archive.unpack(each, folder / str(number), progress=display.progress)
                unpacked = _unpacked(folder / str(number) / TOP, each.manifest, moves)
                unpacked, names = _with_free_names(unpacked, [each.spec for each in arriving.values()])
                renamed |= names
                _add(arriving, unpacked, each.path)
            new, updated = _sorted_out(arriving, found[0].path)
            _move(arriving, new, updated, folder)
    except BaseException:
        if fresh:
            with suppress(OSError):
                runs.RUNS.rmdir()
        raise
    ordered = [name for name in _in_order(arriving) if name in {*new, *updated}]
    _track([Run(runs.RUNS / name) for name in ordered], display)
    return Arrival(
        new=tuple(name for name in ordered if name in new),
        updated=tuple(name for name in ordered if name in updated),
        here=tuple(name for name in arriving if name not in {*new, *updated}),
        renamed={old: name for old, name in renamed.items() if name in new},
        absent=_absent([Run(runs.RUNS / name) for name in arriving]),
        without_weights=tuple(name for name in ordered if name in _without_weights(found)),
        stopped=_stopped([Run(runs.RUNS / name) for name in ordered]),
    )


def point_here(progress: Progress, cells: Iterable[Cell]) -> None:
    """Have the begun runs of a study's cells look for their images where the cells have them, unless they lie where
    the runs remember them: a run that came from elsewhere has seen the same ones at another place."""
    for cell in cells:
        found = progress[cell.id]
        if found.state not in {"stopped", "failed"} or cell.kind == "sweep":
            continue
        run = runs.get(found.run)
        spec = run.spec()
        if any(not Path(place).exists() for place in places.images_of(spec.config)):
            here = launch.pinned(progress.config(cell))["dataset"]
            _record(run, spec.model_copy(update={"config": spec.config | {"dataset": here}}))


# ---- unpacked


@contextmanager
def _staging() -> Iterator[Path]:
    """A folder beside the runs, locked while this process lives."""
    folder = Path(tempfile.mkdtemp(dir=runs.RUNS, prefix=STAGING))
    lock = FileLock(folder / "lock")
    try:
        with lock.acquire(timeout=0):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _clear_leftovers() -> None:
    """Remove what a killed import left, and put back what it had taken away; one that lives is left alone."""
    for folder in runs.RUNS.glob(f"{STAGING}*"):
        with suppress(Timeout, FileNotFoundError), FileLock(folder / "lock").acquire(timeout=0):
            for run in (folder / REPLACED).glob("*"):
                place = runs.RUNS / run.name
                if not (place / "run.json").exists():
                    run.replace(place)
            shutil.rmtree(folder, ignore_errors=True)


def _unpacked(folder: Path, manifest: Manifest, moves: Sequence[Move]) -> list[_Arriving]:
    """The runs of an archive, with paths of this machine; one that was killed on its own machine is known for it."""
    found = []
    here = str(runs.RUNS.resolve())
    usual = [(manifest.runs, here), (manifest.folder, str(Path.cwd())), *moves]
    for name in manifest.run_names:
        run = Run(folder / name)
        spec = run.spec()
        if spec.name != name:
            raise RunError(f"the archive calls a run '{name}' that calls itself '{spec.name}'", "export it again")
        started = list(usual)
        if spec.source_folder is not None and spec.source in manifest.run_names:
            started.append((spec.source_folder, f"{here}/{spec.source}"))
        spec = places.moved(spec, started)
        run = _record(run, spec)
        status = run.status()
        if status.state in {"running", "killed"}:  # nobody works on it, since it was exported
            run.write_status(state="killed", reason=status.reason or "its process died without a word")
        tracking.arrive(run)
        found.append(_Arriving(run, spec))
    return found


def _record(run: Run, spec: Spec) -> Run:
    """Write a run's `run.json`; returns the run as it is then."""
    if spec == run.spec():
        return run
    write_text(run.path / "run.json", spec.stored())
    return Run(run.path)


def _with_free_names(arriving: list[_Arriving], others: Sequence[Spec]) -> tuple[list[_Arriving], dict[str, str]]:
    """The runs of an archive with names that its studies can have here, and what became of a study's name: a study of
    the same configuration is the one that is here, and another one of its name gets a number."""
    renamed: dict[str, str] = {}
    here = [*others, *(run.spec() for run in reversed(runs.all_runs()))]
    taken = {spec.name for spec in here}
    for each in arriving:
        if each.spec.kind != "study":
            continue
        same = [spec.name for spec in here if spec.kind == "study" and spec.config == each.spec.config]
        name = each.name if each.name in same else next(iter(same), "")
        if not name:
            tried = (each.name if number == 1 else f"{each.name}-{number}" for number in range(1, 10_000))
            name = next(free for free in tried if free not in taken)
        taken.add(name)
        if name != each.name:
            renamed[each.name] = name
    return [_renamed(each, renamed) for each in arriving], renamed


def _renamed(each: _Arriving, names: Mapping[str, str]) -> _Arriving:
    spec = each.spec
    parent = names.get(spec.parent, spec.parent) if spec.parent is not None else None
    name = names.get(spec.name, spec.name) if spec.kind == "study" else spec.name
    if (name, parent) == (spec.name, spec.parent):
        return each
    spec = spec.model_copy(update={"name": name, "parent": parent})
    run = _record(each.run, spec)
    if name != run.name:
        run = Run(run.path.rename(run.path.with_name(name)))
    return replace(each, run=run, spec=spec)


def _add(arriving: dict[str, _Arriving], more: Iterable[_Arriving], path: Path) -> None:
    """Take the runs of a further archive along; of one that is in several, the furthest state."""
    for each in more:
        other = arriving.get(each.name)
        if other is not None and not _is_same(each.run, other.run):
            raise RunError(f"{path} and another archive have different runs '{each.name}'", "import them elsewhere")
        if other is None or _reach(each.run) > _reach(other.run):
            arriving[each.name] = each


# ---- compared with what is here


def _sorted_out(arriving: Mapping[str, _Arriving], path: Path) -> tuple[set[str], set[str]]:
    """The names of the runs that are new, and of those that are here and have got further elsewhere.

    Raises:
        RunError: other work has the name of one.
    """
    new, updated, other = set(), set(), []
    for name, each in arriving.items():
        mine = Run(runs.RUNS / name)
        if not (mine.path / "run.json").is_file():
            new.add(name)
        elif not _is_same(each.run, mine):
            other.append(name)
        elif each.spec.kind != "study" and _reach(each.run) > _reach(mine):
            updated.add(name)
        elif (there := each.run.status().facts.backbone_sha256) != mine.status().facts.backbone_sha256 and there:
            console.warn(f"run '{name}' is here with other bits than in the archive: what is here stays")
    if other:
        shown = listed([f"'{name}'" for name in other[:5]]) + (f" and {len(other) - 5} more" if len(other) > 5 else "")
        raise RunError(
            f"{shown} of the archive {'is' if len(other) == 1 else 'are'} other work than what has that name here",
            f"import into another folder: mkdir other && cd other && hptctl runs import {path.resolve()}",
        )
    return new, updated


def _is_same(a: Run, b: Run) -> bool:
    """Whether two folders hold one run, or runs that rest on the same: what one of them has, the other would get."""
    mine, other = a.spec(), b.spec()
    if mine.kind != other.kind:
        return False
    if mine.kind == "study":  # known by its grid, as `conductor.parent` knows it
        return mine.config == other.config
    if mine.created == other.created:
        return bool(places.without_places(mine.config) == places.without_places(other.config))
    rests_on = a.status().facts.fingerprint
    return rests_on is not None and rests_on == b.status().facts.fingerprint


def _reach(run: Run) -> tuple[float, ...]:
    """How far a run is. A finished one by its last step (of a sweep, its trials that ended), its figures, then the
    weights that are there; another one first by those that it goes on from, and last by whether its images are here."""
    spec, status = run.spec(), run.status()
    finished = status.state == "finished"
    if spec.kind == "sweep":
        step = float(_ended_trials(run))
    else:
        step = max((line["step"] for line in run.metrics()), default=-1.0)
    weights = len(archive.weights_of(run))
    if finished:
        return finished, step, len(status.results), weights
    return finished, weights, step, len(status.results), not _images_missing(run)


def _ended_trials(sweep: Run) -> int:
    """Of a sweep with its trials in its folder; 0 of others, which have one storage wherever they are looked at."""
    if sweeps.plan_of(sweep).storage is not None:
        return 0
    try:
        return sum(trial.ended is not None for trial in sweeps.trials(sweep))
    except RunError:
        return 0


# ---- in place


def _move(arriving: Mapping[str, _Arriving], new: set[str], updated: set[str], folder: Path) -> None:
    """Move runs into place, parents and sources first; what was moved goes back where one cannot."""
    ordered = [name for name in _in_order(arriving) if name in new | updated]
    staged = {name: arriving[name].run.path for name in ordered}
    (folder / REPLACED).mkdir()
    with ExitStack() as locks:
        for name in updated:
            mine = Run(runs.RUNS / name)
            archive.refuse_busy(mine)
            locks.enter_context(mine.working())
            if (mine.path / "tracking.json").exists():  # its run in the store is carried on
                shutil.copy(mine.path / "tracking.json", staged[name])
            _keep_weights(mine, arriving[name].run)
        with held_back() as stop:
            try:
                for name in ordered:
                    if name in updated:
                        (runs.RUNS / name).rename(folder / REPLACED / name)
                    _place(staged[name], runs.RUNS / name)
                sync(runs.RUNS)
            except BaseException:
                for name in reversed(ordered):
                    _put_back(name, staged[name], folder / REPLACED / name)
                raise
    if stop():
        raise Interrupted(stop(), "stopped once the runs were in place", "`hptctl runs sync` sends them to the store")


def _keep_weights(mine: Run, arriving: Run) -> None:
    """Of a finished run that makes way for a record with more figures and no weights, the weights stay."""
    before, after = mine.status(), arriving.status()
    same = before.facts.backbone_sha256 == after.facts.backbone_sha256
    if before.state == after.state == "finished" and same and not archive.weights_of(arriving):
        for file in archive.weights_of(mine):
            place = arriving.path / file.relative_to(mine.path)
            place.parent.mkdir(exist_ok=True)
            shutil.copy2(file, place)


def _place(staged: Path, place: Path) -> None:
    """Move a run's folder to where none is, as `runs.create` claims it: by one atomic `mkdir`."""
    try:
        place.mkdir()
    except FileExistsError:
        raise RunError(f"{place} is there, but holds no run", "see what it is, then move it away") from None
    try:
        staged.replace(place)
    except BaseException:
        place.rmdir()
        raise


def _put_back(name: str, staged: Path, aside: Path) -> None:
    if not staged.exists():
        (runs.RUNS / name).rename(staged)
    if aside.exists():
        aside.rename(runs.RUNS / name)


def _in_order(arriving: Mapping[str, _Arriving]) -> list[str]:
    """The names of runs, each after its parent and what it starts from."""
    ordered: dict[str, None] = {}

    def visit(name: str | None, path: tuple[str, ...] = ()) -> None:
        if name is not None and name in arriving and name not in ordered and name not in path:
            spec = arriving[name].spec
            visit(spec.parent, (*path, name))
            visit(spec.source, (*path, name))
            ordered[name] = None

    for name in arriving:
        visit(name)
    return list(ordered)


def _track(found: Sequence[Run], display: Display) -> None:
    """Send runs to the tracking store; one that is away costs a warning."""
    for number, run in enumerate(found, 1):
        if run.status().state == "created":  # it is tracked once it begins
            continue
        try:
            tracking.sync(run)
        except HptError as error:
            console.warn(f"{error.what}; the runs are in place, `hptctl runs sync` sends them to the store later")
            return
        display.progress(number, len(found), "tracking")


# ---- said


def _images_missing(run: Run) -> list[str]:
    return [place for place in places.images_of(run.spec().config) if not Path(place).exists()]


def _without_weights(found: Iterable[archive.Archive]) -> set[str]:
    """The runs that an archive has without their weights, unless they are here all the same."""
    names = {name for each in found for name in each.manifest.without_weights}
    return {name for name in names if not archive.weights_of(Run(runs.RUNS / name))}


def _absent(found: Iterable[Run]) -> dict[str, int]:
    unfinished = (run for run in found if run.status().state != "finished" and run.spec().kind != "study")
    return dict(Counter(place for run in unfinished for place in _images_missing(run)))


def _stopped(found: Iterable[Run]) -> dict[str, str]:
    """The command that goes on with each run that can, but for the trials of a sweep, with which the sweep goes on."""
    commands = {}
    for run in found:
        spec = run.spec()
        if run.status().state in {"created", "interrupted", "killed"} and not runs.is_trial(run):
            words = launch.resume_words(run)
            commands[run.name] = spec.command if spec.kind == "study" else f"hptctl {shlex.join(words)}"
    return commands
