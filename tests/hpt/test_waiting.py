"""How threads wait for each other: decided by what the kernel counts, in real processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch  # noqa: F401, whose library is looked for

from hpt import waiting

ONE_CORE = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
LOADED = "import torch; big = torch.zeros(1 << 20); big.add_(1)\n"  # by several threads

pytestmark = pytest.mark.skipif(
    not waiting.clocks(waiting.TASKS) or waiting.loaded_libgomp() is None,
    reason="this kernel does not count how long threads wait for a core, or PyTorch has another OpenMP than libgomp",
)


def environment() -> dict[str, str]:
    """In which nobody has said how threads wait, and a region has two of them."""
    kept = {name: value for name, value in os.environ.items() if name not in waiting.SET_BY_USERS}
    return kept | {"OMP_NUM_THREADS": "2"}


@contextlib.contextmanager
def busy() -> Iterator[None]:
    """A process that keeps the first core busy."""
    with subprocess.Popen([sys.executable, "-c", f"{ONE_CORE}print(flush=True)\nwhile True: pass"], stdout=-1) as hog:
        assert hog.stdout is not None
        hog.stdout.readline()
        try:
            yield
        finally:
            hog.kill()


@contextlib.contextmanager
def answering(code: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=environment()) as process:
        try:
            yield process
        finally:
            process.kill()


def test_threads_sleep_while_others_need_the_core_and_spin_again_when_it_is_free() -> None:
    code = (
        f"{ONE_CORE}from hpt import waiting; waiting.begin()\n"
        "import threading, time, torch; small = torch.zeros(8)  # by one, which lacks the core for others alone\n"
        "watch = next(each for each in threading.enumerate() if each.name == waiting.Watch.NAME)\n"
        "end = time.monotonic() + 120\n"
        "while watch.team is None and time.monotonic() < end: small.add_(1)\n"
        "print('spinning' if watch.team is None else 'sleeping', flush=True); input()\n"
        "while watch.team is not None and time.monotonic() < end: time.sleep(0.05)\n"
        "print('idle team' in [each.name for each in threading.enumerate()])"
    )
    with answering(code) as process:
        assert process.stdin is not None and process.stdout is not None
        with busy():
            assert process.stdout.readline() == "sleeping\n"
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "False\n"


def test_beside_an_idle_team_threads_that_wait_take_hardly_any_time_of_a_core() -> None:
    """Time of the processor, which others' work does not change."""
    code = (
        f"{LOADED}"
        "import time; from hpt import waiting\n"
        "library = waiting.loaded_libgomp()\n"
        "def taken():\n"
        "    start = time.process_time()\n"
        "    for _ in range(60): big.add_(1); time.sleep(0.005)\n"
        "    return time.process_time() - start\n"
        "taken(); spinning = taken(); team = waiting.IdleTeam(library); taken(); asleep = taken(); team.end()\n"
        "print(spinning, asleep, taken())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    spinning, asleep, again = map(float, done.stdout.split())
    assert asleep < spinning / 2
    assert asleep < again / 2


@pytest.mark.parametrize("name", waiting.SET_BY_USERS)
def test_nothing_is_watched_where_the_user_has_said_how_to_wait(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "7")
    before = threading.enumerate()
    waiting.begin()
    assert threading.enumerate() == before


def test_a_process_has_one_watch() -> None:
    code = (
        "import threading; from hpt import waiting\n"
        "waiting.begin(); waiting.begin()\n"
        "print([each.name for each in threading.enumerate()].count(waiting.Watch.NAME))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    assert done.stdout == "1\n"


def test_clocks_are_those_of_threads_that_are_there_and_countable(tmp_path: Path) -> None:
    for name, text in {"1": "9 7 5\n", "2": "", "3": "a b c"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "schedstat").write_text(text)
    (tmp_path / "4").mkdir()  # it has ended
    assert waiting.clocks(tmp_path) == {"1": (9, 7)}
    assert waiting.clocks(tmp_path / "none") == {}
