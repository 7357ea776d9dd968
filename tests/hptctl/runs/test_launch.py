"""Pretraining as people start it: real processes, killed and resumed."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from program import wait_for
from safetensors.torch import load_file

TINY = ("--preset", "tiny", "--batch-size", "32", "--device", "cpu", "--set", "log_every=1")


ACCELERATES = {
    "ACCELERATE_MIXED_PRECISION": "fp16",
    "ACCELERATE_TORCH_DEVICE": "meta",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_DYNAMO_BACKEND": "inductor",
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_USE_FSDP": "true",
}


def logged(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[float]:
    lines = [line for line in logged(run) if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["loss"] for line in lines]


def state(run: Path) -> dict[str, object]:
    return json.loads((run / "status.json").read_text())  # type: ignore[no-any-return]


def test_two_processes_compute_what_one_does(
    hptctl, workplace: Path, digits_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever Accelerate is told by its variables, of which a run follows none."""
    # One process with two threads rounds as differently from itself with one as two processes do.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    arguments = ("pretrain", "-s", "target", "-d", str(digits_folder), *TINY, "--steps", "4")
    gentle = (
        "--set",
        "optimizer.lr=0.003",
        "--set",
        "moco.bn_group=8",
        "--set",
        "moco.micro_batch=8",
    )  # float noise grows with the learning rate, and where convolutions see other batches
    for processes in ("1", "2"):
        for name, value in ACCELERATES.items() if processes == "2" else ():
            monkeypatch.setenv(name, value)
        hptctl(*arguments, *gentle, "--processes", processes, "--name", processes, "--probe-every", "2")
    one, two = (losses(workplace / "runs" / name) for name in ("1", "2"))
    assert two == pytest.approx(one, abs=2e-3)
    assert len(set(one)) == 4
    weights = [load_file(workplace / "runs" / name / "backbone.safetensors") for name in ("1", "2")]
    for name, value in weights[0].items():
        if value.is_floating_point():
            assert (value - weights[1][name]).abs().max() < 1e-2 * value.abs().max() + 1e-5, name
    looks = [[line for line in logged(workplace / "runs" / name) if "loss" not in line] for name in ("1", "2")]
    assert [line["step"] for line in looks[1]] == [0, 2, 4]
    for mine, theirs in zip(*looks, strict=True):
        assert mine["probe/effective_rank"] == pytest.approx(theirs["probe/effective_rank"], rel=2e-2)
    assert json.loads((workplace / "runs/2/run.json").read_text())["config"]["processes"] == 2


@pytest.mark.parametrize(
    ("processes", "number"),
    [
        ("1", signal.SIGINT),
        pytest.param("1", signal.SIGTERM, marks=pytest.mark.slow),  # the same handler
        pytest.param("1", signal.SIGUSR1, marks=pytest.mark.slow),
        pytest.param("2", signal.SIGUSR1, marks=pytest.mark.slow),
        pytest.param("2", signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_a_checkpoint_and_says_how_to_go_on(
    processes: str, number: signal.Signals, start, hptctl, workplace: Path, digits_folder: Path
) -> None:
    arguments = (
        "pretrain",
        "-s",
        "target",
        "-d",
        str(digits_folder),
        *TINY,
        "--steps",
        "2000",
        "--name",
        "long",
    )
    process = start(*arguments, "--processes", processes)
    wait_for(workplace / "runs/long/metrics.jsonl", process)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == (75 if number == signal.SIGUSR1 else 128 + number), stderr
    last = stderr.decode().strip().splitlines()[-1]
    assert "hptctl pretrain --resume long" in last
    assert state(workplace / "runs/long")["state"] == "interrupted"
    saved = list((workplace / "runs/long/checkpoints").glob("*.pt"))
    assert [f"step-{len(losses(workplace / 'runs/long')):08d}.pt"] == [path.name for path in saved]


def two_workers(
    start: Callable[..., subprocess.Popen[bytes]], workplace: Path, digits_folder: Path
) -> tuple[subprocess.Popen[bytes], list[psutil.Process]]:
    """A pretraining `long` that two processes have begun, and all processes of its command."""
    arguments = ("pretrain", "-s", "target", "-d", str(digits_folder), *TINY, "--steps", "2000", "--name", "long")
    process = start(*arguments, "--processes", "2")
    wait_for(workplace / "runs/long/metrics.jsonl", process)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) >= 3  # the launcher and two of its own
    return process, workers


@pytest.mark.slow
def test_a_second_signal_leaves_no_worker_behind(start, workplace: Path, digits_folder: Path) -> None:
    process, workers = two_workers(start, workplace, digits_folder)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode in {128 + signal.SIGINT, 128 + signal.SIGTERM}
    assert not psutil.wait_procs(workers, timeout=10)[1]


@pytest.mark.slow
def test_workers_save_what_they_have_when_their_command_was_killed(start, workplace: Path, digits_folder: Path) -> None:
    process, workers = two_workers(start, workplace, digits_folder)
    process.kill()
    process.wait()
    assert not psutil.wait_procs(workers, timeout=60)[1]
    assert state(workplace / "runs/long")["state"] == "interrupted"
    assert list((workplace / "runs/long/checkpoints").glob("*.sha256"))


@pytest.mark.slow
def test_a_failing_worker_gives_its_reason_and_exit_code(hptctl, workplace: Path, digits_folder: Path) -> None:
    arguments = ("pretrain", "-s", "target", "-d", str(digits_folder), "--preset", "tiny", "--device", "cpu")
    done = hptctl(*arguments, "--processes", "2", "--batch-size", "256", "--name", "few", code=2)
    assert "96 images do not fill one batch of 256; use --batch-size 64" in done.stderr
    assert "Traceback" not in done.stderr
    assert state(workplace / "runs/few")["state"] == "failed"
