"""What Windows lacks is asked for nowhere: the program runs where our own code finds none of it.

The other packages keep it, since they have code of their own for each system.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from program import command

WITHOUT = '''
"""Loaded by Python itself at the start of every process: our packages live on a system without POSIX."""
import builtins, os, signal, sys

MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "posix"}
OURS = {"hpt", "hptctl"}
imported = builtins.__import__


def importing(name, globals=None, locals=None, fromlist=(), level=0):
    who = (globals or {}).get("__name__", "").partition(".")[0]
    if name in MODULES and level == 0 and who in OURS:
        raise ModuleNotFoundError(f"No module named {name!r} on this system", name=name)
    return imported(name, globals, locals, fromlist, level)


builtins.__import__ = importing


class Lacking:
    """A module as our packages see it."""

    def __init__(self, module, names):
        self.__dict__.update(module=module, names=names)

    def __getattr__(self, name):
        if name in self.names:
            raise AttributeError(f"module {self.module.__name__!r} has no attribute {name!r} on this system")
        return getattr(self.module, name)


LACKING = {
    "os": Lacking(os, {"geteuid", "getuid", "getgid", "killpg", "getpgid", "getpgrp", "setsid", "fork", "statvfs",
                       "sched_getaffinity", "sched_setaffinity", "getloadavg", "uname", "nice", "mkfifo", "chown",
                       "getrusage", "fdatasync", "posix_fadvise", "pread", "pwrite", "sysconf", "WNOHANG"}),
    "signal": Lacking(signal, {"SIGUSR1", "SIGUSR2", "SIGHUP", "SIGKILL", "SIGALRM", "SIGCHLD", "SIGSTOP", "SIGCONT",
                               "SIGQUIT", "pthread_sigmask", "alarm", "setitimer", "sigwait"}),
}
plain = importing


def importing_less(name, globals=None, locals=None, fromlist=(), level=0):
    who = (globals or {}).get("__name__", "").partition(".")[0]
    if who in OURS and level == 0 and name in LACKING:
        return LACKING[name]
    return plain(name, globals, locals, fromlist, level)


builtins.__import__ = importing_less
'''


@pytest.fixture
def elsewhere(tmp_path: Path) -> Callable[..., str]:
    """`hptctl` on such a system, in an empty folder."""
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "sitecustomize.py").write_text(WITHOUT)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "without"), str(Path(__file__).parents[2])]),
        "HPTCTL_CACHE": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    work = tmp_path / "work"
    work.mkdir()

    def run(*words: str) -> str:
        done = subprocess.run(
            command(*words), cwd=work, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


TINY = ("--preset", "tiny", "--dataset", "digits", "--backbone", "resnet18")


@pytest.mark.slow
def test_an_evaluation_runs_where_the_system_has_no_posix(elsewhere: Callable[..., str], digits_folder: Path) -> None:
    few = ("--preset", "tiny", "--dataset", str(digits_folder), "--backbone", "resnet18")
    elsewhere("evaluate", "knn", "untrained", *few, "--name", "floor")
    assert "floor" in elsewhere("runs", "list")


@pytest.mark.slow
def test_the_way_from_images_to_report_works_where_the_system_has_no_posix(elsewhere: Callable[..., str]) -> None:
    elsewhere("pretrain", "--strategy", "target", *TINY, "--steps", "2", "--processes", "2", "--name", "two")
    elsewhere("evaluate", "knn", "two", "--dataset", "digits", "--preset", "tiny")
    elsewhere("bench", *TINY, "--steps", "1", "--repeats", "1")
    assert "digits" in elsewhere("datasets", "cache", "list")
    elsewhere("datasets", "cache", "prune", "--all")
    assert "report.html" in elsewhere("report", "--out", "report.html")


@pytest.mark.parametrize("name", ["fcntl", "resource", "pwd"])
def test_the_system_without_posix_is_without_it(tmp_path: Path, name: str) -> None:
    """The test above could pass for the wrong reason."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT)
    (tmp_path / "hpt.py").write_text(f"import {name}")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [*command()[:1], "-c", "import hpt"], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert f"No module named '{name}' on this system" in done.stderr
