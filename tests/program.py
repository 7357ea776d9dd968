"""The program as tests run it: inside the test's own process, or as a process of its own.

A process takes one to seven seconds to import what it needs, which most tests have no use for. Those that kill, signal
or count processes, or look at what is imported, start a real one; `test_processes.py` does so for every verb.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from filelock import FileLock

from hptctl import cli
from hptctl.ending import SIGNALS

LOGGERS = ("hpt", "hptctl")


def verbs() -> dict[str, Any]:
    """Every command that does something, by its words after `hptctl`."""
    found: dict[str, Any] = {}

    def walk(group: Any, path: tuple[str, ...]) -> None:
        for name, inner in group.commands.items():
            if hasattr(inner, "commands"):  # Typer brings a Click of its own, whose classes have no public name
                walk(inner, (*path, name))
            else:
                found[" ".join((*path, name))] = inner

    walk(cli.tree(), ())
    return found


def command(*arguments: str) -> list[str]:
    """The command line of a real `hptctl` process."""
    return [sys.executable, "-m", "hptctl", *arguments]


Hptctl = Callable[..., subprocess.CompletedProcess[str]]
"""The fixture `hptctl`: words of the command line, and `code`, the exit code to expect."""


def checked(run: Hptctl, *arguments: str, code: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
    """As `run` has it, with the exit code that was expected."""
    done = run(*arguments, **options)
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def run_inside(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`hptctl.cli.main` as a process would run it, in this one, which is afterwards as it was before."""
    with contextlib.ExitStack() as stack:
        out, err = (stack.enter_context(tempfile.TemporaryFile("w+", buffering=1, encoding="utf-8")) for _ in range(2))
        with _kept_state(), _redirected(out, err), contextlib.chdir(Path.cwd()):
            sys.argv = ["hptctl", *arguments]
            code = _exit_code(cli.main)
        return subprocess.CompletedProcess(["hptctl", *arguments], code, *map(_content, (out, err)))


def _exit_code(main: Callable[[], None]) -> int:
    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
            return 1
        return end.code or 0
    return 0


def _content(stream: IO[str]) -> str:
    stream.seek(0)
    return stream.read()


@contextlib.contextmanager
def _redirected(out: IO[str], err: IO[str]) -> Iterator[None]:
    """Standard output and error to files, for Python and for what it starts, which inherits the descriptors."""
    before = sys.stdout, sys.stderr
    for stream in before:
        stream.flush()
    saved = os.dup(1), os.dup(2)
    try:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        sys.stdout, sys.stderr = out, err  # type: ignore[assignment]
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in (out, err):
            stream.flush()
        for number, descriptor in enumerate(saved, 1):
            os.dup2(descriptor, number)
            os.close(descriptor)


@contextlib.contextmanager
def _kept_state() -> Iterator[None]:
    """What a process would take with it when it ends: environment, signals, loggers, warnings, random generators."""
    environment, arguments = dict(os.environ), sys.argv
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    loggers = [(each, each.handlers, each.level, each.propagate) for each in map(logging.getLogger, LOGGERS)]
    generators = random.getstate(), np.random.get_state()
    torch = sys.modules.get("torch")  # which some commands never need
    of_torch = torch and (torch.get_rng_state(), torch.get_num_threads())
    try:
        with warnings.catch_warnings():
            _warn_as_a_process_does()
            yield
    finally:
        sys.argv = arguments
        os.environ.clear()
        os.environ.update(environment)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for logger, *state in loggers:
            logger.handlers, logger.propagate = state[0], state[2]
            logger.setLevel(state[1])
        random.setstate(generators[0])
        np.random.set_state(generators[1])
        if torch and of_torch:
            torch.set_rng_state(of_torch[0])
            torch.set_num_threads(of_torch[1])


def _warn_as_a_process_does() -> None:
    """Python's own filters, and warnings on standard error: pytest's would make errors of them, or collect them."""
    warnings.resetwarnings()
    for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", category)

    def show(message: Warning | str, category: type[Warning], file: str, line: int, *_: Any, **__: Any) -> None:
        sys.stderr.write(warnings.formatwarning(message, category, file, line))

    warnings.showwarning = show


@contextlib.contextmanager
def signal_when(path: Path) -> Iterator[None]:
    """SIGTERM for what runs inside this process, as soon as a file is there."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.01):
            if path.exists():
                os.kill(os.getpid(), signal.SIGTERM)
                return

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that `make` fills, entered: once, for all the processes that share the tests between them."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder = root / name
    with FileLock(root / f"{name}.lock"):
        if not (root / f"{name}.made").exists():
            folder.mkdir()
            with contextlib.chdir(folder):
                make(folder)
            (root / f"{name}.made").touch()
    return folder


def wait_for(path: Path, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, "the command ended too early"
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.02)
