"""The tracking store as it is read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tracked_store import Store

from hpt.config import EvaluateConfig, resolve
from hpt.errors import RunError
from hptctl import runs, tracking


def test_what_a_run_under_way_logs_is_no_change(workplace: Path) -> None:
    store = Store()
    source = store.pretrain("hpt", "flowers", 50)
    watch = tracking.StoreWatch()
    assert watch.changed()
    assert not watch.changed()
    running = store.evaluate("linear", source, "flowers", None, state="running")
    assert watch.changed()
    run = runs.get(running)
    run.append_metrics({"val/top1": 0.5}, 7)
    tracking.sync(run)
    assert not watch.changed()
    run.write_status(state="finished", ended=1_770_000_000.0)
    tracking.sync(run)
    assert watch.changed()


def test_a_store_in_a_folder_of_any_name_is_found_again(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = workplace / "what now? 50% #1 ä"
    folder.mkdir()
    shutil.copy(workplace / "mlflow.db", folder)
    monkeypatch.chdir(folder)
    store = Store()
    source = store.pretrain("hpt", "flowers", 50)
    assert [record.name for record in tracking.read_runs()] == [source]
    assert sorted(path.name for path in workplace.iterdir() if path.is_dir()) == [folder.name]
    assert {path.name for path in folder.iterdir()} >= {"mlflow.db", "mlartifacts", "runs"}


def test_a_database_that_cannot_be_reached_is_said_at_once(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workplace / "folder").mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workplace / 'folder'}")
    with pytest.raises(RunError, match=r"unable to open database file.*; check MLFLOW_TRACKING_URI and the store"):
        tracking.check_store()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "mysql://u@127.0.0.1:9/db")  # no driver of MySQL is installed
    with pytest.raises(RunError, match=r"; install MySQLdb$"):
        tracking.check_store()


def test_what_was_deleted_in_mlflow_is_named_with_the_command_that_restores_it(workplace: Path) -> None:
    store = Store()
    run = runs.get(store.pretrain("hpt", "flowers", 50))
    id = runs.tracked_id(run)
    assert id is not None
    client = tracking.client()
    client.delete_run(id)
    with pytest.raises(
        RunError, match=rf"its run was deleted in MLflow; restore it: `.* mlflow runs restore --run-id {id}`"
    ):
        tracking.sync(run)
    client.restore_run(id)
    tracking.sync(run)
    experiment = client.get_run(id).info.experiment_id
    client.delete_experiment(experiment)
    for each in (run, runs.create("pretrain", None, "new", experiment="test", command="c", config={})):
        with pytest.raises(RunError, match=f"'test' was deleted .* experiments restore --experiment-id {experiment}`"):
            tracking.sync(each)


def test_a_run_whose_store_was_made_anew_is_brought_to_it(workplace: Path, new_store: Path) -> None:
    run = runs.get(Store().pretrain("hpt", "flowers", 50))
    before = runs.tracked_id(run)
    shutil.copy(new_store, workplace / "mlflow.db")
    assert tracking.sync(run) > 0
    (record,) = tracking.read_runs()
    assert record.first_id == before


def test_the_store_gets_the_settings_that_an_evaluation_followed(workplace: Path) -> None:
    config = resolve(EvaluateConfig, flags={"kind": "linear", "weights": "-", "dataset": "flowers"})
    values = config.model_dump(mode="json")
    run = runs.create("linear", None, "mine", experiment="test", command="c", config=values)
    tracking.sync(run)
    (record,) = tracking.read_runs()
    assert record.params["linear.reruns"] == "3"
    assert record.params["data.split_seed"] == "0"
    assert {"finetune", "knn", "detection", "segmentation"} <= run.spec().config.keys()
    assert not {"finetune", "knn", "detection", "segmentation"} & {key.partition(".")[0] for key in record.params}
