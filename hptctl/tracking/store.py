"""The tracking store: where it is, and what is in it."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from hpt.errors import RunError
from hpt.files import shared_lock
from hptctl.runs.record import Facts, Tags
from hptctl.secrets import masked
from hptctl.tracking import kept

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun
    from mlflow.tracking import MlflowClient

log = logging.getLogger("hptctl.tracking")

DATABASES = {"sqlite", "postgresql", "postgres", "mysql", "mssql"}
"""Kinds of addresses that MLflow opens as databases."""
CONNECT_SECONDS = 10
ASKED_AT_ONCE = 8
"""Histories that are asked for at once: MLflow sends one at a time, and most of that is waiting."""
PAGES_AT_ONCE = 4
"""Pages of runs that a server is asked for at once: MLflow's has as many processes, if it is not told otherwise."""
MARKER = "hptctl"
"""The tag, of the version of this schema, by which our runs are known in a shared store."""


class NotInstalled(RunError):
    """MLflow is not here: a machine that only trains may do without."""

    def __init__(self) -> None:
        super().__init__("MLflow is not installed here", "install it; the folders of runs have all of it meanwhile")


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
    tags: Tags = field(default_factory=Tags)
    facts: Facts = field(default_factory=Facts)
    command: str = ""
    folder: str = ""
    """Of the run, on the machine that made it."""
    source: str = ""
    """Name of the pretraining that it starts from or evaluates."""
    source_id: str = ""
    parent_id: str | None = None
    first_id: str = ""
    """The id that the store had for it which knew it first, where that is another one; pages name a run by it."""


def uri() -> str:
    """The store: MLFLOW_TRACKING_URI, else SQLite in the working folder."""
    if given := os.environ.get("MLFLOW_TRACKING_URI"):
        return given
    folder = str(Path.cwd())
    # An address has no way to write these characters in a path: what follows a `?` would be options.
    return "sqlite:///mlflow.db" if {*"?%#"} & {*folder} else f"sqlite:///{folder}/mlflow.db"


def place() -> str | None:
    """The store as it is written down, without a password; None is the default store, which moves with the working
    folder."""
    given = os.environ.get("MLFLOW_TRACKING_URI")
    return masked(given) if given else None


def client() -> MlflowClient:
    """A client of the store, with a newly made SQLite store initialised under a lock (first users race otherwise).

    Raises:
        NotInstalled: there is no MLflow to ask with.
    """
    # A dead server must cost seconds, not MLflow's default of seven retries of two minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # What it calls an error is one of ours, in a line instead of twenty of SQL.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    try:
        from mlflow.tracking import MlflowClient
    except ModuleNotFoundError as error:
        if error.name != "mlflow":
            raise
        raise NotInstalled from None

    store = uri()
    if not store.startswith("sqlite:///"):
        _connect(store)
        return MlflowClient(tracking_uri=store)
    from sqlalchemy import make_url

    database = Path(make_url(store).database or ":memory:")
    database.parent.mkdir(parents=True, exist_ok=True)
    with _first_user(database):
        if not database.exists() and database.name != ":memory:":
            database.touch()  # as the umask has it: SQLite would make it for one user alone
        _connect(store)
        mlflow_client = MlflowClient(tracking_uri=store)
        mlflow_client.search_experiments(max_results=1)
    return mlflow_client


@contextmanager
def _first_user(database: Path) -> Iterator[None]:
    """Make a store alone; one that is there may be read by whoever may not write beside it."""
    lock = shared_lock(Path(f"{database}.lock"))
    try:
        lock.acquire()
    except OSError:
        if not database.exists():
            raise
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _connect(store: str) -> None:
    """Reach a database once, as soon as it answers or does not: MLflow would try for minutes, in silence.

    Raises:
        SQLAlchemyError: it cannot be reached. ModuleNotFoundError: its driver is not installed.
    """
    kind = store.partition(":")[0].partition("+")[0]
    if kind not in DATABASES:
        return
    from sqlalchemy import create_engine, make_url

    address, settings = make_url(store), {}
    if kind != "sqlite":
        settings = {"connect_timeout": CONNECT_SECONDS}
    engine = create_engine(address, connect_args=settings)
    try:
        engine.connect().close()
    finally:
        engine.dispose()


def experiment_id(mlflow_client: MlflowClient, name: str) -> str:
    """The id of an experiment, which is made where it is missing.

    Raises:
        RunError: it was deleted.
    """
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
    if experiment.lifecycle_stage == "deleted":
        raise RunError(
            f"its experiment '{name}' was deleted in MLflow",
            f"restore it, `{_mlflow(f'experiments restore --experiment-id {experiment.experiment_id}')}`, or give new"
            " runs an --experiment of another name",
        )
    return str(experiment.experiment_id)


def refuse_deleted(mlflow_client: MlflowClient, run_id: str) -> bool:
    """Whether the store has the run at all.

    Raises:
        RunError: it was deleted there.
    """
    from mlflow.exceptions import MlflowException

    try:
        found = mlflow_client.get_run(run_id).info
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
    if found.lifecycle_stage == "deleted":
        of_experiment = mlflow_client.get_experiment(found.experiment_id)
        if of_experiment.lifecycle_stage == "deleted":
            experiment_id(mlflow_client, of_experiment.name)
        again = _mlflow(f"runs restore --run-id {run_id}")
        raise RunError("its run was deleted in MLflow", f"restore it: `{again}`")
    return True


def _mlflow(words: str) -> str:
    """A command of MLflow's own on this store."""
    return f"MLFLOW_TRACKING_URI={shlex.quote(masked(uri()))} mlflow {words}"


def check_store() -> str:
    """What the store holds, in words; a SQLite store that does not exist yet is made.

    Raises:
        RunError: it cannot be used.
    """
    with readable():
        experiments = client().search_experiments()
    return f"{len(experiments)} experiments"


def read_runs(experiment: str | None = None) -> list[Record]:
    """Every run of the store (of one experiment), the oldest first; those that ended are `kept`.

    Raises:
        RunError: no such store, or no such experiment.
    """
    with readable():
        mlflow_client = _existing()
        known = {e.experiment_id: e.name for e in mlflow_client.search_experiments()}
        if experiment is not None and experiment not in known.values():
            raise RunError(f"{uri()} has no experiment '{experiment}'", "see `hptctl runs list`")
        # First what is under way: a run that ends meanwhile is then read twice, and not missed.
        search, token = _searching(mlflow_client, list(known), "= 'RUNNING'"), None
        under_way, token = search(kept.PAGE, None)
        while token:
            page, token = search(kept.PAGE, token)
            under_way += page
        search = _searching(mlflow_client, list(known), "!= 'RUNNING'")
        ended = kept.ended(_where(), kept.Asked(search, _token, PAGES_AT_ONCE if _served() else 1))
    found = {run.id: run for run in (*under_way, *ended) if experiment in (None, known[run.experiment_id])}
    in_order = sorted(found.values(), key=lambda run: (run.start, run.id))
    return [record for run in in_order if (record := _record(run, known[run.experiment_id])) is not None]


def read_anew() -> None:
    """Have `read_runs` ask for all runs, those too that ended long ago: somebody has edited them in MLflow."""
    kept.forget(_where())


def _where() -> str:
    """The store by a name that no other one has."""
    store = uri()
    return store if not store.startswith("sqlite:///") else str(Path(store.removeprefix("sqlite:///")).resolve())


def _served() -> bool:
    """Whether the store is behind MLflow's own server, and not a database that we read ourselves."""
    return uri().startswith(("http://", "https://"))


def _token(behind: int) -> str:
    """What MLflow's stores name the place behind so many runs by."""
    from mlflow.utils.search_utils import SearchUtils

    return _text(SearchUtils.create_page_token(behind))


def _text(token: str | bytes) -> str:
    return token.decode() if isinstance(token, bytes) else token


def _searching(mlflow_client: MlflowClient, experiment_ids: list[str], status: str) -> kept.Search:
    """A search for our runs by their status, in the order of `kept`."""
    filter = f"tags.{MARKER} LIKE '%' AND attributes.status {status}"

    def search(most: int, token: str | None) -> tuple[list[kept.Sent], str | None]:
        if _served():
            words = {"experiment_ids": experiment_ids, "filter": filter, "max_results": most, "order_by": [kept.ORDER]}
            answer = _answer("/api/2.0/mlflow/runs/search", words | ({"page_token": token} if token else {}))
            return [_received(run) for run in answer.get("runs", ())], answer.get("next_page_token") or None
        page = mlflow_client.search_runs(
            experiment_ids, filter, max_results=most, order_by=[kept.ORDER], page_token=token
        )
        return [_sent(run) for run in page], _text(page.token) if page.token else None

    return search


def _answer(endpoint: str, words: Mapping[str, Any]) -> dict[str, Any]:
    """What the server says, as it is: MLflow's client makes three objects of each parameter of each run, which takes it
    a millisecond a run."""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request, verify_rest_response

    response = http_request(get_default_host_creds(uri()), endpoint, "POST", json=words)
    answer: dict[str, Any] = verify_rest_response(response, endpoint).json()
    return answer


def _received(run: Mapping[str, Any]) -> kept.Sent:
    """A run as the server writes it."""
    info, data = run["info"], run.get("data", {})

    def values(what: str) -> dict[str, Any]:
        return {each["key"]: each["value"] for each in data.get(what, ())}

    return kept.Sent(
        id=info["run_id"],
        name=info.get("run_name") or info["run_id"],
        experiment_id=info["experiment_id"],
        status=info["status"],
        start=int(info["start_time"]),
        end=int(info.get("end_time") or 0) or None,
        params=values("params"),
        metrics={key: float(value) for key, value in values("metrics").items()},  # JSON has no NaN, but "NaN"
        tags=values("tags"),
    )


def _sent(run: MlflowRun) -> kept.Sent:
    return kept.Sent(
        id=run.info.run_id,
        name=run.info.run_name or run.info.run_id,
        experiment_id=run.info.experiment_id,
        status=run.info.status,
        start=run.info.start_time,
        end=run.info.end_time or None,
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tags=dict(run.data.tags),
    )


def histories(wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """(step, value) by step, of each (run id, metric); of a step that was made twice, the last."""
    with readable():
        mlflow_client = _existing()
        keys = list(wanted)
        with ThreadPoolExecutor(1 if uri().startswith("sqlite:///") else ASKED_AT_ONCE) as pool:
            found = list(pool.map(lambda key: mlflow_client.get_metric_history(*key), keys))
    in_time = [sorted(points, key=lambda point: point.timestamp) for points in found]
    return {key: sorted({p.step: p.value for p in points}.items()) for key, points in zip(keys, in_time, strict=True)}


class StoreWatch:
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


def _record(run: kept.Sent, experiment: str) -> Record | None:
    """A run as it is used here; None, with a warning, where its tags are not of the types that they have here."""
    tags = run.tags
    try:
        what, found = Tags.among(tags), Facts.among(tags)
    except ValidationError as error:
        first = error.errors()[0]
        log.warning("run %s of the store is left out: its tag %s is %r", run.name, first["loc"][0], first["input"])
        return None
    return Record(
        run_id=run.id,
        name=tags.get("name", run.name),
        kind=tags.get("kind", ""),
        state=run.status,
        start=run.start / 1000,
        end=run.end / 1000 if run.end else None,
        experiment=experiment,
        experiment_id=run.experiment_id,
        params=run.params,
        metrics=run.metrics,
        tags=what,
        facts=found,
        command=tags.get("command", ""),
        folder=tags.get("folder", ""),
        source=tags.get("source", ""),
        source_id=tags.get("source_id", ""),
        parent_id=tags.get("mlflow.parentRunId"),
        first_id=tags.get("first_id", ""),
    )


@contextmanager
def readable() -> Iterator[None]:
    try:
        yield
    except RunError:
        raise
    except Exception as error:
        raise RunError(f"tracking store {uri()} cannot be used: {first_line(error)}", _mend(error)) from error


def _mend(error: Exception) -> str:
    """What to do about a store's error."""
    said = str(error)
    if "out-of-date database schema" in said:
        return f"an older MLflow made it: copy it, then `mlflow db upgrade {shlex.quote(masked(uri()))}`"
    if "Can't locate revision" in said:
        return "a newer MLflow made it: `pip install -U mlflow`"
    if isinstance(error, ModuleNotFoundError):
        return f"install {error.name}"
    return "check MLFLOW_TRACKING_URI and the store"


def first_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if not line.startswith("(raised as a result of")]
    return (lines or [type(error).__name__])[0][:300]
