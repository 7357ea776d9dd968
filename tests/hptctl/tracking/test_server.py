"""A real MLflow server: it dies while a run is written and comes back, and sends many runs while others write."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hptctl import runs, tracking
from hptctl.tracking import kept, store

pytestmark = pytest.mark.slow
STEPS = 6000
"""As many metrics go to the server in so many thousand calls: enough to be in the middle of them."""


def serve(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """A server of the store in a folder, that answers."""
    words = ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--workers", "1", "--port", str(port)]
    words += ["--artifacts-destination", str(folder / "artifacts"), "--host", "127.0.0.1"]
    with (folder / "server.log").open("ab") as said:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *words], stdout=said, stderr=said, start_new_session=True,
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )  # fmt: skip
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
        except OSError:
            assert server.poll() is None, (folder / "server.log").read_text()
            time.sleep(0.1)
        else:
            return server


def kill(server: subprocess.Popen[bytes]) -> None:
    """End a server and its workers without a word."""
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)
    server.wait(timeout=30)


def test_a_run_loses_nothing_to_a_server_that_dies_while_it_is_written_and_comes_back(
    workplace: Path,
    new_store: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(new_store, folder / "mlflow.db")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(logging.getLogger("hptctl"), "propagate", True)
    run = runs.create("pretrain", "mine", "", experiment="e", command="c", config={}, tags={"dataset": "flowers"})
    run.start()
    server = serve(folder, port)
    try:
        with caplog.at_level(logging.WARNING), tracking.tracked(run, at_once=True) as tracker:
            for step in range(STEPS):
                tracker.log({"loss": 1 / (step + 1)}, step)
            sent = 0
            while not sent:  # the first thousand have come there, and the others are on their way
                sent = len(json.loads((run.path / "tracking.json").read_bytes())["sent"])
                time.sleep(0.01)
            kill(server)
            run.write_status(state="finished", ended=time.time())
        (line,) = {message for message in caplog.messages if "tracking store" in message}
        assert line.endswith("the run goes on, `hptctl runs sync` brings its metrics later")
        server = serve(folder, port)
        assert 0 < tracking.sync(run) < STEPS
        (record,) = tracking.read_runs()
        assert (record.name, record.state) == ("mine", "FINISHED")
        history = tracking.histories([(record.run_id, "loss")])[record.run_id, "loss"]
        assert history == [(step, pytest.approx(1 / (step + 1))) for step in range(STEPS)]
        assert tracking.sync(run) == 0
    finally:
        kill(server)


def test_runs_of_a_server_are_those_of_its_database_and_all_are_read_while_others_write(
    workplace: Path, new_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(new_store, tmp_path / "mlflow.db")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    monkeypatch.setenv("HPTCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kept, "PAGE", 5)
    monkeypatch.setattr(kept, "FRESH", 1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    server = serve(tmp_path, port)
    try:
        client = tracking.client()
        experiment = store.experiment_id(client, "many")

        def add(number: int) -> None:
            id = client.create_run(experiment, start_time=1000 + number, tags={"hptctl": "1", "name": f"run-{number}"})
            client.log_param(id.info.run_id, "nothing", "")
            client.log_metric(id.info.run_id, "test/top1", [0.5, 1, float("nan"), float("inf")][number % 4])
            # Some come late to where others have been read already.
            client.set_terminated(id.info.run_id, end_time=2000 + (number * 7 if number % 3 else number))

        with ThreadPoolExecutor(1) as writer:
            for number in range(40):
                add(number)
            writing = writer.submit(lambda: [add(number) for number in range(40, 90)])
            for _ in range(5):
                tracking.read_anew()
                assert {record.name for record in tracking.read_runs()} >= {f"run-{number}" for number in range(40)}
            writing.result()
        served = tracking.read_runs()
        tracking.read_anew()
        anew = tracking.read_runs()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
        assert len(served) == 90
        assert repr(served) == repr(anew) == repr(tracking.read_runs())  # NaN is not equal to itself
    finally:
        kill(server)
