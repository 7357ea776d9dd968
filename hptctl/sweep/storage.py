"""Where Optuna keeps a sweep's trials.

On one machine it is Optuna's journal, a file in the sweep's folder; a SQL database lets several machines work together.
Measured with 8 processes on 200 quick trials (`benchmarks/sweep_storage.py`; 2 cores, Optuna 5.0): through the journal
each trial was claimed once, in 9 s. Through SQLite 35 to 37 of the 200 were claimed twice, in 46 to 67 s: SQLite takes
no row locks, so that two processes read one state before either writes. Where SQLite is asked for, claims are made
under a file lock, which it needs to be right.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from filelock import FileLock

from hpt.errors import ConfigError, RunError
from hptctl.secrets import HIDDEN

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

JOURNAL = "optuna.journal"
CONNECT_SECONDS = 10
STORAGE_VARIABLE = "HPTCTL_STORAGE"
"""Environment variable: the address of the SQL database, with its password."""


class _KernelLock:
    """A lock of the journal that ends with the process that holds it; Optuna's own takes 30 s to notice a death."""

    def __init__(self, file: Path) -> None:
        self._lock = FileLock(file)

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


class Opened(NamedTuple):
    """A storage in use, and the function that ends the use."""

    storage: BaseStorage
    close: Callable[[], None]


def open_journal(folder: Path) -> Opened:
    """The journal of a sweep's folder, made where it is missing."""
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    lock = _KernelLock(folder / f"{JOURNAL}.lock")
    backend = JournalFileBackend(str(folder / JOURNAL), lock_obj=lock)  # type: ignore[arg-type]  # as good as one
    return Opened(JournalStorage(backend), lambda: None)


def open_sql(url: str) -> Opened:
    """A SQL database, whose tables are made where they are missing.

    Raises:
        ConfigError: no such kind of database. RunError: it cannot be reached, or a password is missing.
    """
    from optuna.storages import RDBStorage, get_storage
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    if HIDDEN in url:
        raise RunError(
            f"the password of {url} is not kept", "give --storage again, or set HPTCTL_STORAGE or PGPASSWORD"
        )
    try:
        parsed = _parse(url)
        sqlite = parsed.get_backend_name() == "sqlite"
        if sqlite and not (folder := Path(parsed.database or "").absolute().parent).is_dir():
            raise RunError(f"there is no folder {folder} for the storage {shown(url)}", "make it, or check --storage")
        settings = {"timeout": 60} if sqlite else {"connect_timeout": CONNECT_SECONDS}
        real = parsed.render_as_string(hide_password=False)
        for attempt in range(3):  # several first users race to make the tables
            try:
                database = RDBStorage(real, engine_kwargs={"connect_args": settings, "pool_pre_ping": True})
                return Opened(get_storage(database), database.engine.dispose)
            except SQLAlchemyError:
                if attempt == 2:
                    raise
                time.sleep(0.5)
        raise AssertionError
    except (ArgumentError, NoSuchModuleError):
        raise ConfigError(
            f"--storage {shown(url)!r} is not the address of a database",
            "write postgresql://user@host/database or sqlite:///file.db",
        ) from None
    except ImportError as error:
        if "psycopg" in f"{error}{error.__cause__}":
            raise RunError("PostgreSQL needs psycopg", "install it: pip install 'hptctl[postgres]'") from None
        raise RunError(f"storage {shown(url)} needs a driver: {error.__cause__ or error}", "install it") from None
    except RuntimeError as error:  # Optuna's word for tables of another version
        if "table schema" not in str(error):
            raise
        older = "storage upgrade" in str(error)
        raise RunError(
            f"storage {shown(url)} has the tables of {'an older' if older else 'a newer'} Optuna",
            f"copy it, then `optuna storage upgrade --storage {shlex.quote(shown(url))}`"
            if older
            else "`pip install -U optuna`",
        ) from None
    except SQLAlchemyError as error:
        why = str(getattr(error, "orig", None) or error).strip().splitlines()
        raise RunError(
            f"storage {shown(url)} cannot be used: {why[0] if why else error}", "check --storage and that it is up"
        ) from None


def claims_lock(url: str | None) -> AbstractContextManager[object]:
    """A lock to hold while a trial is claimed from SQLite; other storages need none."""
    if url is None or not url.startswith("sqlite"):
        return nullcontext()
    return FileLock(f"{_parse(url).database}.lock")


def shown(url: str) -> str:
    """The address of a database without its password, as it may be written down."""
    from sqlalchemy.exc import ArgumentError

    try:
        return str(_parse(url).render_as_string(hide_password=True))
    except ArgumentError:
        return url


def _parse(url: str):  # type: ignore[no-untyped-def]  # SQLAlchemy's URL
    from sqlalchemy.engine import make_url

    parsed = make_url(url)
    if parsed.drivername in {"postgresql", "postgres"}:  # SQLAlchemy's default driver is the old psycopg2
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed
