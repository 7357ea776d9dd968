"""The queue of a sweep's trials, worked on by real processes through real storages."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpt.config import EvaluateConfig
from hpt.errors import RunError
from hptctl.sweep import queue as queues
from hptctl.sweep.plan import Plan, PlanOptions, make
from hptctl.sweep.queue import Claim, Queue, Reaper
from hptctl.sweep.space import Choice, Range, parse

TUNING = EvaluateConfig(kind="finetune", weights="base", dataset="digits", preset="tiny")
CLAIMER = """
import json, os, sys, time
from pathlib import Path
from hptctl.sweep.plan import Plan
from hptctl.sweep.queue import Queue
for line in sys.stdin:
    folder, url, name, plan = json.loads(line)
    folder = Path(folder)
    queue = Queue("s", folder, Plan.model_validate_json(plan), url)
    queue.study
    (folder / f"{name}.ready").touch()
    while not (folder / "go").exists():
        time.sleep(0.01)
    mine = []
    while (claim := queue.claim(name, folder)) is not None:
        mine.append(claim.number)
        params = claim.params()
        for tenth in (3, 6, 10):
            claim.look(params["lr"], tenth)
        claim.complete(params["lr"])
    print(json.dumps(mine), flush=True)
"""


def plan(lr: str = "0.01,0.001", **options: object) -> Plan:
    space, _ = parse("finetune", "tiny", flags={"lr": lr, "schedule": "1-steps,2-steps"})
    return make("finetune", TUNING, space, PlanOptions(**options))  # type: ignore[arg-type]


def opened(folder: Path, made: Plan, url: str | None = None) -> Queue:
    queue = Queue("s", folder, made, url)
    queue.create()
    return queue


@pytest.fixture(autouse=True)
def _nothing_stays_open(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every queue of a test is closed behind it."""
    made: list[Queue] = []
    begin = Queue.__init__

    def noted(queue: Queue, *arguments: Any) -> None:
        made.append(queue)
        begin(queue, *arguments)

    monkeypatch.setattr(Queue, "__init__", noted)
    yield
    for queue in made:
        if hasattr(queue, "close"):
            queue.close()


class Clock:
    """Stands still but where a test moves it on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def go(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What the queue takes the time from."""
    made = Clock()
    monkeypatch.setattr(time, "monotonic", made)
    return made


def claimed(queue: Queue, folder: Path, worker: str = "w") -> Claim:
    claim = queue.claim(worker, folder)
    assert claim is not None
    return claim


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL server of the tests' own, from the system's packages: an address without a password."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    folder = tmp_path_factory.mktemp("postgres")
    as_user: list[str] = []
    if os.getuid() == 0:  # the server refuses to run as root
        if shutil.which("setpriv") is None:
            pytest.skip("PostgreSQL does not run as root, and there is no setpriv")
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        for each in (folder, *folder.parents[:3]):
            each.chmod(0o755) if each != folder else shutil.chown(folder, "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    binaries, data = programs[-1].parent, folder / "data"
    setup = [*as_user, str(binaries / "initdb"), "-D", str(data), "-U", "tester", "-A", "trust", "-N"]
    subprocess.run(setup, check=True, capture_output=True, cwd=folder)
    serve = [str(binaries / "postgres"), "-D", str(data), "-h", "127.0.0.1", "-p", str(port), "-k", "", "-F"]
    with (folder.parent / "postgres.log").open("wb") as log:
        server = subprocess.Popen([*as_user, *serve], cwd=folder, stdout=log, stderr=log)
    ready = [str(binaries / "pg_isready"), "-h", "127.0.0.1", "-p", str(port)]
    while subprocess.run(ready, capture_output=True).returncode:
        assert server.poll() is None, (folder.parent / "postgres.log").read_text()
        time.sleep(0.1)
    yield f"postgresql://tester@127.0.0.1:{port}/postgres"
    server.send_signal(signal.SIGINT)
    server.wait(timeout=30)


@pytest.fixture(scope="module")
def eight() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that work on the queues that they are told of."""
    command = [sys.executable, "-c", CLAIMER]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    yield processes
    for process in processes:
        process.communicate(timeout=60)
    assert [process.returncode for process in processes] == [0] * 8


def told(folder: Path, url: str | None, name: str, made: Plan) -> str:
    return json.dumps([str(folder), url, name, made.model_dump_json()]) + "\n"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["journal", pytest.param("sqlite", marks=pytest.mark.slow), "postgres"])
def test_eight_processes_do_each_cell_once(
    kind: str, eight: list[subprocess.Popen[str]], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = None
    if kind != "journal":
        url = request.getfixturevalue("postgres") if kind == "postgres" else f"sqlite:///{tmp_path / 'trials.db'}"
    made = plan(",".join(str(n / 100) for n in range(1, 9)))
    queue = opened(tmp_path, made, url)
    for number, process in enumerate(eight):
        assert process.stdin is not None
        process.stdin.write(told(tmp_path, url, f"worker{number}", made))
        process.stdin.flush()
    while not all((tmp_path / f"worker{number}.ready").exists() for number in range(8)):
        assert all(process.poll() is None for process in eight)
        time.sleep(0.02)
    (tmp_path / "go").touch()
    answers = [process.stdout.readline() for process in eight if process.stdout is not None]
    assert all(answers), "a process ended too early"

    claims = Counter(number for answer in answers for number in json.loads(answer))
    assert claims == Counter(range(16))
    trials = queue.trials()
    cells = [(trial.params["lr"], trial.params["schedule"]) for trial in trials]
    assert cells == [(cell["lr"], cell["schedule"]) for cell in made.space.cells()]
    assert [trial.value for trial in trials] == [trial.params["lr"] for trial in trials]


def test_a_trial_that_is_given_back_keeps_its_number_its_point_and_its_looks(tmp_path: Path) -> None:
    made = plan("1e-4..1e-1", trials=2)
    queue = opened(tmp_path, made)
    first = claimed(queue, tmp_path)
    point = first.params()
    assert 1e-4 <= point["lr"] <= 1e-1
    first.look(0.3, 4)
    queue.give_back(first.number)

    again = claimed(Queue("s", tmp_path, made, None), tmp_path, "other")
    assert (again.number, again.params(), again.looked) == (0, point, 4)
    assert not first.holds()
    assert not first.beat()  # it has learnt that the trial is another's
    assert again.beat()
    again.complete(0.5)
    (done, left) = queue.trials()
    assert (done.state, done.value, done.worker, done.looks) == (
        "complete",
        0.5,
        "other",
        dict.fromkeys(range(1, 5), 0.3),
    )
    assert (left.state, left.params) == ("waiting", {})


def test_a_point_does_not_depend_on_who_draws_it_nor_on_the_order(tmp_path: Path) -> None:
    drawn = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        queue = opened(folder, plan("1e-4..1e-1", sampler="random", trials=3))
        claims = [claimed(queue, folder) for _ in range(3)]
        if name == "b":
            claims.reverse()
        drawn.append({claim.number: claim.params() for claim in claims})
    assert drawn[0] == drawn[1]
    assert len({point["lr"] for point in drawn[0].values()}) == 3


def test_the_trial_of_a_dead_process_is_given_back_and_fails_after_three(tmp_path: Path, clock: Clock) -> None:
    made = plan()
    queue = opened(tmp_path, made)
    code = CLAIMER.replace("mine.append(claim.number)", "os.kill(os.getpid(), 9)")
    (tmp_path / "go").touch()
    for death in range(1, queues.DEATHS + 1):
        done = subprocess.run([sys.executable, "-c", code], input=told(tmp_path, None, "w", made), text=True)
        assert done.returncode == -signal.SIGKILL
        assert queue.trials()[0].state == "running"
        reaper = Reaper(queue)
        assert reaper() == []
        clock.go(queues.HOLD_SECONDS + 1)
        assert reaper()
        assert queue.trials()[0].state == ("waiting" if death < queues.DEATHS else "fail")
    assert queue.trials()[0].reason == "its worker died 3 times (the process of w died)"


def test_a_trial_whose_process_died_a_moment_ago_is_left_to_the_command_that_started_it(
    tmp_path: Path, clock: Clock
) -> None:
    queue = opened(tmp_path, plan())
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    claim = claimed(queue, tmp_path, "w")
    claim.note("claim", queue.storage.get_trial(claim.id).user_attrs["claim"] | queues.process_named(child.pid))
    reaper = Reaper(queue)
    assert reaper() == []
    clock.go(queues.HOLD_SECONDS + 0.5)  # a long life is no long death
    assert reaper() == []
    child.kill()
    child.wait()
    assert reaper() == []
    clock.go(queues.HOLD_SECONDS + 0.5)
    assert reaper() == ["the process of w died: trial 0 goes on in another"]


def test_the_trial_of_another_machine_is_given_back_when_its_beat_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = opened(tmp_path, plan())
    monkeypatch.setattr(queues, "machine", lambda: "another-1")
    there = claimed(queue, tmp_path, "another/1")
    monkeypatch.undo()
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    reaper = Reaper(queue)
    assert reaper() == []
    for _ in range(3):
        clock.go(queues.GRACE_SECONDS - 1)
        there.beat()
        assert reaper() == []
    clock.go(queues.GRACE_SECONDS + 1)
    assert reaper() == ["another/1 was heard of no more: trial 0 goes on in another"]
    assert queue.trials()[0].state == "waiting"


def test_what_failed_is_tried_again_with_its_values_as_a_trial_of_its_own(tmp_path: Path) -> None:
    queue = opened(tmp_path, plan())
    bad, good = claimed(queue, tmp_path), claimed(queue, tmp_path)
    point = bad.params()
    bad.fail("the disk was full")
    good.params()
    good.complete(0.7)
    assert queue.retry() == [0]
    trials = queue.trials()
    assert [(t.number, t.slot, t.state) for t in trials if t.slot == 0] == [(0, 0, "fail"), (4, 0, "waiting")]
    assert trials[0].reason == "the disk was full"
    while (claim := queue.claim("w", tmp_path)) is not None:
        if claim.number == 4:
            assert claim.params() == point
        claim.params()
        claim.complete(0.1)
    assert queue.retry() == []
    best = queues.best(queue.trials())
    assert best is not None
    assert best.number == good.number


def test_the_median_stops_a_trial_that_does_worse_at_a_tenth_of_its_own_length(tmp_path: Path) -> None:
    queue = opened(tmp_path, plan("0.1,0.2,0.3,0.4", pruner="median"))
    for value in (0.5, 0.6, 0.7, 0.8):
        claim = claimed(queue, tmp_path)
        claim.params()
        assert not claim.look(value, 3)  # stands for the tenths before it, too
        assert not claim.look(value, 10)
        claim.complete(value)
    worse, better = claimed(queue, tmp_path), claimed(queue, tmp_path)
    worse.params(), better.params()
    assert worse.look(0.4, 2)
    worse.prune("pruned at 20 % of its length")
    assert not better.look(0.9, 2)
    assert queue.trials()[worse.number].state == "pruned"
    assert queue.trials()[worse.number].value is None


def test_halving_lets_the_better_half_go_on_also_in_another_worker(tmp_path: Path) -> None:
    queue = opened(tmp_path, plan("0.1,0.2,0.3,0.4", pruner="halving"))
    first, worse, better = (claimed(queue, tmp_path) for _ in range(3))
    for claim in (first, worse, better):
        claim.params()
    assert not first.look(0.5, 1)  # there is none beside it yet
    assert worse.look(0.4, 1)
    worse.prune("pruned at 10 % of its length")
    assert not better.look(0.6, 1)
    assert not better.look(0.7, 2)
    queue.give_back(first.number)
    again = claimed(queue, tmp_path)
    assert again.number == first.number
    assert again.looked == 1
    assert again.look(0.3, 3)  # which stands for its second tenth, where the other had 0.7


def test_lists_are_values_like_others(tmp_path: Path) -> None:
    space = parse("linear", "tiny", sets=["linear.batch_size=32,64"], flags={})[0]
    listed = Choice(field="linear.lrs", values=([0.3], [3.0, 30.0]))
    made = make("linear", TUNING.model_copy(update={"kind": "linear"}), space)
    made = made.model_copy(update={"space": space.model_copy(update={"dimensions": {"lr": listed}}), "trials": 2})
    queue = opened(tmp_path, made)
    assert [claimed(queue, tmp_path).params() for _ in range(2)] == [{"lr": [0.3]}, {"lr": [3.0, 30.0]}]


def test_a_study_of_another_configuration_is_refused_with_the_difference(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'trials.db'}"
    opened(tmp_path, plan(), url)
    assert Queue("s", tmp_path, plan(), url).create() is False  # it joins
    with pytest.raises(RunError, match=r"the space of lr is 0\.01, 0.001 there, 0.1, 0.2 here"):
        Queue("s", tmp_path, plan("0.1,0.2"), url).create()
    with pytest.raises(RunError, match="there is no sweep 'other'"):
        _ = Queue("other", tmp_path, plan(), url).study


def test_a_range_of_whole_numbers_gives_whole_numbers(tmp_path: Path) -> None:
    space = parse("finetune", "tiny", sets=["finetune.batch_size=8..16"], flags={"lr": "0.1", "schedule": "1-steps"})[0]
    assert isinstance(space.dimensions["finetune.batch_size"], Range)
    queue = opened(tmp_path, make("finetune", TUNING, space, PlanOptions(trials=3)))
    sizes = [claimed(queue, tmp_path).params()["finetune.batch_size"] for _ in range(3)]
    assert all(isinstance(size, int) and 8 <= size <= 16 for size in sizes)
