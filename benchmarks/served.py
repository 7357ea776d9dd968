"""An MLflow server on a PostgreSQL of a benchmark's own, in a folder, and runs in it as often as they are wanted.

The programs of PostgreSQL are the system's (Debian: `apt-get install postgresql`).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import MetaData, Table, create_engine, insert, select

from hptctl.runs import RUNS

IDS = ("source_id", "mlflow.parentRunId", "first_id")
"""Tags that hold the id of a run."""
TABLES = ("runs", "tags", "params", "latest_metrics", "metrics")
LINKED = (".npz", ".csv")
"""Files that a copy of a run has in common with it."""


@dataclass(frozen=True)
class Served:
    """A store that is served."""

    uri: str
    """The server's address."""
    database: str
    """The address of what lies behind it."""
    processes: tuple[subprocess.Popen[bytes], ...]

    def seconds(self) -> float:
        """Processor seconds of the server and of the database so far."""
        total = 0.0
        for top in self.processes:
            for process in (psutil.Process(top.pid), *psutil.Process(top.pid).children(recursive=True)):
                try:
                    total += sum(process.cpu_times()[:4])  # those of its children that have ended included
                except psutil.NoSuchProcess:
                    continue
        return total


@contextmanager
def serving(folder: Path, *, workers: int = 4) -> Iterator[Served]:
    """Serve the store in `folder`, which is made where there is none, until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        port = _port(folder / "postgres.port")
        database = stack.enter_context(_ended(_postgres(folder / "postgres", port), signal.SIGINT))
        address = f"postgresql+psycopg://tester@127.0.0.1:{port}/postgres"
        port = _port(folder / "mlflow.port")
        words = ["--backend-store-uri", address, "--artifacts-destination", str(folder.resolve() / "artifacts")]
        words += ["--host", "127.0.0.1", "--port", str(port), "--workers", str(workers)]
        with (folder / "mlflow.log").open("ab") as log:
            server = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *words], stdout=log, stderr=log,
                env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}, start_new_session=True,
            )  # fmt: skip
        stack.enter_context(_ended(server, signal.SIGTERM))
        uri = f"http://127.0.0.1:{port}"
        _until_it_answers(uri, server)
        yield Served(uri, address, (server, database))


def copy(database: str, copies: int) -> None:
    """Put so many copies of every run of the working folder into the database, and into the folder of runs.

    A copy is of datasets of its own: `dataset-` in names and settings becomes `dataset-c01-` and so on.
    """
    engine, metadata = create_engine(database), MetaData()
    tables = {name: Table(name, metadata, autoload_with=engine) for name in TABLES}
    originals = [path.parent for path in RUNS.glob("*/run.json")]
    for number in range(1, copies + 1):
        for name in TABLES:
            with engine.begin() as connection:
                found = connection.execute(select(tables[name])).mappings().all()
                rows = [_copied(dict(row), number) for row in found if not _is_copy(str(row["run_uuid"]))]
                for start in range(0, len(rows), 5000):
                    connection.execute(insert(tables[name]), rows[start : start + 5000])
        for folder in originals:
            _copy_folder(folder, number)
        print(f"copy {number} of {copies}", file=sys.stderr)
    engine.dispose()


def _copied(row: dict[str, Any], number: int) -> dict[str, Any]:
    """A row of a run as that of its copy."""
    if row.get("key") in IDS and row["value"]:
        row["value"] = _id(row["value"], number)
    return {
        key: _id(value, number) if key == "run_uuid" else _text(value, number) if isinstance(value, str) else value
        for key, value in row.items()
    }


def _id(id: str, number: int) -> str:
    """The id of a copy, which begins with its number."""
    return f"c0b1{number:04x}" + hashlib.sha256(f"{id} {number}".encode()).hexdigest()[:24]


def _is_copy(id: str) -> bool:
    return id.startswith("c0b1")


def _text(text: str, number: int) -> str:
    return text.replace("dataset-", f"dataset-c{number:02d}-")


def _copy_folder(folder: Path, number: int) -> None:
    there = RUNS / _text(folder.name, number)
    if there == folder:  # a base of all datasets
        there = RUNS / f"{folder.name}-c{number:02d}"
    there.mkdir()
    for file in folder.iterdir():
        if file.suffix in LINKED:
            os.link(file, there / file.name)
        elif file.name == "tracking.json":
            state = json.loads(file.read_bytes())
            (there / file.name).write_text(json.dumps(state | {"run_id": _id(state["run_id"], number)}))
        elif file.suffix in {".json", ".jsonl"}:
            (there / file.name).write_text(_text(file.read_text(), number))


def _postgres(folder: Path, port: int) -> subprocess.Popen[bytes]:
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        raise SystemExit("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    binaries, data = programs[-1].parent, folder.resolve() / "data"
    folder.mkdir(exist_ok=True)
    as_user: list[str] = []
    if os.getuid() == 0:  # the server refuses to run as root
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        shutil.chown(folder, "postgres")
    if not data.exists():
        setup = [*as_user, str(binaries / "initdb"), "-D", str(data), "-U", "tester", "-A", "trust", "-N"]
        subprocess.run(setup, check=True, stdout=subprocess.DEVNULL, cwd=folder)
    serve = [str(binaries / "postgres"), "-D", str(data), "-h", "127.0.0.1", "-p", str(port), "-k", ""]
    with (folder.parent / "postgres.log").open("ab") as log:
        server = subprocess.Popen([*as_user, *serve], cwd=folder, stdout=log, stderr=log, start_new_session=True)
    ready = [str(binaries / "pg_isready"), "-h", "127.0.0.1", "-p", str(port)]
    while subprocess.run(ready, stdout=subprocess.DEVNULL, check=False).returncode:
        if server.poll() is not None:
            raise SystemExit((folder.parent / "postgres.log").read_text())
        time.sleep(0.1)
    return server


@contextmanager
def _ended(process: subprocess.Popen[bytes], by: signal.Signals) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield process
    finally:
        process.send_signal(by)
        process.wait(timeout=60)


def _until_it_answers(uri: str, server: subprocess.Popen[bytes]) -> None:
    while True:
        try:
            urllib.request.urlopen(f"{uri}/health", timeout=5).close()
            return
        except OSError:
            if server.poll() is not None:
                raise SystemExit("the MLflow server did not start: see mlflow.log") from None
            time.sleep(0.2)


def _port(file: Path) -> int:
    """A port that the folder keeps, since runs name their store by its address."""
    if not file.exists():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            file.write_text(str(free.getsockname()[1]))
    return int(file.read_text())
