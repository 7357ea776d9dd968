"""MLflow, and only here.

A run's metrics go to its folder first (`hptctl.runs`); a background thread carries them on to MLflow in batches. When
the store is away, training goes on and `sync` brings the rest later: live tracking and `hptctl runs sync` are one
mechanism, which sends what `tracking.json` does not yet record as sent.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpt.config import flatten
from hpt.errors import RunError
from hpt.files import write_text
from hptctl import runs
from hptctl.runs import Run

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun
    from mlflow.tracking import MlflowClient
    from torch import Tensor

log = logging.getLogger("hptctl.tracking")

MARKER = "hptctl"
"""The tag, of the version of this schema, by which our runs are known in a shared store."""
FLUSH_SECONDS = 3.0
FIRST_SECONDS = 15.0
"""What a run gets to take its first step before it is tracked in any case: a cache may take hours to build."""
BATCH = 1000  # MLflow's own limit of metrics in one call
_STATES = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "killed": "KILLED", "pruned": "KILLED"}


@dataclass(frozen=True)
class Record:
    """A tracked run as the store has it."""

    run_id: str
    name: str
    kind: str
    """pretrain, linear, knn, finetune or sweep."""
    state: str
    """MLflow's: RUNNING, FINISHED, FAILED, KILLED."""
    start: float
    """Seconds since 1970."""
    end: float | None
    experiment: str
    experiment_id: str
    params: dict[str, str] = field(default_factory=dict)
    """The whole configuration, dotted."""
    metrics: dict[str, float] = field(default_factory=dict)
    """The last value of each metric."""
    tags: dict[str, str] = field(default_factory=dict)
    """strategy, dataset, source, parent, seed, steps, ...; MLflow's own left out."""
    parent_id: str | None = None


def uri() -> str:
    """The store: MLFLOW_TRACKING_URI, else SQLite in the working folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def client() -> MlflowClient:
    """A client of the store, with a newly made SQLite store initialised under a lock (first users race otherwise)."""
    # A dead server must cost seconds, not MLflow's default of seven retries of two minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    for name in ("alembic", "mlflow.store.db.utils", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from mlflow.tracking import MlflowClient

    store = uri()
    if not store.startswith("sqlite:///"):
        return MlflowClient(tracking_uri=store)
    from filelock import FileLock

    with FileLock(store.removeprefix("sqlite:///") + ".lock"):
        mlflow_client = MlflowClient(tracking_uri=store)
        mlflow_client.search_experiments(max_results=1)
    return mlflow_client


def _experiment_id(mlflow_client: MlflowClient, name: str) -> str:
    from mlflow.exceptions import MlflowException

    experiment = mlflow_client.get_experiment_by_name(name)
    if experiment is None:
        # Beside a local store; a server decides for itself.
        local = Path(uri().removeprefix("sqlite:///")).parent if uri().startswith("sqlite:///") else None
        place = (local / "mlartifacts").resolve().as_uri() if local else None
        try:
            return str(mlflow_client.create_experiment(name, artifact_location=place))
        except MlflowException:  # another process was quicker
            experiment = mlflow_client.get_experiment_by_name(name)
            if experiment is None:
                raise
    return str(experiment.experiment_id)


class Tracker:
    """Carries one run's metrics from its folder to MLflow while it works."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._push = _Push(run)
        self._warned = False
        self._logged = False
        self._stop = threading.Event()
        self._busy = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="tracking", daemon=True)

    def open(self, *, at_once: bool) -> Tracker:
        """Start carrying; a store that is away costs a warning, not the run.

        The first push creates or reopens the MLflow run. It happens beside the work, since MLflow's import and the
        first use of a store take seconds, and after its first step, which would else wait for half of them: imports
        share one interpreter lock. `at_once` waits for it, for a run whose children name it as their parent.
        """
        if at_once:
            self._try()
        self._thread.start()
        return self

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Metrics of a step, in the run's folder when this returns, in MLflow a few seconds later.

        The first call says where a resumed run takes up; what it logged from there on before is forgotten.
        """
        if not self._logged:
            self.run.forget_metrics_from(step)
            self._logged = True
        self.run.append_metrics(metrics, step)
        self._busy.set()

    def close(self) -> None:
        """Send the rest, the run's state and its artifacts."""
        self._stop.set()
        self._busy.set()
        if self._thread.is_alive():
            self._thread.join(timeout=120)
        self._try()

    def _loop(self) -> None:
        self._busy.wait(FIRST_SECONDS)
        wait = 0.0
        while not self._stop.wait(wait):
            wait = FLUSH_SECONDS if self._try() else min(60.0, max(FLUSH_SECONDS, wait * 2))

    def _try(self) -> bool:
        try:
            self._push()
        except Exception as error:  # whatever a store does, training goes on
            if not self._warned:
                log.warning(
                    "tracking store %s: %s; the run goes on, `hptctl runs sync` brings its metrics later",
                    uri(),
                    _first_line(error),
                )
            self._warned = True
            return False
        return True


class _Push:
    """Send to MLflow what it does not have of a run: the run itself, metrics, artifacts, the end."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.file = run.path / "tracking.json"
        # None is the default store, which moves with the working folder.
        store = os.environ.get("MLFLOW_TRACKING_URI")
        self.state: dict[str, Any] = {"uri": store, "run_id": None, "params": False, "state": None}
        self.state |= {"sent": {}, "facts": {}, "artifacts": {}}
        if self.file.exists():
            saved = json.loads(self.file.read_bytes())
            if saved["uri"] == store:  # another store has none of it yet
                self.state = saved
        self.client: MlflowClient | None = None

    def __call__(self) -> int:
        if self.client is None:
            self.client = client()
        if self.state["run_id"] is None:
            self._create(self.client)
        if not self.state["params"]:
            self._params(self.client)
        sent = self._metrics(self.client)
        self._facts(self.client)
        self._artifacts(self.client)
        self._end(self.client)
        return sent

    def _save(self) -> None:
        write_text(self.file, json.dumps(self.state))

    def _create(self, mlflow_client: MlflowClient) -> None:
        spec = self.run.spec()
        # Plain names: a reader filters by `tags.strategy = "hpt"`. The marker tells our runs from others in the store.
        tags = spec.tags | {
            MARKER: "1",
            "kind": spec.kind,
            "name": spec.name,
            "folder": str(self.run.path.resolve()),
            "command": spec.command,
            "mlflow.source.name": "hptctl",
            "mlflow.source.type": "LOCAL",
        }
        source = Run(Path(spec.source_folder)) if spec.source_folder else None
        parent = runs.find(spec.parent) if spec.parent else None
        for relation, relative, link in (("source", source, "source_id"), ("parent", parent, "mlflow.parentRunId")):
            if relative is not None:
                tags[relation] = relative.name
                if tracked := runs.tracked_id(relative):
                    tags[link] = tracked
        experiment = _experiment_id(mlflow_client, spec.experiment)
        created = mlflow_client.create_run(
            experiment, start_time=int(spec.created * 1000), tags=tags, run_name=spec.name
        )
        self.state["run_id"] = created.info.run_id
        self._save()

    def _params(self, mlflow_client: MlflowClient) -> None:
        from mlflow.entities import Param

        params = [Param(key, str(value)[:6000]) for key, value in flatten(self.run.spec().config).items()]
        for start in range(0, len(params), 100):
            mlflow_client.log_batch(self.state["run_id"], params=params[start : start + 100])
        self.state["params"] = True
        self._save()

    def _metrics(self, mlflow_client: MlflowClient) -> int:
        from mlflow.entities import Metric

        last: dict[str, int] = self.state["sent"]
        rows = [
            Metric(key, value, int(line["time"] * 1000), int(line["step"]))
            for line in self.run.metrics()
            for key, value in line.items()
            if key not in {"step", "time"} and line["step"] > last.get(key, -1)
        ]
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            mlflow_client.log_batch(self.state["run_id"], metrics=batch)
            for row in batch:
                last[row.key] = max(row.step, last.get(row.key, -1))
            self._save()
        return len(rows)

    def _facts(self, mlflow_client: MlflowClient) -> None:
        from mlflow.entities import RunTag

        facts = self.run.status().facts
        if facts != self.state["facts"]:
            tags = [RunTag(key, value[:5000]) for key, value in facts.items()]
            mlflow_client.log_batch(self.state["run_id"], tags=tags)
            self.state["facts"] = facts
            self._save()

    def _artifacts(self, mlflow_client: MlflowClient) -> None:
        """The run's documents and `artifacts/`; the backbone if asked for; never checkpoints, which fill stores."""
        files = [self.run.path / "run.json", *(self.run.path / "artifacts").glob("*")]
        if self.run.spec().log_backbone:
            files.append(self.run.backbone)
        for file in filter(Path.is_file, files):
            stamp = file.stat().st_mtime
            if self.state["artifacts"].get(file.name) != stamp:
                mlflow_client.log_artifact(self.state["run_id"], str(file))
                self.state["artifacts"][file.name] = stamp
                self._save()

    def _end(self, mlflow_client: MlflowClient) -> None:
        status = self.run.status()
        state = _STATES.get(status.state, "RUNNING")
        if state == self.state["state"]:
            return
        if state == "RUNNING":
            mlflow_client.update_run(self.state["run_id"], status="RUNNING")
            for key, value in {"host": status.host, "pid": status.pid}.items():
                mlflow_client.set_tag(self.state["run_id"], key, value)
        else:
            if status.reason:
                mlflow_client.set_tag(self.state["run_id"], "reason", status.reason[:5000])
            ended = int((status.ended or time.time()) * 1000)
            mlflow_client.set_terminated(self.state["run_id"], state, end_time=ended)
        self.state["state"] = state
        self._save()


@contextmanager
def tracked(run: Run, *, at_once: bool = False) -> Iterator[Tracker]:
    """A Tracker that is open inside the block and closed however it ends."""
    tracker = Tracker(run).open(at_once=at_once)
    try:
        yield tracker
    finally:
        tracker.close()


def carry(run: Run) -> None:
    """Send what MLflow does not have of a run; as in a Tracker, a store that is away costs a warning."""
    Tracker(run).close()


def sync(run: Run) -> int:
    """Send what MLflow does not have of a run; returns the number of metric values sent."""
    with _readable():
        return _Push(run)()


def register(name: str, run: Run, state: Mapping[str, Tensor], about: Mapping[str, object], card: str) -> str:
    """Put a backbone into the store's model registry, as a model that embeds images; its `models:/` address.

    `about` has `backbone`, and `mean` and `std` of the images that it was trained on.

    Raises:
        RunError: the store cannot be used, or has no registry.
    """
    from safetensors.torch import save_file

    from hptctl.report.page import templates

    with _readable(), tempfile.TemporaryDirectory() as folder:
        mlflow_client = client()
        import mlflow

        mlflow.set_tracking_uri(uri())
        mlflow.set_registry_uri(uri())
        mlflow.set_experiment(experiment_id=_experiment_id(mlflow_client, run.spec().experiment))
        files = {"backbone": Path(folder) / "backbone.safetensors", "about": Path(folder) / "about.json"}
        save_file(dict(state), files["backbone"])
        files["about"].write_text(json.dumps(dict(about)))
        logged = mlflow.pyfunc.log_model(
            name=re.sub(r"[^A-Za-z0-9_-]+", "-", run.name),
            python_model=str(templates() / "embedder.py"),
            artifacts={key: str(path) for key, path in files.items()},
            pip_requirements=["torch", "torchvision", "safetensors"],
        )
        version = mlflow.register_model(logged.model_uri, name)
        mlflow_client.update_model_version(name, version.version, description=card)
        mlflow_client.set_model_version_tag(name, version.version, "run", run.name)
    return f"models:/{name}/{version.version}"


def check_store() -> str:
    """What the store holds, in words; a SQLite store that does not exist yet is made.

    Raises:
        RunError: it cannot be used.
    """
    with _readable():
        experiments = client().search_experiments()
    return f"{len(experiments)} experiments"


def read_runs(experiment: str | None = None) -> list[Record]:
    """Every run of the store (of one experiment), the oldest first; 1,000 runs take about two seconds.

    Raises:
        RunError: no such store, or no such experiment.
    """
    with _readable():
        mlflow_client = _existing()
        known = {e.experiment_id: e.name for e in mlflow_client.search_experiments()}
        if experiment is not None:
            known = {key: name for key, name in known.items() if name == experiment}
            if not known:
                raise RunError(f"{uri()} has no experiment '{experiment}'", "see `hptctl runs list`")
        records: list[Record] = []
        token: str | None = None
        while True:
            page = mlflow_client.search_runs(
                list(known), max_results=1000, page_token=token, order_by=["attributes.start_time ASC"]
            )
            records += [_record(run, known[run.info.experiment_id]) for run in page if MARKER in run.data.tags]
            token = page.token
            if not token:
                return records


def histories(wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """(step, value) by step, of each (run id, metric)."""
    with _readable():
        mlflow_client = _existing()
        found = {(id, metric): mlflow_client.get_metric_history(id, metric) for id, metric in wanted}
    return {key: sorted((point.step, point.value) for point in points) for key, points in found.items()}


class Watch:
    """Tells when runs of the store began, ended, got new figures or were deleted: what a report shows.

    What a run under way logs is no change. A SQLite store is read only when its files have changed.
    """

    def __init__(self) -> None:
        self._files: list[tuple[int, int]] | None = None
        self._runs: list[tuple[object, ...]] | None = None

    def changed(self) -> bool:
        """Whether anything has since the last call; the first call says yes.

        Raises:
            RunError: the store cannot be used.
        """
        files = self._stamps()
        if files is not None and files == self._files:
            return False
        self._files = files
        ended = {"FINISHED", "FAILED", "KILLED"}
        found: list[tuple[object, ...]] = [
            (r.run_id, r.state, r.end, tuple(r.metrics.items()) * (r.state in ended)) for r in read_runs()
        ]
        before, self._runs = self._runs, found
        return found != before

    def _stamps(self) -> list[tuple[int, int]] | None:
        if not uri().startswith("sqlite:///"):
            return None
        database = Path(uri().removeprefix("sqlite:///"))
        stats = [path.stat() for path in (database, Path(f"{database}-wal")) if path.exists()]
        return [(stat.st_mtime_ns, stat.st_size) for stat in stats]


def _existing() -> MlflowClient:
    store = uri()
    if store.startswith("sqlite:///") and not Path(store.removeprefix("sqlite:///")).exists():
        raise RunError(
            f"there is no tracking store at {store}",
            "run this where your runs/ folder is, or set MLFLOW_TRACKING_URI",
        )
    return client()


def _record(run: MlflowRun, experiment: str) -> Record:
    tags = {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")}
    return Record(
        run_id=run.info.run_id,
        name=tags.get("name", run.info.run_name or run.info.run_id),
        kind=tags.get("kind", ""),
        state=run.info.status,
        start=run.info.start_time / 1000,
        end=run.info.end_time / 1000 if run.info.end_time else None,
        experiment=experiment,
        experiment_id=run.info.experiment_id,
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tags=tags,
        parent_id=run.data.tags.get("mlflow.parentRunId"),
    )


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except RunError:
        raise
    except Exception as error:
        raise RunError(
            f"tracking store {uri()} cannot be used: {_first_line(error)}",
            "check MLFLOW_TRACKING_URI and the store",
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
