"""Where a sweep's trials are kept."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from hpt.errors import ConfigError, RunError
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
