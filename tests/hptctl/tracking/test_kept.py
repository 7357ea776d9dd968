"""Runs that ended are read from the cache, and what a store has instead of them is seen."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from hptctl import tracking
from hptctl.tracking import kept, store

RUNS = 23


@pytest.fixture(autouse=True)
def small_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many pages of two dozen runs as there else are of some thousand, and a cache of their own."""
    monkeypatch.setenv("HPTCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kept, "PAGE", 3)
    monkeypatch.setattr(kept, "FRESH", 1)


@pytest.fixture
def client(workplace: Path) -> MlflowClient:
    """Of a store of finished runs `run-0`, `run-1`, ..., which ended one after the other, and were read once."""
    client = tracking.client()
    experiment = store.experiment_id(client, "many")
    for number in range(RUNS):
        add(client, experiment, number)
    assert names() == [f"run-{number}" for number in range(RUNS)]
    return client


def add(client: MlflowClient, experiment: str, number: int, *, end: int | None = None, status: str = "FINISHED") -> str:
    tags = {"hptctl": "1", "name": f"run-{number}", "dataset": "flowers"}
    id = str(client.create_run(experiment, start_time=1000 + number, tags=tags).info.run_id)
    if status != "RUNNING":
        client.set_terminated(id, status, end_time=end or 2000 + number)
    return id


def names() -> list[str]:
    return [record.name for record in tracking.read_runs()]


def ids() -> dict[str, str]:
    return {record.name: record.run_id for record in tracking.read_runs()}


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many runs the store has sent since the last call."""
    counts = [0]
    real = store._sent

    def counted(run: object) -> kept.Sent:
        counts[0] += 1
        return real(run)  # type: ignore[arg-type]

    def since() -> int:
        count, counts[0] = counts[0], 0
        return count

    monkeypatch.setattr(store, "_sent", counted)
    return since


def test_of_runs_that_ended_long_ago_a_few_are_asked_for(client: MlflowClient, sent: Callable[[], int]) -> None:
    assert len(names()) == RUNS
    # The last five, one page of the others in turn, and the first of some pages.
    assert sent() <= 5 + 3 + 3


def test_deleted_runs_disappear_and_restored_ones_come_back(client: MlflowClient) -> None:
    known = ids()
    for gone in ([0], [7], [8, 9], [2, 3, 11, 16], [20, 22], [*range(20)], [*range(RUNS)]):
        for number in gone:
            client.delete_run(known[f"run-{number}"])
        assert names() == [f"run-{number}" for number in range(RUNS) if number not in gone]
        for number in gone:
            client.restore_run(known[f"run-{number}"])
        assert names() == [f"run-{number}" for number in range(RUNS)]


def test_runs_that_were_sent_late_are_seen_among_those_of_their_time(client: MlflowClient) -> None:
    experiment = store.experiment_id(client, "many")
    add(client, experiment, 100, end=2004)
    add(client, experiment, 101, end=1)
    assert {*names()} == {f"run-{number}" for number in (*range(RUNS), 100, 101)}


@pytest.mark.parametrize("after", [6, 14])
def test_no_run_is_lost_to_another_one_that_goes_while_pages_are_read(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    known, real, count = ids(), store._sent, [0]

    def sent(run: object) -> kept.Sent:
        count[0] += 1
        if count[0] == after:
            client.delete_run(known["run-0"])
        return real(run)  # type: ignore[arg-type]

    tracking.read_anew()
    monkeypatch.setattr(store, "_sent", sent)
    assert {*names()} >= {f"run-{number}" for number in range(1, RUNS)}


def test_a_run_goes_on_and_ends_anew(client: MlflowClient) -> None:
    id = ids()["run-4"]
    client.update_run(id, status="RUNNING")
    states = {record.name: record.state for record in tracking.read_runs()}
    assert states["run-4"] == "RUNNING"
    assert len(states) == RUNS
    client.log_metric(id, "test/top1", 0.5)
    client.set_terminated(id, "KILLED", end_time=9000)
    found = {record.name: record for record in tracking.read_runs()}
    assert (found["run-4"].state, found["run-4"].end, found["run-4"].metrics) == ("KILLED", 9.0, {"test/top1": 0.5})
    assert len(found) == RUNS


def test_what_was_edited_in_a_run_shows_after_some_reports_or_when_all_is_read_anew(client: MlflowClient) -> None:
    known = ids()
    newest, oldest = known["run-22"], known["run-1"]
    client.set_tag(newest, "dataset", "birds")
    assert {r.tags.dataset for r in tracking.read_runs() if r.run_id == newest} == {"birds"}
    client.set_tag(oldest, "dataset", "birds")
    tracking.read_anew()
    assert {r.tags.dataset for r in tracking.read_runs() if r.run_id == oldest} == {"birds"}
    client.set_tag(known["run-5"], "name", "renamed")
    assert any("renamed" in names() for _ in range(RUNS // 3))


def test_stores_do_not_mix(client: MlflowClient, new_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path("other")
    folder.mkdir()
    monkeypatch.chdir(folder)
    shutil.copy(new_store, "mlflow.db")
    other = tracking.client()
    add(other, store.experiment_id(other, "few"), 77)
    assert names() == ["run-77"]
    monkeypatch.chdir("..")
    assert len(names()) == RUNS
    shutil.copy("other/mlflow.db", "mlflow.db")  # the store was made anew in its place
    assert names() == ["run-77"]


def test_a_damaged_or_lacking_cache_costs_time_and_no_run(client: MlflowClient) -> None:
    (file,) = (kept.cache_folder() / "tracking").iterdir()
    assert file.stat().st_mode & 0o077 == 0  # others may share the cache, and not see the store
    file.write_bytes(b"no database")
    assert len(names()) == RUNS
    file.unlink()
    file.mkdir()
    assert len(names()) == RUNS
