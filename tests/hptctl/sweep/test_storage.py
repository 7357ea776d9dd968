"""Where a sweep's trials are kept."""

from __future__ import annotations

import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
import pytest

from hpt.config import EvaluateConfig
from hpt.errors import ConfigError, RunError
from hptctl.sweep.plan import PlanOptions, make
from hptctl.sweep.queue import Queue
from hptctl.sweep.space import parse
from hptctl.sweep.storage import open_sql, shown


def test_a_storage_that_is_not_there_is_named_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no folder"):
        open_sql(f"sqlite:///{tmp_path / 'nowhere' / 'trials.db'}")
    with pytest.raises(ConfigError, match="is not the address of a database"):
        open_sql("trials")
    pytest.importorskip("psycopg")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"postgresql://me:secret@127.0.0.1:{free.getsockname()[1]}/trials"
    with pytest.raises(RunError, match="cannot be used") as caught:
        open_sql(url)
    assert "secret" not in str(caught.value)
    assert "secret" not in shown(url)
    with pytest.raises(RunError, match="HPTCTL_STORAGE"):
        open_sql(shown(url))


def test_the_tables_of_another_optuna_are_named_with_what_upgrades_them(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'trials.db'}"
    open_sql(url).close()
    for version, fix in (
        ("v2.6.0.a", "an older Optuna; copy it, then `optuna storage upgrade"),
        ("v99", "a newer Optuna"),
    ):
        with closing(sqlite3.connect(tmp_path / "trials.db")) as database:
            database.execute("update alembic_version set version_num = ?", (version,))
            database.commit()
        with pytest.raises(RunError, match=fix):
            open_sql(url)


def test_a_study_of_somebody_elses_is_no_sweep_whose_making_was_cut_short(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'trials.db'}"
    opened = open_sql(url)
    optuna.create_study(storage=opened.storage, study_name="s").enqueue_trial({"x": 1})
    space, _ = parse("finetune", "tiny", flags={"lr": "0.01", "schedule": "1-steps"})
    tuning = EvaluateConfig(kind="finetune", weights="base", dataset="digits", preset="tiny")
    queue = Queue("s", tmp_path, make("finetune", tuning, space, PlanOptions()), url)
    with closing(queue), pytest.raises(RunError, match="has a study 's' that is no sweep; choose another --name"):
        queue.create()
    opened.close()
