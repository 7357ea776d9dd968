"""Pretraining as people start it: real processes, killed and resumed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import command
from safetensors.torch import load_file

TINY = ("--preset", "tiny", "--batch-size", "32", "--device", "cpu", "--set", "log_every=1")


def logged(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[float]:
    lines = [line for line in logged(run) if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["loss"] for line in lines]


def state(run: Path) -> dict[str, object]:
    return json.loads((run / "status.json").read_text())  # type: ignore[no-any-return]


def wait_for(path: Path, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, "the command ended too early"
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.02)


@pytest.fixture
def start(workplace: Path):
    """Start `hptctl` and leave it running; killed at the end if it still runs."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command(*arguments), cwd=workplace, stderr=subprocess.PIPE, start_new_session=True)
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_two_processes_compute_what_one_does(
    hptctl, workplace: Path, digits_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One process with two threads rounds as differently from itself with one as two processes do.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    arguments = ("pretrain", "-s", "target", "-d", str(digits_folder), *TINY, "--steps", "5")
    gentle = (
        "--set",
        "optimizer.lr=0.003",
        "--set",
        "moco.bn_group=8",
        "--set",
        "moco.micro_batch=8",
    )  # float noise grows with the learning rate, and where convolutions see other batches
    for processes in ("1", "2"):
        hptctl(*arguments, *gentle, "--processes", processes, "--name", processes, "--probe-every", "2")
    one, two = (losses(workplace / "runs" / name) for name in ("1", "2"))
    assert two == pytest.approx(one, abs=2e-3)
    assert len(set(one)) == 5
    weights = [load_file(workplace / "runs" / name / "backbone.safetensors") for name in ("1", "2")]
    for name, value in weights[0].items():
        if value.is_floating_point():
            assert (value - weights[1][name]).abs().max() < 1e-2 * value.abs().max() + 1e-5, name
    looks = [[line for line in logged(workplace / "runs" / name) if "loss" not in line] for name in ("1", "2")]
    assert [line["step"] for line in looks[1]] == [0, 2, 4, 5]
    for mine, theirs in zip(*looks, strict=True):
        assert mine["probe/effective_rank"] == pytest.approx(theirs["probe/effective_rank"], rel=2e-2)
    assert json.loads((workplace / "runs/2/run.json").read_text())["config"]["processes"] == 2


def test_a_run_killed_and_resumed_ends_in_the_same_bits(hptctl, start, workplace: Path, digits_folder: Path) -> None:
    arguments = (
        "pretrain",
        "-s",
        "target",
        "-d",
        str(digits_folder),
        *TINY,
        "--steps",
        "24",
        "--set",
        "checkpoint_every=4",
    )
    hptctl(*arguments, "--name", "unbroken")
    process = start(*arguments, "--name", "killed")
    wait_for(workplace / "runs/killed/checkpoints/step-00000008.sha256", process)
    while len(losses(workplace / "runs/killed")) < 10:  # past the checkpoint, so that steps are done again
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (workplace / "runs/killed/backbone.safetensors").exists()
    assert "killed" in hptctl("runs", "list").stdout  # a dead process is not shown as running
    hptctl("pretrain", "--resume", "killed")
    unbroken, killed = (workplace / "runs" / name for name in ("unbroken", "killed"))
    assert (killed / "backbone.safetensors").read_bytes() == (unbroken / "backbone.safetensors").read_bytes()
    assert losses(killed) == losses(unbroken)

    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{workplace / 'mlflow.db'}")
    for run in (unbroken, killed):
        run_id = json.loads((run / "tracking.json").read_text())["run_id"]
        history = client.get_metric_history(run_id, "loss")
        assert [(m.step, m.value) for m in sorted(history, key=lambda m: m.step)] == list(enumerate(losses(run), 1))
        assert client.get_run(run_id).info.status == "FINISHED"


@pytest.mark.parametrize(("processes", "number"), [("1", signal.SIGINT), ("1", signal.SIGTERM), ("2", signal.SIGINT)])
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
    assert process.returncode == 128 + number, stderr
    last = stderr.decode().strip().splitlines()[-1]
    assert "hptctl pretrain --resume long" in last
    assert state(workplace / "runs/long")["state"] == "interrupted"
    saved = list((workplace / "runs/long/checkpoints").glob("*.pt"))
    assert [f"step-{len(losses(workplace / 'runs/long')):08d}.pt"] == [path.name for path in saved]


def test_a_second_signal_leaves_no_worker_behind(start, workplace: Path, digits_folder: Path) -> None:
    import psutil

    arguments = ("pretrain", "-s", "target", "-d", str(digits_folder), *TINY, "--steps", "2000", "--name", "long")
    process = start(*arguments, "--processes", "2")
    wait_for(workplace / "runs/long/metrics.jsonl", process)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) >= 3  # the launcher and two of its own
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode in {128 + signal.SIGINT, 128 + signal.SIGTERM}
    assert not psutil.wait_procs(workers, timeout=10)[1]


@pytest.mark.parametrize("arguments", [("pretrain", "-s", "base", "-w", "own"), ("evaluate", "knn", "own")])
def test_what_has_nothing_to_save_is_ended_by_a_signal(
    arguments, start, hptctl, workplace: Path, digits_folder
) -> None:
    hptctl("pretrain", "-s", "target", "-d", str(digits_folder), *TINY, "--steps", "1", "--name", "own")
    process = start(*arguments, "-d", "shapes@9000", "--name", "long")
    wait_for(workplace / "runs/long/split.json", process)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, stderr
    assert state(workplace / "runs/long")["state"] == "interrupted"


def test_a_second_process_on_a_run_is_refused_and_changes_nothing(
    start, hptctl, workplace, digits_folder: Path
) -> None:
    arguments = ("pretrain", "-s", "target", "-d", str(digits_folder), *TINY, "--steps", "2000", "--name", "live")
    process = start(*arguments)
    wait_for(workplace / "runs/live/metrics.jsonl", process)
    assert "is being worked on by process" in hptctl("pretrain", "--resume", "live", code=2).stderr
    assert state(workplace / "runs/live")["state"] == "running"
    assert "exists already" in hptctl(*arguments, code=2).stderr


def test_test_images_that_were_pretrained_on_are_refused(hptctl, workplace: Path, digits_folder: Path) -> None:
    other_split = ("--set", "data.split_seed=1")
    hptctl("pretrain", "-s", "target", "-d", str(digits_folder), *TINY, "--steps", "1", "--name", "other", *other_split)
    for weights in ("other", "runs/other/backbone.safetensors"):
        command = ("evaluate", "knn", weights, "-d", str(digits_folder), "--preset", "tiny")
        refused = hptctl(*command, "--set", "data.split_seed=0", code=2).stderr
        assert "test images" in refused
        assert "--set data.split_seed=1" in refused
    # So are the same files under other names, in a list.
    (workplace / "heap").mkdir()
    lines = ["path,label"]
    for number, path in enumerate(sorted(digits_folder.glob("*/*.png"))):
        shutil.copy(path, workplace / "heap" / f"{number:03d}.png")
        lines.append(f"heap/{number:03d}.png,{path.parent.name}")
    (workplace / "heap.csv").write_text("\n".join(lines))
    refused = hptctl("evaluate", "knn", "other", "-d", "heap.csv", "--preset", "tiny", code=2).stderr
    assert "run 'other' was pretrained on" in refused and "evaluate on others" in refused
    # The run's own split is taken over.
    assert "84 training labels, 12 val and 24 test images" in hptctl("evaluate", "knn", "other").stdout


def test_a_run_whose_images_have_changed_is_not_resumed(hptctl, start, workplace: Path, digits_folder: Path) -> None:
    images = workplace / "own images"
    shutil.copytree(digits_folder, images)
    arguments = ("pretrain", "-s", "target", "-d", "own images", *TINY, "--steps", "500", "--name", "changed")
    process = start(*arguments)
    wait_for(workplace / "runs/changed/metrics.jsonl", process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    next(images.rglob("*.png")).unlink()
    assert "are not those that run 'changed' began with" in hptctl("pretrain", "--resume", "changed", code=2).stderr


def test_a_failing_worker_gives_its_reason_and_exit_code(hptctl, workplace: Path, digits_folder: Path) -> None:
    arguments = ("pretrain", "-s", "target", "-d", str(digits_folder), "--preset", "tiny", "--device", "cpu")
    done = hptctl(*arguments, "--processes", "2", "--batch-size", "256", "--name", "few", code=2)
    assert "96 images do not fill one batch of 256; use --batch-size 64" in done.stderr
    assert "Traceback" not in done.stderr
    assert state(workplace / "runs/few")["state"] == "failed"
