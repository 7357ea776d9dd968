"""How the machines of a run find each other, and what they do where they do not fit: on 127.0.0.1, by real stores."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from program import command, wait_for
from safetensors.torch import load_file

from hpt.errors import ConfigError, HptError, RunError, UserError
from hptctl.runs import machines
from hptctl.runs.machines import Hello, Meeting, Place, free_port, interface_to, meet

HELLO = Hello({"steps": 4}, "1.0", "2.11")
TINY = ("--preset", "tiny", "--batch-size", "32", "--device", "cpu", "--set", "log_every=1")


BAD = {
    "a rank alone": ((None, 1, None), "--machine-rank is for a run on several machines"),
    "no rank": ((2, None, "127.0.0.1:1"), "--machines 2 needs --machine-rank"),
    "no address": ((2, 0, None), "--machines 2 needs --main-address"),
    "no machines": ((0, 0, "127.0.0.1:1"), "--machines 0 is no number of machines"),
    "a rank too many": ((2, 2, "127.0.0.1:1"), "2 machines have the ranks 0 to 1"),
    "a rank too few": ((2, -1, "127.0.0.1:1"), "--machine-rank -1 is out of range"),
    "no port": ((2, 0, "127.0.0.1:"), "'127.0.0.1:' is no address"),
    "a port that is none": ((2, 0, "127.0.0.1:70000"), "give HOST:PORT"),
    "nothing": ((2, 0, ""), "'' is no address"),
}


@pytest.mark.parametrize(("given", "expected"), BAD.values(), ids=BAD.keys())
def test_options_that_name_no_place_are_refused(given: tuple[Any, ...], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        Place.of(*given, None)


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [("a:1", "a", 1), ("10.0.0.5", "10.0.0.5", 29500), ("[::1]:7", "::1", 7), ("::1", "::1", 29500)],
)
def test_an_address_is_a_host_and_a_port(address: str, host: str, port: int) -> None:
    place = Place.of(2, 1, address, None)
    assert place is not None
    assert (place.host, place.port, place.wait) == (host, port, 300)
    assert Place.of(*(2, 1, place.address), None) == place
    assert Place.of(1, 0, address, None) is None


def place(rank: int, count: int = 2, port: int = 0, wait: float = 20) -> Place:
    return Place(count, rank, "127.0.0.1", port, wait)


def met(where: Place, hello: Hello, then: Callable[[Meeting], Any] = lambda meeting: None) -> Any:
    with meet(where, hello) as meeting:
        return then(meeting)


@contextmanager
def together(*parts: Callable[[], Any]) -> Iterator[list[Future[Any]]]:
    """Machines at the same time; their results, or errors, once all have one."""
    with ThreadPoolExecutor(len(parts)) as pool:
        yield [pool.submit(part) for part in parts]


def test_machines_find_each_other_and_hear_what_the_first_has_to_say() -> None:
    port = free_port()
    with together(
        lambda: met(place(2, 3, port), HELLO, Meeting.told),
        lambda: met(place(0, 3, port), HELLO, lambda meeting: meeting.tell(spec="a run")),
        lambda: met(place(1, 3, port), HELLO, Meeting.told),
    ) as found:
        pass
    assert [each.result() for each in found] == [{"spec": "a run"}, None, {"spec": "a run"}]


def test_what_the_first_machine_said_just_before_it_ended_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    port, looked, has = free_port(), list[str](), Meeting._has

    def at_the_wrong_moment(meeting: Meeting, key: str) -> bool:
        if meeting.place.rank == 0 or key != "told" or looked:
            return has(meeting, key)
        looked.append(key)  # a first look, after which it is all said and done before the second
        while meeting._end(0) is None:
            time.sleep(0.01)
        return False

    monkeypatch.setattr(Meeting, "_has", at_the_wrong_moment)
    with together(
        lambda: met(place(0, 2, port), HELLO, lambda meeting: meeting.tell(spec="a run")),
        lambda: met(place(1, 2, port), HELLO, Meeting.told),
    ) as found:
        pass
    assert [each.result() for each in found] == [None, {"spec": "a run"}]
    assert looked == ["told"]


UNFIT = {
    "another program": (replace(HELLO, version="1.1"), "has hptctl 1.1, and machine 0 "),
    "another torch": (replace(HELLO, torch="2.12"), "has torch 2.12, and machine 0 "),
    "another command": (replace(HELLO, asked={"steps": 5, "seed": 1}), "the commands differ: steps is 5 on machine 1 "),
}


@pytest.mark.parametrize(("other", "expected"), UNFIT.values(), ids=UNFIT.keys())
def test_machines_that_do_not_fit_are_refused_in_the_same_line_on_each(other: Hello, expected: str) -> None:
    port = free_port()
    with together(lambda: met(place(0, port=port), HELLO), lambda: met(place(1, port=port), other)) as found:
        pass
    errors = [each.exception() for each in found]
    assert all(isinstance(error, ConfigError) for error in errors)
    assert str(errors[0]) == str(errors[1])
    assert expected in str(errors[0])


def test_a_rank_that_was_given_twice_and_another_number_of_machines_are_refused() -> None:
    port = free_port()
    with together(*(lambda rank=rank: met(place(rank, 3, port), HELLO) for rank in (0, 1, 1))) as twice:
        pass
    assert all("--machine-rank 1 was given twice" in str(each.exception()) for each in twice)
    port = free_port()
    with together(lambda: met(place(0, 2, port), HELLO), lambda: met(place(1, 3, port), HELLO)) as unequal:
        pass
    for each in unequal:
        assert "one machine was given --machines" in str(each.exception())


def test_a_clock_that_is_an_hour_off_is_a_warning(capfd: pytest.CaptureFixture[str]) -> None:
    port, late = free_port(), replace(HELLO, clock=time.time() - 3660)
    with together(lambda: met(place(0, port=port), HELLO), lambda: met(place(1, port=port), late)) as found:
        pass
    assert [each.exception() for each in found] == [None, None]
    warned = " ".join(capfd.readouterr().err.split())
    assert warned.count("is 61 min behind that of machine 0") == 2


def test_a_wait_for_a_machine_that_never_comes_ends_after_its_time() -> None:
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"machine 1 of 2 did not come to 127\.0\.0\.1:\d+ within 1 s"):
        met(place(0, port=free_port(), wait=1), HELLO)
    with pytest.raises(ConfigError, match=r"machine 0 was not found at .* within 1 s"):
        met(place(1, port=free_port(), wait=1), HELLO)
    assert time.monotonic() - began < 8


def test_a_port_that_is_taken_and_an_address_that_leads_nowhere_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "ANSWER_SECONDS", 1.0)  # of somebody who never answers
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} of this machine is taken"):
            met(place(0, port=port), HELLO)
        with pytest.raises(ConfigError, match=r"is no machine of a run \(no answer\)"):
            met(place(1, port=port), HELLO)
    with pytest.raises(ConfigError, match=r"knows no host 'nowhere\.invalid'"):
        met(replace(place(1, port=1), host="nowhere.invalid"), HELLO)


def test_what_ends_one_machine_is_heard_by_the_others() -> None:
    def fail(meeting: Meeting) -> None:
        raise RunError("the disk is full", "free some space")

    port = free_port()
    with together(
        lambda: met(place(0, port=port), HELLO, fail), lambda: met(place(1, port=port), HELLO, Meeting.told)
    ) as found:
        pass
    heard = found[1].exception()
    assert isinstance(heard, UserError)
    assert str(heard) == f"machine 0 ({socket.gethostname()}) stopped: the disk is full; free some space"

    def explained(meeting: Meeting) -> HptError | None:
        return meeting.explained(10)

    port = free_port()
    with together(
        lambda: met(place(0, port=port), HELLO, explained), lambda: met(place(1, port=port), HELLO, fail)
    ) as found:
        pass
    assert f"machine 1 ({socket.gethostname()}) stopped: the disk is full" in str(found[0].result())


def test_a_machine_that_falls_silent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "SILENT_SECONDS", 1.0)
    port = free_port()

    def fall_silent() -> None:
        with meet(place(1, port=port), HELLO) as meeting:
            meeting._over.set()  # as if it had been killed
            time.sleep(2.5)

    with together(lambda: met(place(0, port=port), HELLO, lambda meeting: meeting.explained(10)), fall_silent) as found:
        pass
    assert str(found[0].result()) == f"machine 1 ({socket.gethostname()}) was lost"


def test_the_interface_to_the_first_machine_is_that_of_the_route_to_it() -> None:
    names = {name for name, all in psutil.net_if_addrs().items() if any(each.address == "127.0.0.1" for each in all)}
    assert {interface_to(place(1, port=1))} == names
    assert interface_to(replace(place(1, port=1), host="nowhere.invalid")) is None


class Machine:
    """A command as one machine gives it: a working folder, a cache and images of its own."""

    def __init__(self, folder: Path, images: Path, rank: int, port: int) -> None:
        self.folder, self.images, self.rank, self.port = (
            folder / f"machine {rank}",
            folder / f"images {rank}",
            rank,
            port,
        )
        if not self.folder.exists():
            self.folder.mkdir()
            shutil.copytree(images, self.images)
            if rank == 0:  # the other tracks nothing
                shutil.copy(folder / "mlflow.db", self.folder)

    def start(self, *words: str) -> subprocess.Popen[str]:
        own = {"HPTCTL_CACHE": str(self.folder / "cache"), "OMP_NUM_THREADS": "1"}
        place = ("--machines", "2", "--machine-rank", str(self.rank), "--main-address", f"127.0.0.1:{self.port}")
        return subprocess.Popen(
            command("pretrain", *words, *place, "--wait", "60s"),
            cwd=self.folder,
            env=os.environ | own,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def begin(self, *words: str) -> subprocess.Popen[str]:
        return self.start("-s", "target", "-d", str(self.images), *TINY, *words)


@pytest.fixture
def two(workplace: Path, digits_folder: Path) -> Iterator[Callable[[], list[Machine]]]:
    """Two machines, whose processes are all gone in the end."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield lambda: [Machine(workplace, digits_folder, rank, port) for port in [free_port()] for rank in (0, 1)]
    for child in psutil.Process().children(recursive=True):
        if child.pid not in before:
            child.kill()


def ended(*processes: subprocess.Popen[str], code: int = 0) -> list[str]:
    """The last lines that they wrote, once they have ended with an exit code."""
    said = [process.communicate(timeout=180) for process in processes]
    assert [process.returncode for process in processes] == [code] * len(processes), said
    return [(err if code else out).strip().splitlines()[-1] for out, err in said]


def kill(command: subprocess.Popen[str]) -> None:
    """The command and all that it has started, as a machine that fails."""
    for process in [*psutil.Process(command.pid).children(recursive=True), psutil.Process(command.pid)]:
        process.kill()
    command.communicate()


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


GENTLE = ("--set", "optimizer.lr=0.003", "--set", "moco.bn_group=8", "--set", "moco.micro_batch=8")


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["2", "4"])
def test_two_machines_compute_what_one_process_does(
    processes: str, two: Callable[[], list[Machine]], hptctl, workplace: Path, digits_folder: Path, monkeypatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    settings = (*GENTLE, "--steps", "3")
    started = [machine.begin(*settings, "--processes", processes, "--name", "two") for machine in two()]
    hptctl("pretrain", "-s", "target", "-d", str(digits_folder), *TINY, *settings, "--name", "one")
    last = ended(*started)
    assert last[0] == "next: hptctl evaluate linear two"
    assert last[1] == "machine 1 of 2 is done; the run is on machine 0 (127.0.0.1)"
    one, both = workplace / "runs/one", workplace / "machine 0/runs/two"
    assert losses(both) == pytest.approx(losses(one), abs=2e-3)
    ours, theirs = (load_file(run / "backbone.safetensors") for run in (one, both))
    for name, value in ours.items():
        if value.is_floating_point():
            assert (value - theirs[name]).abs().max() < 1e-2 * value.abs().max() + 1e-5, name
    assert not (workplace / "machine 1/runs").exists()
    assert not (workplace / "machine 1/mlflow.db").exists()


@pytest.mark.slow
def test_a_machine_that_is_killed_ends_the_others_which_go_on_later(
    two: Callable[[], list[Machine]], workplace: Path
) -> None:
    """As one process comes to the same, so does a run that was broken off and goes on."""
    first = two()
    settings = (*GENTLE, "--processes", "2", "--steps", "40", "--set", "checkpoint_every=4")
    ended(*(machine.begin(*settings, "--name", "unbroken") for machine in first))
    main, other = (machine.begin(*settings, "--name", "broken") for machine in two())
    run = workplace / "machine 0/runs/broken"
    wait_for(run / "checkpoints/step-00000004.sha256", main)  # type: ignore[arg-type]
    kill(other)
    began = time.monotonic()
    (said,) = ended(main, code=1)
    assert time.monotonic() - began < 30
    assert "run 'broken' stopped: machine 1 (" in said
    assert " was lost; the checkpoint of step " in said
    assert "go on with `hptctl pretrain --resume broken --machines 2 --machine-rank 0 " in said
    assert json.loads((run / "status.json").read_text())["state"] == "failed"
    again = two()
    resumed = [again[0].start("--resume", "broken"), again[1].start("--resume", "broken", "-d", str(again[1].images))]
    ended(*resumed)
    assert losses(run) == losses(workplace / "machine 0/runs/unbroken")
    assert (run / "backbone.safetensors").read_bytes() == (run.parent / "unbroken/backbone.safetensors").read_bytes()


@pytest.mark.slow
def test_the_others_end_when_the_first_machine_is_killed(two: Callable[[], list[Machine]], workplace: Path) -> None:
    main, other = (machine.begin("--processes", "2", "--steps", "2000", "--name", "long") for machine in two())
    wait_for(workplace / "machine 0/runs/long/metrics.jsonl", main)  # type: ignore[arg-type]
    kill(main)
    began = time.monotonic()
    (said,) = ended(other, code=1)
    assert time.monotonic() - began < 30
    assert "run 'long' stopped: machine 0 (" in said
    assert "go on with `hptctl pretrain --resume long --machines 2 --machine-rank 1 " in said
    assert not (workplace / "machine 1/runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("asked", [0, 1])
def test_a_signal_on_one_machine_stops_all_with_a_checkpoint(
    asked: int, two: Callable[[], list[Machine]], workplace: Path
) -> None:
    started = [machine.begin("--processes", "2", "--steps", "2000", "--name", "long") for machine in two()]
    run = workplace / "machine 0/runs/long"
    wait_for(run / "metrics.jsonl", started[0])  # type: ignore[arg-type]
    started[asked].send_signal(signal.SIGINT)
    said = [process.communicate(timeout=120)[1].strip().splitlines()[-1] for process in started]
    assert {process.returncode for process in started} <= {130, 143}
    for rank, line in enumerate(said):
        assert "its checkpoint is saved; go on with `hptctl pretrain --resume long --machines 2" in line, said
        assert f"--machine-rank {rank} " in line
    assert json.loads((run / "status.json").read_text())["state"] == "interrupted"
    assert [path.name for path in (run / "checkpoints").glob("*.pt")] == [f"step-{len(losses(run)):08d}.pt"]


@pytest.mark.slow
def test_other_images_on_one_machine_are_refused_on_both(two: Callable[[], list[Machine]]) -> None:
    both = two()
    next(both[1].images.rglob("*.png")).unlink()
    said = ended(*(machine.begin("--processes", "2", "--steps", "3", "--name", "r") for machine in both), code=2)
    for line in said:
        assert "has 119 images (" in line
        assert "has 120 images (" in line
