"""The ended runs of a store as they were last read, kept in the user's cache: 10,000 take a server minutes to send.

MLflow's search sends all of a run or nothing of it, and knows neither a number of runs nor a time of change. What it
has is an order that a run does not leave once it has ended (its end, its start, its id), and tokens that ask for what
lies behind so many runs of it. So a page whose first run is where it was has nothing before it that came or went: a few
runs tell that for all, and where one has moved they lead to the page with the change, which is read anew.

They tell nothing of what somebody edits in a run that has ended. Therefore the newest `FRESH` pages are always read,
and of the others the one that was not for longest; `forget` has all of them read.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import sqlite3
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from hpt.errors import DataError
from hpt.user_folders import cache_folder

PAGE = 250
"""Runs that are asked for at once: a busy server has sent a thousand too late (MLFLOW_HTTP_REQUEST_TIMEOUT)."""
FRESH = 4
"""Whole pages of the newest runs that are always read: a server sends a thousand runs in seconds."""
VERSION = 2
"""To be raised whenever what is kept changes its form."""


@dataclass(frozen=True)
class Sent:
    """A run as MLflow sends it."""

    id: str
    name: str
    experiment_id: str
    status: str
    start: int
    end: int | None
    """`start` and `end` in milliseconds since 1970."""
    params: dict[str, str]
    metrics: dict[str, float]
    """The last value of each."""
    tags: dict[str, str]

    @property
    def place(self) -> tuple[bool, int, int, str]:
        """What MLflow orders ended runs by: `ORDER`, and behind it what it adds itself."""
        return self.end is None, self.end or 0, -self.start, self.id


ORDER = "attributes.end_time ASC"
Search = Callable[[int, str | None], tuple[list[Sent], str | None]]
"""(most runs, token) -> the ended runs in their order from where the token asks for, and the token of what follows."""


@dataclass(frozen=True)
class Asked:
    """A store, as it is asked for its ended runs."""

    search: Search
    token: Callable[[int], str]
    """What MLflow's own stores name the place behind so many runs by; other stores may do otherwise."""
    at_once: int
    """Pages that are asked for at once."""


def ended(store: str, asked: Asked) -> list[Sent]:
    """The ended runs of a store by their ends: what is kept of them, brought up to date."""
    file = _file(store)
    known = _Known.load(file)
    before = {run.id: run for run in known.runs}
    try:
        known.update(asked)
    except Exception as error:
        # A store that was made anew, or is served by something else by now, may not know our tokens.
        if not before or getattr(error, "error_code", "") != "INVALID_PARAMETER_VALUE":
            raise
        known = _Known([], [None], {})
        known.update(asked)
    known.save(file, before)
    return known.runs


def forget(store: str) -> None:
    """Have all of a store's runs read when they are asked for next."""
    if (file := _file(store)) is not None:
        with suppress(OSError):
            file.unlink(missing_ok=True)


@dataclass
class _Known:
    """Ended runs in their order, the token of each page of them, and when each run was read, by its id."""

    runs: list[Sent]
    tokens: list[str | None]
    read: dict[str, float]

    def update(self, asked: Asked) -> None:
        """Make it what the store has."""
        search = asked.search
        newest = max(0, min(len(self.runs) // PAGE - FRESH, len(self.tokens) - 1))
        """The first of the pages that are read in any case."""

        def moved(number: int) -> bool:
            found, _ = search(1, self.tokens[number])
            return [run.id for run in found] != [run.id for run in self.runs[number * PAGE :][:1]]

        def changed(since: int) -> int:
            """The first page with a change from this one on, as far as `newest`."""
            return since + bisect_left(range(since + 1, newest + 1), True, key=moved)

        known = self._tokens_are_known(asked)
        number = self._read_at_once(asked, newest) if known else newest
        while number is not None:  # something in front of that page has come or gone
            newest = number
            number = changed(0)
            skipping = newest if len(self.runs) > newest * PAGE else 0
            while number is not None and (number < skipping or not known):
                following = self._read(search, number)
                if following and number + 1 < newest and not moved(number + 1):
                    number = changed(number + 1)
                else:
                    number = number + 1 if following else None
            if number is not None:
                number = self._read_at_once(asked, number)
        if older := range(min(newest, len(self.tokens))):  # in turn, since nothing tells what was edited in them
            self._read(search, min(older, key=self._age))

    def _tokens_are_known(self, asked: Asked) -> bool:
        """Whether a page can be asked for before the one in front of it has come: the store's tokens are MLflow's."""
        if len(self.tokens) > 1:
            return self.tokens[1] == asked.token(PAGE)
        return asked.search(1, None)[1] == asked.token(1)

    def _read_at_once(self, asked: Asked, first: int) -> int | None:
        """Read the pages from this one to the last, several at a time; the page that does not fit, None if all do.

        Each is read with the run behind it, with which the next one must begin: were another one there by then, some
        run would have come or gone in between, and one might be on neither page.
        """

        def ask(number: int) -> Future[tuple[list[Sent], str | None]]:
            return pool.submit(asked.search, PAGE + 1, asked.token(number * PAGE) if number else None)

        number, begins = first, [run.id for run in self.runs[first * PAGE :][:1]] if first else None
        with ThreadPoolExecutor(asked.at_once) as pool:
            coming = deque(ask(first + ahead) for ahead in range(asked.at_once))
            while True:
                page, _ = coming.popleft().result()
                if begins is not None and [run.id for run in page[:1]] != begins:
                    return number
                goes_on = len(page) > PAGE
                self._put(number, page[:PAGE], asked.token((number + 1) * PAGE) if goes_on else None)
                if not goes_on:
                    return None
                begins = [page[PAGE].id]
                coming.append(ask(number + asked.at_once))
                number += 1

    def _read(self, search: Search, number: int) -> bool:
        """Read a page; whether another one follows."""
        page, token = search(PAGE, self.tokens[number])
        self._put(number, page, token)
        return token is not None

    def _put(self, number: int, page: list[Sent], token: str | None) -> None:
        """Have a page in place of what was there, and the token of what follows it."""
        self.read |= dict.fromkeys((run.id for run in page), time.time())
        ids, start = {run.id for run in page}, number * PAGE
        rest = [run for run in self.runs[start:] if run.id not in ids and run.place > page[-1].place] if token else []
        self.runs[start:] = page + rest
        self.tokens[number + 1 :] = [token, *self.tokens[number + 2 :]] if token else []

    def _age(self, number: int) -> float:
        """When a page was read."""
        return min((self.read[run.id] for run in self.runs[number * PAGE :][:PAGE]), default=0.0)

    @classmethod
    def load(cls, file: Path | None) -> _Known:
        """What is kept; nothing where that cannot be read."""
        with suppress(sqlite3.Error, ValueError, TypeError):
            if file is not None and file.exists():
                with closing(sqlite3.connect(file)) as database:
                    rows = database.execute("SELECT sent, read FROM runs").fetchall()
                    tokens = [token for (token,) in database.execute("SELECT token FROM pages ORDER BY number")]
                runs = [Sent(**sent) for sent in json.loads(f"[{','.join(sent for sent, _ in rows)}]")]
                read = {run.id: when for run, (_, when) in zip(runs, rows, strict=True)}
                return cls(sorted(runs, key=lambda run: run.place), tokens or [None], read)
        return cls([], [None], {})

    def save(self, file: Path | None, before: dict[str, Sent]) -> None:
        """Keep it, where `before` is what is kept; with a full or read-only disk, the time is spent again."""
        if file is None or len(self.runs) <= PAGE * FRESH:  # which are read in any case
            return
        now = {run.id: run for run in self.runs}
        changed = [run for run in self.runs if before.get(run.id) != run]
        with suppress(OSError, sqlite3.Error):
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.exists():  # others may share the cache, and not see the store
                os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))
            with closing(sqlite3.connect(file)) as database, database:
                database.execute("CREATE TABLE IF NOT EXISTS runs (id TEXT PRIMARY KEY, read REAL, sent TEXT)")
                database.execute("CREATE TABLE IF NOT EXISTS pages (number INTEGER PRIMARY KEY, token TEXT)")
                database.executemany("DELETE FROM runs WHERE id = ?", [(id,) for id in before.keys() - now.keys()])
                database.executemany(
                    "INSERT OR REPLACE INTO runs VALUES (?, ?, ?)",
                    [(run.id, self.read[run.id], json.dumps(vars(run))) for run in changed],
                )
                database.executemany("UPDATE runs SET read = ? WHERE id = ?", [(self.read[id], id) for id in now])
                database.execute("DELETE FROM pages")
                database.executemany("INSERT INTO pages VALUES (?, ?)", enumerate(self.tokens))


def _file(store: str) -> Path | None:
    """Where the runs of a store are kept for this user; None where there is no place."""
    try:
        about = json.dumps([VERSION, store, getpass.getuser()])
        return cache_folder() / "tracking" / f"{hashlib.sha256(about.encode()).hexdigest()[:32]}.sqlite"
    except (DataError, OSError, KeyError):  # a user without a name
        return None
