"""Jobs, as processes of this machine: sent once, found again, taken up when they are lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from run_folders import made

from hpt.errors import RunError
from hptctl.cluster.jobs import Ended, Jobs, Task, remembered
from hptctl.cluster.schedulers import Local
from hptctl.cluster.settings import Cluster
from hptctl.runs import Run

WORK = """
import json, os, signal, sys, time
from pathlib import Path

folder, what = Path(sys.argv[1]), sys.argv[2]
started = folder / "started"
first = not started.exists()
with started.open("a") as file:
    file.write(f"{os.getpid()}\\n")

def record(**changes):
    file = folder / "status.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))

def save(*_):
    (folder / "saved").touch()
    sys.exit(75)

signal.signal(signal.SIGUSR1, save)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
if what == "fail":
    record(state="failed", reason="it cannot be done", exit_code=2)
    sys.exit(2)
if what == "die" or (what == "die once" and first):
    os.kill(os.getpid(), signal.SIGKILL)
if what == "wait" and first:
    time.sleep(60)
record(state="finished")
"""
"""Stands for a run's command: a process that does nothing but what a test of jobs needs, in a tenth of a second."""


@pytest.fixture
def jobs(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    """The jobs of a study."""
    (workplace / "modules").mkdir()
    (workplace / "modules" / "work.py").write_text(WORK)
    monkeypatch.setenv("PYTHONPATH", str(workplace / "modules"))
    monkeypatch.setattr(Local, "look_seconds", 0.1)
    monkeypatch.setattr(Local, "gone_seconds", 0.1)
    scheduler = Local()
    yield Jobs(made("mine", "study").path, scheduler, Cluster(array_parallelism=4))
    for process in scheduler.processes.values():
        process.wait(timeout=30)


def task(name: str, what: str = "") -> Task:
    run = made(name, state="interrupted")
    return Task(run, ("work", str(run.path), what))


def waited(jobs: Jobs, many: int = 1, seconds: float = 30) -> list[Ended]:
    """So many tasks that ended, by name."""
    found: list[Ended] = []
    end = time.monotonic() + seconds
    while len(found) < many:
        assert time.monotonic() < end, [*Path("runs/mine/jobs").glob("*")]
        jobs.look()
        found += jobs.ended()
        time.sleep(0.02)
    return sorted(found, key=lambda ended: ended.key)


def started(task: Task, times: int) -> int:
    """The process of a task that has begun so many times."""
    end, file = time.monotonic() + 30, task.run.path / "started"
    while not file.exists() or len(file.read_text().split()) < times:
        assert time.monotonic() < end
        time.sleep(0.02)
    return int(file.read_text().split()[-1])


def test_a_job_that_dies_is_taken_up_and_one_that_fails_is_not(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = task("a"), task("b", "die once"), task("c", "fail")
    jobs.send(tasks)
    assert [ended.why for ended in waited(jobs, 3)] == ["", "", "it cannot be done"]
    assert "warning: b: job" in (said := capsys.readouterr().err)
    assert "was lost (it left the queue without a word); the run goes on in another" in said
    assert len((tasks[1].run.path / "started").read_text().split()) == 2
    assert remembered(Path("runs/mine")) == []


@pytest.mark.slow
def test_what_dies_again_and_again_is_given_up(jobs: Jobs) -> None:
    hopeless = task("a", "die")
    jobs.send([hopeless])
    (ended,) = waited(jobs)
    assert ended.why.startswith("3 jobs in a row were lost with nothing saved, the last one ")
    assert str(jobs.folder) in ended.why
    assert len((hopeless.run.path / "started").read_text().split()) == 3


def test_who_comes_later_finds_the_jobs_and_a_warning_makes_one_save_and_go_on(jobs: Jobs) -> None:
    slow = task("a", "wait")
    jobs.send([slow])
    started(slow, 1)
    (job,) = remembered(Path("runs/mine"))
    later = Jobs(Path("runs/mine"), Local(), Cluster())
    later.look()
    assert slow.key in later
    assert later.places[slow.key].state == "RUNNING"
    (own,) = (
        child for child in psutil.Process(int(job.id or 0)).children() if "core._submit" in " ".join(child.cmdline())
    )
    own.send_signal(signal.SIGUSR1)  # as before the end of its time
    assert waited(later) == [Ended(slow.key, "")]
    assert (slow.run.path / "saved").exists()
    assert len((slow.run.path / "started").read_text().split()) == 2


def test_a_job_that_was_about_to_be_sent_is_not_known_for_one_that_was(jobs: Jobs) -> None:
    slow = task("a", "wait")
    jobs.send([slow])
    file = jobs.folder / "jobs.json"
    file.write_text(file.read_text().replace(f'"id": "{jobs[slow.key].id}"', '"id": null'))
    later = Jobs(Path("runs/mine"), Local(), Cluster())
    assert slow.key in later
    later.look()
    assert slow.key not in later  # processes have no names by which it could be found
    os.kill(started(slow, 1), signal.SIGKILL)
    file.write_text("[{")
    with pytest.raises(RunError, match=r"jobs.json is damaged; remove it once none of its jobs is in the queue"):
        Jobs(Path("runs/mine"), Local(), Cluster())
    file.unlink()


def test_a_folder_that_no_job_sees_is_the_users_to_mend(jobs: Jobs) -> None:
    blind = Jobs(Path("runs/mine"), jobs.scheduler, Cluster(setup=("exit 1",)))
    blind.send([task("a")])
    (ended,) = waited(blind)
    assert ended.user
    assert f"its node seems not to see {Path.cwd()}; work in a folder that this machine shares" in ended.why


def test_what_is_being_worked_on_is_not_sent(jobs: Jobs) -> None:
    busy = task("a")
    with Run(busy.run.path).working(), pytest.raises(RunError, match="is being worked on"):
        jobs.send([busy])
    assert remembered(Path("runs/mine")) == []
