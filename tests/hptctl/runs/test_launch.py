"""Pretraining as people start it: real processes, killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
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


@pytest.mark.slow  # two machines of one process each compute it in every run of the tests
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


@pytest.mark.slow
def test_a_launcher_of_ones_own_starts_a_run_that_was_only_created(
    hptctl, workplace: Path, digits_folder: Path
) -> None:
    """By torchrun, and with a file of Accelerate's defaults by accelerate launch; the third finds it finished."""
    arguments = ("pretrain", "-s", "target", "-d", str(digits_folder), *TINY, "--steps", "3", "--create-only")
    hptctl(*arguments, "--processes", "2", "--name", "own")
    run = workplace / "runs/own"
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "hptctl.worker", str(run)]
    done = subprocess.run(start, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert state(run)["state"] == "finished"
    assert len(losses(run)) == 3
    again = subprocess.run(start, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0
    assert "run 'own' is finished already" in again.stderr

    defaults = workplace / "defaults.yaml"
    defaults.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nmixed_precision: fp16\nnum_machines: 1\n"
        "num_processes: 2\nmachine_rank: 0\nuse_cpu: false\ngpu_ids: all\n"
    )
    hptctl(*arguments, "--processes", "2", "--name", "by-accelerate")
    run = workplace / "runs/by-accelerate"
    start = ["-m", "accelerate.commands.launch", "--config_file", str(defaults), "-m", "hptctl.worker", str(run)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [sys.executable, *start], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert losses(run) == pytest.approx(losses(workplace / "runs/own"), abs=1e-6)
    assert state(run)["facts"]["precision"] == "fp32"  # type: ignore[index]


@pytest.mark.slow
def test_a_launcher_that_starts_too_few_or_too_many_is_told_in_a_line(hptctl, workplace: Path) -> None:
    arguments = ("pretrain", "-s", "target", "-d", "digits", *TINY, "--steps", "3", "--create-only")
    for count, started in (("2", "1"), ("1", "2")):
        hptctl(*arguments, "--processes", count, "--name", count)
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", started]
        done = subprocess.run(
            [*launcher, "-m", "hptctl.worker", f"runs/{count}"], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 1  # the launcher's own
        (line,) = [each for each in done.stderr.splitlines() if each.startswith("error: ")]
        assert f"but the launcher started {started}" in line


EVALUATIONS = {
    "knn": (),
    "linear": ("--set", "linear.steps=20", "--set", "linear.views=0", "--set", "linear.batch_size=60"),
    "finetune": ("--schedule", "6-steps", "--set", "finetune.micro_batch=16", "--lr", "0.003"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "own"), EVALUATIONS.items())
def test_evaluations_by_two_processes_have_the_figures_of_one(
    kind: str, own: tuple[str, ...], hptctl, workplace: Path, digits_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    about = ("--backbone", "resnet18", "-d", str(digits_folder), "--preset", "tiny", "--device", "cpu")
    figures = {}
    for processes in ("1", "2"):
        name = f"{kind}-{processes}"
        done = hptctl("evaluate", kind, "untrained", *about, *own, "--processes", processes, "--name", name, "--json")
        figures[processes] = json.loads(done.stdout)["results"]
        assert (workplace / "runs" / name / "artifacts/confusion-test.csv").exists()
    assert figures["2"] == pytest.approx(figures["1"], abs=1e-6)


@pytest.mark.slow
def test_features_by_two_processes_are_those_of_one_and_leave_no_run(
    hptctl, workplace: Path, digits_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    about = ("--preset", "tiny", "--device", "cpu", "-d", str(digits_folder))
    found = []
    for processes in ("1", "2"):
        out = f"{processes}.npz"
        hptctl("evaluate", "features", "untrained", *about, "--processes", processes, "--out", out)
        with np.load(out) as kept:
            found.append({name: kept[name] for name in kept.files if name != "about"})
    assert found[0].keys() == found[1].keys()
    for name, values in found[0].items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(values, found[1][name], atol=1e-5)
        else:
            assert (values == found[1][name]).all(), name
    assert not (workplace / "runs").exists()


@pytest.mark.slow
def test_an_evaluation_by_two_processes_goes_on_from_its_checkpoint(
    hptctl, start, workplace: Path, digits_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    about = (
        "evaluate",
        "finetune",
        "untrained",
        "--backbone",
        "resnet18",
        "-d",
        str(digits_folder),
        "--preset",
        "tiny",
    )
    own = ("--device", "cpu", "--processes", "2", "--set", "log_every=1", "--set", "finetune.micro_batch=16")
    hptctl(*about, *own, "--schedule", "16-steps", "--name", "unbroken")
    process = start(*about, *own, "--schedule", "16-steps", "--name", "broken")
    wait_for(workplace / "runs/broken/metrics.jsonl", process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "its checkpoint is saved; go on with `hptctl evaluate finetune --resume broken`" in stderr.decode()
    hptctl("evaluate", "finetune", "--resume", "broken")
    one, other = (state(workplace / "runs" / name)["results"] for name in ("unbroken", "broken"))
    assert one == other
