"""Processes that a command starts: real ones, which are asked to end, killed, and left by their command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from hpt import cores
from hpt.errors import Interrupted
from hptctl.runs import launch
from hptctl.runs.children import Children, child_processes, share, threads

# Each writes its number into a file when it is ready. The stubborn one has a child in a session of its own.
SLEEPS = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
STUBBORN = f"""
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", {SLEEPS!r}, sys.argv[1] + "-grandchild"], start_new_session=True)
{SLEEPS}
"""
# A command with a child, and with one that a launcher starts; both end by a signal's handler, as workers do.
ENDS = f"""
import signal, sys
from hptctl.runs.children import end_with_command
signal.signal(signal.SIGTERM, lambda *_: (open(sys.argv[1] + "-saved", "w"), sys.exit(0)))
end_with_command()
{SLEEPS}
"""
WORKS = """
import sys, time
from hptctl.runs.signals import held_back
with held_back() as stop:
    open(sys.argv[1], "w").write(str(__import__("os").getpid()))
    while not stop():
        time.sleep(0.02)
    time.sleep(1)
    open(sys.argv[1] + "-saved", "w")
"""
LAUNCHER = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", *sys.argv[1:]], start_new_session=True).wait()
"""
COMMAND = """
import sys
from pathlib import Path
from hptctl.runs.children import child_processes
folder, child, launcher = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
with child_processes(2) as children:
    children.start(0, [sys.executable, "-c", child, str(folder / "first")], folder / "log", {})
    if launcher:
        words = [sys.executable, "-c", launcher, child, str(folder / "second")]
        children.start(1, words, folder / "log", {})
    while children.running:
        children.wait()
"""


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


def wait_for(*files: Path) -> list[psutil.Process]:
    """The processes that write these files."""
    end = time.monotonic() + 60
    while not all(file.exists() and file.read_text() for file in files):
        assert time.monotonic() < end
        time.sleep(0.02)
    return [psutil.Process(int(file.read_text())) for file in files]


def gone(processes: list[psutil.Process], seconds: float = 20) -> bool:
    """Whether they end in time; what an ended parent leaves may stay a zombie where nobody reaps it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes):
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def command(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command with a stubborn child, both ready."""
    process = subprocess.Popen(python(COMMAND, tmp_path, STUBBORN, ""), stderr=subprocess.DEVNULL)
    wait_for(tmp_path / "first", tmp_path / "first-grandchild")
    yield process
    process.kill()
    process.wait()


# ---- the share of the machine


@pytest.mark.parametrize(
    ("inherited", "names"),
    [
        ("2,3", ["2", "3", "2"]),
        ("5", ["5", "5", "5"]),
        ("GPU-8932f937, GPU-fe01a5c2", ["GPU-8932f937", "GPU-fe01a5c2", "GPU-8932f937"]),
        ("MIG-8a4b,MIG-GPU-8932f937/1/0", ["MIG-8a4b", "MIG-GPU-8932f937/1/0", "MIG-8a4b"]),
        ("0,-1,1", ["0", "0", "0"]),
        ("", [None, None, None]),
        ("-1", [None, None, None]),
    ],
)
def test_children_share_the_devices_that_the_command_may_use(
    inherited: str, names: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", inherited)
    assert [share(slot, 3).get("CUDA_VISIBLE_DEVICES") for slot in range(3)] == names


def test_a_child_sees_the_device_of_its_slot_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    code = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['HPTCTL_COMMAND'])"
    with child_processes(2) as children:
        for slot in children.free():
            children.start(slot, python(code), tmp_path / f"{slot}.log", share(slot, 2))
        assert children.free() == []
        while children.running:
            assert all(child.process.returncode == 0 for child in children.wait())
    assert (tmp_path / "0.log").read_text() == f"2 {os.getpid()}\n"
    assert (tmp_path / "1.log").read_text() == f"3 {os.getpid()}\n"


def test_a_child_imports_nothing_of_the_users_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("random", "queue", "types", "hpt"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the module of the user')")
    with child_processes(1) as children:
        command = [sys.executable, "-m", "hptctl", "--version"]
        children.start(0, command, tmp_path / "log", {})
        assert [child.process.returncode for child in children.wait()] == [0], (tmp_path / "log").read_text()
    assert (tmp_path / "log").read_text().startswith("hptctl ")


def test_children_share_the_cores_that_the_command_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert threads(1) == {"OMP_NUM_THREADS": str(cores.usable())}
    assert threads(1000) == {"OMP_NUM_THREADS": "1"}
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/job\n")
    (tmp_path / "sys/fs/cgroup/job").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/job/cpu.max").write_text("800000 100000\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    monkeypatch.setattr(cores, "usable", partial(cores.usable, tmp_path))
    assert threads(4) == {"OMP_NUM_THREADS": "2"}
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert threads(4) == {"OMP_NUM_THREADS": "7"}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")
def test_a_command_that_is_bound_to_a_core_shares_that_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "from hptctl.runs.children import threads; print(threads(1)['OMP_NUM_THREADS'])"
    assert subprocess.run(python(code), capture_output=True, text=True).stdout == "1\n"


NAMES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
SHOWS = f"import os; print(*(os.environ.get(name) for name in {NAMES}))"
GIVEN = [({}, "None None"), ({"OMP_WAIT_POLICY": "active"}, "None active"), ({"GOMP_SPINCOUNT": "7"}, "7 None")]


@pytest.mark.parametrize(("given", "found"), GIVEN)
@pytest.mark.parametrize("counted", [True, False])
def test_children_are_told_to_wait_without_spinning_where_the_kernel_counts_no_delays_and_the_user_says_nothing(
    given: dict[str, str], found: str, counted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they were started: what a process changes in its environment afterwards is too late for a loaded library."""
    found = found if counted or given else "2000 None"
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    code = f"""
import sys; from pathlib import Path
import hptctl.cli
def main():
    from hptctl.runs.children import child_processes, share, threads
    assert 'torch' not in sys.modules
    with child_processes(2) as children:
        for slot, environment in enumerate((share(0, 2), threads(2))):  # a sweep's or a study's, a launcher's
            children.start(slot, [sys.executable, '-c', {SHOWS!r}], Path(sys.argv[1]) / str(slot), environment)
        while children.running:
            children.wait()
hptctl.cli.main = main
from hpt import waiting
waiting.clocks = {"waiting.clocks" if counted else "lambda tasks: {}"}
from hptctl.__main__ import main
main()
"""
    done = subprocess.run(python(code, tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / slot).read_text().strip() for slot in "01"] == [found, found]


@pytest.mark.slow
def test_the_launcher_of_several_processes_leaves_the_inherited_devices_whatever_the_users_defaults_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "accelerate").mkdir()
    (tmp_path / "accelerate/default_config.yaml").write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\ngpu_ids: 0,1\nnum_processes: 2\n"
    )
    (tmp_path / "probe.py").write_text(
        "import os; print(os.environ['RANK'], os.environ['CUDA_VISIBLE_DEVICES'], os.environ['OMP_NUM_THREADS'])"
    )
    for name, value in {"HF_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": "2,3", "OMP_NUM_THREADS": "5"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    done = subprocess.run([*launch.launcher(2), "-m", "probe"], capture_output=True, text=True, timeout=120)
    assert sorted(done.stdout.splitlines()) == ["0 2,3 5", "1 2,3 5"], done.stderr


# ---- their end


def started(children: Children, code: str, ready: Path) -> None:
    children.start(children.free()[0], python(code, ready), ready.with_suffix(".log"), {})


def test_wait_returns_with_the_first_that_ended_and_says_how(tmp_path: Path) -> None:
    with child_processes(3) as children:
        started(children, SLEEPS, tmp_path / "sleeps")
        started(children, "print('so it is'); raise SystemExit(3)", tmp_path / "failed")
        (failed,) = children.wait()
        assert (failed.slot, failed.ending, failed.last_line()) == (1, "ended with exit code 3", "so it is")
        assert children.free() == [1, 2]
        assert children.wait(0.2) == []
        (sleeps,) = wait_for(tmp_path / "sleeps")
        sleeps.kill()
        (killed,) = children.wait()
        assert (killed.slot, killed.ending, killed.last_line()) == (0, "was killed by SIGKILL", "it wrote nothing")


def test_no_child_runs_on_when_the_command_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), child_processes() as children:
        started(children, STUBBORN, tmp_path / "stubborn")
        found = wait_for(tmp_path / "stubborn", tmp_path / "stubborn-grandchild")
        _ = 1 / 0
    assert gone(found, 2)


def test_a_signal_is_passed_on_and_all_children_are_waited_for(tmp_path: Path) -> None:
    with child_processes(2) as children:
        started(children, ENDS, tmp_path / "a")
        started(children, ENDS, tmp_path / "b")
        wait_for(tmp_path / "a", tmp_path / "b")
        os.kill(os.getpid(), signal.SIGHUP)
        ended = children.wait()
        assert children.stop() == signal.SIGHUP
    assert sorted((child.slot, child.process.returncode) for child in ended) == [(0, 0), (1, 0)]
    assert (tmp_path / "a-saved").exists() and (tmp_path / "b-saved").exists()


def test_a_child_that_hears_of_the_end_twice_still_saves_what_it_has(tmp_path: Path) -> None:
    with child_processes() as children:
        started(children, WORKS, tmp_path / "works")
        (works,) = wait_for(tmp_path / "works")
        works.terminate()  # as a scheduler does with every process of a job
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        (child,) = children.wait()
    assert child.ending == "ended with exit code 0"
    assert (tmp_path / "works-saved").exists()


def test_a_child_that_ignores_sigterm_is_killed_after_a_while_with_its_own(tmp_path: Path) -> None:
    with child_processes(patience=0.5) as children:
        started(children, STUBBORN, tmp_path / "stubborn")
        found = wait_for(tmp_path / "stubborn", tmp_path / "stubborn-grandchild")
        begun = time.monotonic()
        os.kill(os.getpid(), signal.SIGTERM)
        (child,) = children.wait()
        assert time.monotonic() - begun >= 0.5
    assert child.ending == "was killed by SIGKILL"
    assert gone(found, 2)


def test_a_second_signal_does_not_wait(command: subprocess.Popen[bytes], tmp_path: Path) -> None:
    found = wait_for(tmp_path / "first", tmp_path / "first-grandchild")
    command.send_signal(signal.SIGINT)
    time.sleep(1)
    assert command.poll() is None  # its child ignores SIGTERM, and has two minutes
    assert all(each.is_running() for each in found)
    command.send_signal(signal.SIGINT)
    assert command.wait(timeout=20) != 0
    assert gone(found, 2)


def test_signals_in_the_middle_of_starting_leave_no_child_behind(tmp_path: Path) -> None:
    class Log(type(tmp_path)):  # type: ignore[misc]
        """Two signals come when it is opened."""

        def open(self, *arguments, **options):  # type: ignore[no-untyped-def]
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            return super().open(*arguments, **options)

    with pytest.raises(Interrupted) as raised, child_processes() as children:
        children.start(0, python(SLEEPS, tmp_path / "ready"), Log(tmp_path / "log"), {})
    assert raised.value.signum == signal.SIGINT
    (child,) = children.running.values()
    assert child.process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("launcher", [LAUNCHER, ""], ids=["launched", "direct"])
def test_children_end_by_themselves_when_their_command_was_killed(launcher: str, tmp_path: Path) -> None:
    command = subprocess.Popen(python(COMMAND, tmp_path, ENDS, launcher))
    names = ["first", "second"] if launcher else ["first"]
    found = wait_for(*(tmp_path / name for name in names))
    command.kill()
    command.wait()
    assert gone(found)
    assert all((tmp_path / f"{name}-saved").exists() for name in names)


def test_what_a_launcher_started_ends_when_the_launcher_was_killed(tmp_path: Path) -> None:
    with child_processes(2) as children:
        child = children.start(0, python(LAUNCHER, ENDS, tmp_path / "second"), tmp_path / "log", {})
        found = wait_for(tmp_path / "second")
        child.process.kill()
        assert gone(found)
    assert (tmp_path / "second-saved").exists()
