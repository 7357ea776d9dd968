"""MLflow, and only here.

A run's metrics go to its folder first (`hptctl.runs`); a background thread carries them on to MLflow in batches. When
the store is away, training goes on and `sync` brings the rest later: live tracking and `hptctl runs sync` are one
mechanism, which sends what `tracking.json` does not yet record as sent.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from hpt.config import EvaluationKind, flatten
from hpt.errors import RunError
from hpt.files import write_text
from hptctl import deadline, runs
from hptctl.runs import Run, Spec, Status
from hptctl.tracking.store import (
    MARKER,
    NotInstalled,
    client,
    experiment_id,
    first_line,
    place,
    readable,
    refuse_deleted,
    uri,
)

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

log = logging.getLogger("hptctl.tracking")

FLUSH_SECONDS = 3.0
FIRST_SECONDS = 15.0
"""What a run gets to take its first step before it is tracked in any case: a cache may take hours to build."""
CONNECT_SECONDS = 10.0
"""What MLflow's import and a new store may take."""
BATCH = 1000  # MLflow's own limit of metrics in one call
_STATES = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "killed": "KILLED", "pruned": "KILLED"}


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
        """Send the rest, the run's state and its artifacts.

        A run whose time is up, and that has not come to be tracked, leaves that to when it goes on.
        """
        self._stop.set()
        self._busy.set()
        if self._thread.is_alive():
            self._thread.join(timeout=120)
        if self._push.client is not None or not deadline.passes_in(CONNECT_SECONDS):
            self._try()

    def _loop(self) -> None:
        self._busy.wait(FIRST_SECONDS)
        wait = 0.0
        while not self._stop.wait(wait):
            wait = FLUSH_SECONDS if self._try() else min(60.0, max(FLUSH_SECONDS, wait * 2))

    def _try(self) -> bool:
        try:
            self._push()
        except NotInstalled:
            _say_that_runs_stay()
            return False
        except Exception as error:  # whatever a store does, training goes on
            if not self._warned:
                why = str(error) if isinstance(error, RunError) else first_line(error)
                log.warning(
                    "tracking store %s: %s; the run goes on, `hptctl runs sync` brings its metrics later", uri(), why
                )
            self._warned = True
            return False
        return True


@cache  # one line a process, however many runs it does
def _say_that_runs_stay() -> None:
    log.warning("MLflow is not installed here: runs stay in their folders, `hptctl runs sync` brings them later")


class _Push:
    """Send to MLflow what it does not have of a run: the run itself, metrics, artifacts, the end."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.file = run.path / "tracking.json"
        store = place()
        self.state: dict[str, Any] = {"uri": store, "first_id": None} | self._unsent()
        if self.file.exists():
            saved = json.loads(self.file.read_bytes())
            if "uri" in saved and saved["uri"] == store:
                self.state |= saved
            else:  # another store has none of it yet
                self.state["first_id"] = _first_id(saved)
        self.client: MlflowClient | None = None

    def __call__(self) -> int:
        if self.client is None:
            reached = client()
            if self.state["run_id"] is not None and not refuse_deleted(reached, self.state["run_id"]):
                self.state |= self._unsent() | {"first_id": _first_id(self.state)}  # the store is another one by now
            self.client = reached
        if self.state["run_id"] is None:
            self._create(self.client)
        if not self.state["params"]:
            self._params(self.client)
        sent = self._metrics(self.client)
        self._facts(self.client)
        self._artifacts(self.client)
        self._end(self.client)
        return sent

    def _unsent(self) -> dict[str, Any]:
        return {"run_id": None, "params": False, "state": None, "sent": {}, "facts": {}, "artifacts": {}}

    def _save(self) -> None:
        write_text(self.file, json.dumps(self.state))

    def _create(self, mlflow_client: MlflowClient) -> None:
        spec = self.run.spec()
        # Plain names: a reader filters by `tags.strategy = "hpt"`. The marker tells our runs from others in the store.
        tags = spec.tags.text() | {
            MARKER: "1",
            "kind": spec.kind,
            "name": spec.name,
            "folder": str(self.run.path.resolve()),
            "command": spec.command,
            "mlflow.source.name": "hptctl",
            "mlflow.source.type": "LOCAL",
        }
        if self.state["first_id"]:
            tags["first_id"] = self.state["first_id"]
        source = Run(Path(spec.source_folder)) if spec.source_folder else None
        parent = runs.find(spec.parent) if spec.parent else None
        for relation, relative, link in (("source", source, "source_id"), ("parent", parent, "mlflow.parentRunId")):
            if relative is not None:
                tags[relation] = relative.name
                if tracked := runs.tracked_id(relative):
                    tags[link] = tracked
        experiment = experiment_id(mlflow_client, spec.experiment)
        created = mlflow_client.create_run(
            experiment, start_time=int(spec.created * 1000), tags=tags, run_name=spec.name
        )
        self.state["run_id"] = created.info.run_id
        self._save()

    def _params(self, mlflow_client: MlflowClient) -> None:
        from mlflow.entities import Param

        params = [Param(key, str(value)[:6000]) for key, value in flatten(_followed(self.run.spec())).items()]
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

        facts = self.run.status().facts.text()
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
            ended = status.ended or _last_sign(self.run, status)
            mlflow_client.set_terminated(self.state["run_id"], state, end_time=int(ended * 1000))
        self.state["state"] = state
        self._save()


def _followed(spec: Spec) -> dict[str, Any]:
    """The settings of a run without those of evaluations of other kinds, which its `run.json` has too: half of what a
    server would have to send of each run for a report."""
    kinds = set(get_args(EvaluationKind))
    aside = kinds - {spec.kind} if spec.kind in kinds else ()
    return {key: value for key, value in spec.config.items() if key not in aside}


def _last_sign(run: Run, status: Status) -> float:
    """When a run that died without a word was last heard of."""
    return max((line["time"] for line in run.metrics()), default=status.started or time.time())


def _first_id(saved: Mapping[str, Any]) -> str | None:
    return saved.get("first_id") or saved.get("run_id")


@contextmanager
def tracked(run: Run, *, at_once: bool = False) -> Iterator[Tracker]:
    """A Tracker that is open inside the block and closed however it ends."""
    tracker = Tracker(run).open(at_once=at_once)
    try:
        yield tracker
    finally:
        tracker.close()


def arrive(run: Run) -> None:
    """Keep of another folder's `tracking.json` what holds here: all of it where MLFLOW_TRACKING_URI names its store
    here too, else the id that its first store has for the run, by which pages name it in every store."""
    file = run.path / "tracking.json"
    if not file.exists():
        return
    saved = json.loads(file.read_bytes())
    if saved.get("uri") is None or saved["uri"] != place():
        write_text(file, json.dumps({"first_id": _first_id(saved)}))


def carry(run: Run) -> None:
    """Send what MLflow does not have of a run; as in a Tracker, a store that is away costs a warning."""
    Tracker(run).close()


def sync(run: Run) -> int:
    """Send what MLflow does not have of a run; returns the number of metric values sent."""
    with readable():
        return _Push(run)()
