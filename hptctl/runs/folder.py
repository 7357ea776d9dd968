"""A run's folder, which is the truth about it: `runs/<name>/` of the working folder.

    run.json        what the run is: kind, config, tags; written once, before anything starts
    status.json     how it goes: state, process, reason, results; replaced atomically
    metrics.jsonl   every logged metric, one line a step, as it happens
    tracking.json   the MLflow run it belongs to, and what of the metrics MLflow has
    lock            held by the process that works on the run; a dead process holds nothing

Pretrainings add `checkpoints/`, `backbone.safetensors` and the `backbones/` kept on the way; evaluations add their
predictions.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from hpt.config import UNTRAINED, problems
from hpt.errors import ConfigError, Interrupted, Pruned, RunError, did_you_mean
from hpt.files import write_text
from hptctl.runs.record import Kind, Spec, State, Status
from hptctl.secrets import masked

log = logging.getLogger("hptctl.runs")

C = TypeVar("C", bound=BaseModel)

RUNS = Path("runs")
NAME = r"[A-Za-z0-9][A-Za-z0-9._ -]{0,99}"
"""What a run may be called: a folder on every system, and nothing that leads out of `runs/`."""


class Busy(RunError):
    """Another process works on the run."""


@dataclass(frozen=True)
class Run:
    """A run by its folder."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def backbone(self) -> Path:
        """The pretrained backbone: torchvision's ResNet keys without `fc`."""
        return self.path / "backbone.safetensors"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    def spec(self) -> Spec:
        """`run.json`, read once, since it does not change; a RunError when it is not there or damaged."""
        return self._spec

    @cached_property
    def _spec(self) -> Spec:
        try:
            return Spec.model_validate_json((self.path / "run.json").read_bytes())
        except FileNotFoundError:
            raise RunError(f"{self.path} holds no run (no run.json)", "see `hptctl runs list`") from None
        except ValidationError as error:
            raise _unread(self.path / "run.json", error) from None

    def config(self, model: type[C]) -> C:
        """The configuration in `run.json`.

        Raises:
            RunError: it is not one of this version, or damaged.
        """
        try:
            return model.model_validate(self.spec().config)
        except ValidationError as error:
            raise RunError(
                f"the configuration in {self.path / 'run.json'} is not one of this version of hptctl: "
                + "; ".join(problems(model, error)),
                "use the version that made the run, or start it anew where the file is damaged",
            ) from None

    def status(self) -> Status:
        """`status.json`; a running process that has died without a word reads as `killed`."""
        try:
            status = Status.model_validate_json((self.path / "status.json").read_bytes())
        except FileNotFoundError:
            return Status()
        except ValidationError as error:
            return Status(state="killed", reason=_unread(Path("status.json"), error).what)
        if status.state == "running" and status.host == socket.gethostname() and not _alive(status.pid):
            return status.model_copy(update={"state": "killed", "reason": "its process died without a word"})
        return status

    def write_status(self, **changes: Any) -> Status:
        """The status with `changes`, replaced atomically."""
        assert changes.keys() <= Status.model_fields.keys(), changes.keys()
        status = Status.model_validate({**dict(self.status()), **changes})
        write_text(self.path / "status.json", status.stored())
        return status

    def start(self) -> None:
        """This process now works on the run."""
        self.write_status(
            state="running",
            pid=os.getpid(),
            host=socket.gethostname(),
            started=time.time(),
            ended=None,
            reason="",
            exit_code=0,
        )

    def write_failure(self, error: BaseException) -> None:
        """Record why the run stopped; of several processes the first to fail has the word."""
        if isinstance(error, Busy) or self.status().state not in {"created", "running"}:
            return
        state: State = "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"
        if isinstance(error, Pruned):
            state = "pruned"
        with suppress(OSError):  # on a full disk the run reads as killed, and the error itself reaches the user
            self.write_status(
                state=state,
                ended=time.time(),
                reason=masked(str(error)) or type(error).__name__,
                exit_code=getattr(error, "exit_code", 1),
            )

    def append_metrics(self, metrics: dict[str, float], step: int) -> None:
        """One line of `metrics.jsonl`, on disk when this returns (to the system, not through a sync)."""
        line = json.dumps({"step": step, "time": round(time.time(), 3), **metrics})
        with self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def metrics(self) -> Iterator[dict[str, float]]:
        """The lines of `metrics.jsonl`; a last line that a crash cut short is left out."""
        if self.metrics_file.exists():
            with self.metrics_file.open(encoding="utf-8") as file:
                for line in file:
                    if line.endswith("\n"):
                        yield json.loads(line)

    def forget_metrics_from(self, step: int) -> None:
        """Drop the lines from a step on, which a resumed run does again, and a line that a crash cut short."""
        if not self.metrics_file.exists():
            return
        kept = [json.dumps(line) + "\n" for line in self.metrics() if line["step"] < step]
        write_text(self.metrics_file, "".join(kept))

    @contextmanager
    def working(self) -> Iterator[None]:
        """Hold the run's lock, so that no two processes train one run."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.path / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            pid = self.status().pid
            raise Busy(
                f"run '{self.name}' is being worked on by process {pid}", "wait for it, or stop it first"
            ) from None
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """As `working`, to read the run; one that has ended is read without the lock by who may not write it."""
        lock = self.path / "lock"
        may_lock = os.access(lock if lock.exists() else self.path, os.W_OK)
        if not may_lock and self.status().state not in {"created", "running"}:
            yield
            return
        with self.working():
            yield


def make_runs() -> None:
    """Make the folder of runs where there is none.

    Raises:
        RunError: a file lies there.
    """
    try:
        RUNS.mkdir(exist_ok=True)
    except FileExistsError:
        what = f"'{RUNS}' in {Path.cwd()} is a file, where the folder of runs belongs"
        raise RunError(what, "rename it, or work in another folder") from None


def create(kind: Kind, name: str | None, suggestion: str, **spec: Any) -> Run:
    """A new run folder, claimed by one atomic `mkdir`; a suggested name gets a number where it is taken.

    A run that failed before its first result gives its name back: the command is given again, mended.

    Raises:
        ConfigError: the name is no file name, or has a meaning of its own. RunError: a run of that name exists.
    """
    wanted = name or re.sub(r"[^A-Za-z0-9._-]+", "-", suggestion)[:80].strip("-.") or kind
    if not re.fullmatch(NAME, wanted):
        raise ConfigError(
            f"--name {wanted!r} cannot name a folder", "use letters, digits, '.', '_' and '-', 100 at most"
        )
    if wanted == UNTRAINED:
        raise ConfigError(
            f"'{wanted}' means a network that was never trained, so no run is called that", "give a --name"
        )
    make_runs()
    for number in range(1, 10_000):
        path = RUNS / (wanted if number == 1 else f"{wanted}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            if _came_to_nothing(Run(path)):
                shutil.rmtree(path)
                return create(kind, name, suggestion, **spec)
            if name:
                raise RunError(
                    f"a run named '{name}' exists already",
                    f"choose another --name, or go on with `hptctl {_verb(kind)} --resume {name}`",
                ) from None
            continue
        try:
            document = Spec(kind=kind, name=path.name, created=time.time(), **spec)
            write_text(path / "run.json", document.stored())
        except BaseException:
            shutil.rmtree(path)
            raise
        return Run(path)
    raise RunError(f"no free name like '{wanted}' in {RUNS}", "give one with --name")


@contextmanager
def scratch(spec: Spec) -> Iterator[Run]:
    """A run whose folder lies outside the working folder, and is removed in the end: a machine's part of a run that
    another machine holds, or work that leaves no run."""
    with tempfile.TemporaryDirectory(prefix="hptctl-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / spec.name
        path.mkdir()
        write_text(path / "run.json", spec.stored())
        yield Run(path)


def all_runs() -> list[Run]:
    """Every run of the working folder, the oldest first; one whose run.json is damaged is named and left out."""
    return last_runs()[0]


def last_runs(kind: str | None = None, most: int | None = None) -> tuple[list[Run], int]:
    """As `all_runs`, of a kind the newest, and how many there are: of the older ones no more is read than `_Head`."""
    found: list[tuple[float, Run]] = []
    for folder in RUNS.iterdir() if RUNS.is_dir() else ():
        run = Run(folder)
        try:
            head = _Head.model_validate_json((run.path / "run.json").read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            continue
        except ValidationError as error:
            log.warning("%s", _unread(run.path / "run.json", error))
            continue
        if kind in (None, head.kind):
            found.append((head.created, run))
    newest = sorted(found, key=lambda pair: pair[0])[-most if most else 0 :]
    return [run for _, run in newest if _is_sound(run)], len(found)


class _Head(BaseModel):
    """What runs are listed by."""

    kind: Kind
    created: float


def _is_sound(run: Run) -> bool:
    try:
        run.spec()
    except RunError as error:
        log.warning("%s", error)
        return False
    return True


def find(text: str) -> Run | None:
    """The run of that name, folder or MLflow run id, if there is one."""
    if not text:
        return None
    for path in (RUNS / text, Path(text).resolve()):
        if (path / "run.json").is_file():
            return Run(path)
    if re.fullmatch(r"[0-9a-f]{8,32}", text):
        matches = [run for run in all_runs() if any(id.startswith(text) for id in _ids(run))]
        if len(matches) == 1:
            return matches[0]
    return None


def get(text: str) -> Run:
    """As `find`; a RunError with the nearest name when there is none."""
    run = find(text)
    if run is None:
        known = [r.name for r in all_runs()]
        raise RunError(f"there is no run '{text}'{did_you_mean(text, known)}", "see `hptctl runs list`")
    return run


def is_trial(run: Run) -> bool:
    """Whether the run is a trial of a sweep, which is evaluated as a whole."""
    parent = run.spec().parent
    return parent is not None and (found := find(parent)) is not None and found.spec().kind == "sweep"


def ancestry(run: Run) -> Iterator[Run]:
    """The pretraining that a run starts from or evaluates, the one that that started from, and so on."""
    folder = run.spec().source_folder
    while folder is not None and (Path(folder) / "run.json").exists():
        source = Run(Path(folder))
        yield source
        folder = source.spec().source_folder


def newest(kind: Kind = "pretrain", having: Iterable[State] = ("finished",)) -> Run:
    """The newest run of a kind in one of the states; a RunError when there is none."""
    for run in reversed(all_runs()):
        if run.spec().kind == kind and run.status().state in having:
            return run
    raise RunError(
        f"there is no finished {kind} run in {RUNS.resolve()}",
        "name a run or a weights file, or `hptctl pretrain` first",
    )


def tracked_id(run: Run) -> str | None:
    """The run's MLflow id, without asking MLflow."""
    id = _tracking(run).get("run_id")
    return None if id is None else str(id)


def _ids(run: Run) -> list[str]:
    """The run's MLflow id, and the one that the store had for it that knew it first."""
    known = _tracking(run)
    return [str(known[key]) for key in ("run_id", "first_id") if known.get(key)]


def _tracking(run: Run) -> dict[str, Any]:
    try:
        found = json.loads((run.path / "tracking.json").read_bytes())
    except (FileNotFoundError, PermissionError, ValueError):  # a store may name folders that are another user's
        return {}
    return found if isinstance(found, dict) else {}


def _came_to_nothing(run: Run) -> bool:
    try:
        with run.working():
            status = run.status()
    except Busy:
        return False
    left = [run.metrics_file, run.path / "checkpoints", run.backbone]
    return status.state in {"failed", "killed"} and not status.results and not any(path.exists() for path in left)


def _unread(file: Path, error: ValidationError) -> RunError:
    """Why a record could not be read: it is cut short, or another version of the program wrote it."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return RunError(f"{file} is damaged: {first['msg']}")
    field = ".".join(map(str, first["loc"]))
    return RunError(
        f"{file} was written by another version of hptctl: {field} is {first['input']!r}",
        "use that version for this run",
    )


def _verb(kind: Kind) -> str:
    return {"pretrain": "pretrain", "sweep": "sweep finetune"}.get(kind, f"evaluate {kind}")


def _alive(pid: int) -> bool:
    import psutil

    return bool(psutil.pid_exists(pid))  # on Windows `os.kill(pid, 0)` would send it a Ctrl-C
