"""A real Slurm of one machine: jobs that are put back, preempted, killed, out of time, and without a node."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from program import checked, command, run_inside
from slurm_cluster import NODES, SlurmCluster, absent, slurm_cluster
from small_study import STUDY, states

from hptctl import runs
from hptctl.cluster.jobs import remembered
from hptctl.runs import Run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(absent()), reason=absent())]
ON = ("--on", "slurm", "--cluster", "time=10m")
TARGET = "target-my-digits-s0-40"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as found:
        yield found


@pytest.fixture
def slurm(cluster: SlurmCluster, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    """A cluster whose queue is empty, before and after."""
    monkeypatch.setenv("SLURM_CONF", str(cluster.configuration))
    yield cluster
    subprocess.run(["scancel", f"--user={os.getuid()}"], check=False)
    cluster.wait(lambda: not queue(), "an empty queue")


def queue(*options: str) -> str:
    return subprocess.run(["squeue", "-h", *options], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def long_study(study: Path) -> Path:
    """One whose pretraining takes some ten seconds, saved again and again."""
    text = STUDY.format(dataset=study.read_text().split('"')[1])
    text = text.replace("target = [4]", "target = [40]").replace("[set]", "[set]\ncheckpoint_every = 5")
    study.write_text(text)
    return study


@pytest.fixture(scope="module")
def bits(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The backbone of that pretraining where nothing happens to it."""
    words = ("-s", "target", "-d", str(digits_folder), "--preset", "tiny", "--batch-size", "32", "--device", "cpu")
    with contextlib.chdir(tmp_path_factory.mktemp("alone")):
        checked(run_inside, "pretrain", *words, "--steps", "40", "--name", "alone")
        return runs.get("alone").backbone.read_bytes()


Started = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def begin(slurm: SlurmCluster) -> Iterator[Started]:
    """A command that is left running."""
    begun: list[subprocess.Popen[str]] = []

    def run(*words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        begun.append(process)
        return process

    yield run
    for process in begun:
        process.kill()
        process.communicate()


def until(true: Callable[[], object], process: subprocess.Popen[str] | None = None, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not true():
        if process is not None and process.poll() is not None:
            raise AssertionError(process.communicate())
        assert time.monotonic() < end, queue()
        time.sleep(0.1)


def ended(process: subprocess.Popen[str], code: int = 0, seconds: float = 600) -> tuple[str, str]:
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == code, f"{out}\n{err}"
    return out, err


def the_job(run: Run, study: str = "mine") -> str:
    (job,) = (job for job in remembered(Path("runs") / study) if job.run == run.path.as_posix())
    assert job.id is not None
    return job.id


def saved(run: Run) -> int:
    """Steps of the newest checkpoint that is whole."""
    files = (run.path / "checkpoints").glob("step-*.sha256")
    return max((int(file.stem.removeprefix("step-")) for file in files), default=0)


def log_of(study: str = "mine") -> str:
    """What the jobs of a study, or of a run without one, have written."""
    return "".join(file.read_text() for file in sorted(Path("runs", study, "jobs").glob("*_log.out")))


def the_restarts(log: str) -> int:
    return log.count("going on from step")


def working_on(run: Run) -> list[int]:
    """The processes that do a pretraining: one, or none."""
    words = ["pretrain", "--resume", run.name]
    return [each.pid for each in psutil.process_iter(["cmdline"]) if (each.info["cmdline"] or [])[-3:] == words]


def urgent_job(seconds: int) -> str:
    """A job of somebody else, which takes the whole node from those of lower partitions."""
    words = (
        "sbatch",
        "--parsable",
        "--partition=urgent",
        "--exclusive",
        "--output=/dev/null",
        f"--wrap=sleep {seconds}",
    )
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def asked(*words: str) -> str:
    """What a command prints, as a process of its own."""
    return subprocess.run(command(*words), capture_output=True, text=True, check=True).stdout


STATUS = ("study", "status", "mine.toml", "--only", "knn-target*")


def test_a_job_that_is_put_back_and_killed_goes_on_to_the_same_bits(
    slurm: SlurmCluster, long_study: Path, bits: bytes, begin: Started
) -> None:
    run = Run(Path("runs") / TARGET)
    process = begin("study", "run", "mine.toml", "--only", "knn-target*", *ON)
    until(lambda: saved(run) >= 5, process)
    first = the_job(run)
    slurm.scontrol("requeuehold", first)
    until(lambda: "PENDING" in queue("-o", "%T"), process)
    assert f"job {first} waits (job requeued in held state)" in asked(*STATUS)
    slurm.scontrol("release", first)
    until(lambda: the_restarts(log_of()), process)
    (working,) = working_on(run)
    os.kill(working, signal.SIGSTOP)  # it would be done before a busy machine has asked
    assert f"job {first} runs on {NODES[0]} for" in asked(*STATUS)
    os.kill(working, signal.SIGKILL)
    out, err = ended(process)
    assert "2 of 2 cells are done" in out
    assert f"{TARGET}: job {first} was lost (FAILED on {NODES[0]} (exit code 1)); the run goes on in another" in err
    assert the_restarts(log_of()) == 2
    assert run.backbone.read_bytes() == bits
    assert states()["knn-target-my-digits-s0@40"] == "done"


def test_a_warning_before_the_limit_saves_and_the_job_goes_on_in_the_queue(
    slurm: SlurmCluster, long_study: Path, bits: bytes, begin: Started
) -> None:
    run = Run(Path("runs") / TARGET)
    process = begin("study", "run", "mine.toml", "--only", "target*", *ON)
    until(lambda: saved(run) >= 5, process)
    job = the_job(run)
    subprocess.run(["scancel", "--signal=USR1", job], check=True)
    until(lambda: run.status().state == "interrupted", process)
    ended(process)
    assert "time is up" in log_of()
    assert the_restarts(log_of()) == 1
    assert run.backbone.read_bytes() == bits


@pytest.mark.parametrize("partition", ["main", "patient"])
def test_a_job_that_gives_way_to_a_more_urgent_one_goes_on_to_the_same_bits(
    slurm: SlurmCluster, long_study: Path, bits: bytes, begin: Started, partition: str
) -> None:
    run = Run(Path("runs") / TARGET)
    process = begin("study", "run", "mine.toml", "--only", "target*", *ON, "--cluster", f"partition={partition}")
    until(lambda: saved(run) >= 5, process)
    first = the_job(run)
    urgent = urgent_job(seconds=5)
    until(lambda: "RUNNING" in queue("-j", urgent, "-o", "%T"), process)
    assert "RUNNING" not in queue("-j", first, "-o", "%T")  # the node is the other's
    ended(process)
    assert the_restarts(log_of()) == 1
    assert ("Requeued job" in log_of()) == (partition == "patient")  # which gives it time to do so itself
    assert "Restarts=1" in slurm.scontrol("show", "job", first)
    assert run.backbone.read_bytes() == bits


def test_a_run_that_takes_longer_than_its_job_goes_on_in_the_next(slurm: SlurmCluster, begin: Started) -> None:
    words = (
        "-s",
        "target",
        "-d",
        "digits",
        "--preset",
        "tiny",
        "--batch-size",
        "32",
        "--device",
        "cpu",
        "--name",
        "long",
    )
    process = begin("pretrain", *words, "--steps", "100000", "--on", "slurm", "--cluster", "time=2m")
    until(lambda: the_restarts(log_of("long")), process)
    assert "Caught signal SIGUSR1" in log_of("long")
    assert "Requeued job" in log_of("long")
    process.send_signal(signal.SIGINT)
    _, err = ended(process, code=130)
    assert "goes on without this command (`scancel " in err
    assert "wait for it again with `hptctl pretrain --resume long --on slurm --cluster time=2m`" in err.replace(
        "\n", " "
    )


def test_a_job_whose_node_is_gone_goes_on_when_there_is_one(
    slurm: SlurmCluster, long_study: Path, bits: bytes, begin: Started
) -> None:
    run = Run(Path("runs") / TARGET)
    process = begin("study", "run", "mine.toml", "--only", "target*", *ON)
    until(lambda: saved(run) >= 5, process)
    slurm.kill_node()
    slurm.scontrol("update", f"nodename={NODES[0]}", "state=down", "reason=lost")
    until(lambda: "RUNNING" not in queue("-o", "%T"), process)
    slurm.start_node()
    ended(process)
    assert the_restarts(log_of()) == 1
    assert run.backbone.read_bytes() == bits


def test_a_job_whose_node_falls_silent_goes_on_on_another(
    slurm: SlurmCluster, long_study: Path, bits: bytes, begin: Started
) -> None:
    run = Run(Path("runs") / TARGET)
    slurm.start_node(NODES[1])
    try:
        process = begin("study", "run", "mine.toml", "--only", "target*", *ON)
        until(lambda: saved(run) >= 5, process)
        first = the_job(run)
        node = queue("-j", first, "-o", "%N")
        (other,) = {*NODES} - {node}
        slurm.kill_node(node)  # and nobody says so: the controller finds out
        until(lambda: queue("-j", first, "-o", "%N") == other, process)
        ended(process)
    finally:
        for name in NODES:
            slurm.kill_node(name)
        slurm.scontrol("update", f"nodename={NODES[1]}", "state=down", "reason=test")
        slurm.start_node(NODES[0])
    assert the_restarts(log_of()) == 1
    assert run.backbone.read_bytes() == bits


TWENTY = """
datasets = ["{data}/aerial_rsscn7.zip"]
weights = ["own"]
preset = "tiny"
evaluations = ["knn"]
equal_length = false
strategies = ["base", "target", "hpt"]
seeds = [0, 1, 2]

[steps]
target = [40]
hpt = [40]

[set]
image_size = 32
batch_size = 32
checkpoint_every = 5
device = "cpu"

[[bases]]
name = "own"
dataset = "{data}/sketch_pacs.zip"
strategy = "target"
steps = 40
"""
"""22 cells of a ResNet-18 at 32 px, on aerial photographs from a base of sketches."""
CELL = "aerial_rsscn7-s1-40"


def preempt_and_kill(process: subprocess.Popen[str]) -> dict[str, str]:
    """Take the node from the jobs that pretrain first, and then kill the process of one and cancel another: the two
    jobs, by their runs."""
    own, target, hpt = (Run(Path("runs") / name) for name in ("own", f"target-{CELL}", f"hpt-{CELL}"))
    until(lambda: saved(own) >= 5, process)
    preempted, urgent = the_job(own, "twenty"), urgent_job(seconds=5)
    until(lambda: "RUNNING" in queue("-j", urgent, "-o", "%T"), process)
    assert "RUNNING" not in queue("-j", preempted, "-o", "%T")
    lost = {}
    for run in (target, hpt):
        until(lambda run=run: saved(run) >= 10 and working_on(run), process, seconds=900)  # type: ignore[misc]
        lost[run.name] = the_job(run, "twenty")
        if run is target:
            os.kill(*working_on(run), signal.SIGKILL)
        else:
            subprocess.run(["scancel", lost[run.name]], check=True)
    return lost


def test_a_large_study_with_jobs_preempted_and_killed_ends_in_the_report_of_one_without_jobs(
    slurm: SlurmCluster, shared_data: Path, workplace: Path, begin: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    for place in ("plain", "jobs"):
        (workplace / place).mkdir()
        shutil.copy(workplace / "mlflow.db", workplace / place)
        monkeypatch.chdir(workplace / place)
        Path("twenty.toml").write_text(TWENTY.format(data=shared_data))
        process = begin("study", "run", "twenty.toml", *(ON if place == "jobs" else ()))
        if place == "jobs":
            lost = preempt_and_kill(process)
        out, err = ended(process, seconds=1800)
        assert "22 of 22 cells are done" in out
        if place == "jobs":
            for name, job in lost.items():
                assert f"{name}: job {job} was lost" in err.replace("\n", " ")
            assert the_restarts(log_of("twenty")) >= 3
        for suffix in ("html", "json"):
            asked("report", "--study", "twenty", "--reproducible", "--out", f"report.{suffix}")
        written.append([Path(f"report.{suffix}").read_bytes() for suffix in ("html", "json")])
    assert written[0] == written[1]


def test_a_command_that_was_ended_finds_its_jobs_even_those_it_had_no_number_of(
    slurm: SlurmCluster, long_study: Path, begin: Started
) -> None:
    run = Run(Path("runs") / TARGET)
    words = ("study", "run", "mine.toml", "--only", "target*", *ON)
    process = begin(*words)
    until(lambda: saved(run) >= 5, process)
    job = the_job(run)
    process.send_signal(signal.SIGINT)
    _, err = ended(process, code=130)
    assert f"1 job of it go on (`scancel {job}` ends them)" in err.replace("\n", " ")
    file = Path("runs/mine/jobs/jobs.json")
    file.write_text(file.read_text().replace(f'"id": "{job}"', '"id": null'))  # as if ended while sbatch was at work
    out, err = ended(begin(*words))
    assert "1 of 1 cells are done" in out
    assert "look at the images" not in err
    assert the_restarts(log_of()) == 0


def test_what_slurm_refuses_is_a_line_in_its_words(slurm: SlurmCluster, study: Path, hptctl) -> None:
    for setting, said in (
        (
            "partition=nope",
            "sbatch refuses the jobs: invalid partition specified: nope; Batch job submission failed: Invalid",
        ),
        ("time=2d", "sbatch refuses the jobs: Batch job submission failed: Requested time limit is invalid"),
        ("sbatch.begin=never", "sbatch refuses the jobs: "),
    ):
        found = hptctl("study", "run", "mine.toml", "--on", "slurm", "--cluster", setting, code=2).stderr
        assert said in found.replace("\n", " ")
    for _ in range(2):  # what was refused has given its name back
        words = ("pretrain", "-s", "target", "-d", "digits", "--preset", "tiny", "--name", "mine-too")
        said = hptctl(*words, "--on", "slurm", "--cluster", "partition=nope", code=2).stderr
        assert "sbatch refuses the jobs: invalid partition specified: nope" in said.replace("\n", " ")
    assert queue() == ""
    assert not [file for file in Path("runs/mine/jobs").iterdir() if file.suffix in {".pkl", ".sh"}]


def test_a_folder_that_the_node_does_not_see_is_a_line(slurm: SlurmCluster, study: Path, hptctl) -> None:
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("no mounts of its own can be made here, to hide a folder")
    slurm.kill_node()
    slurm.start_node(hiding=Path.cwd())
    try:
        said = hptctl("study", "run", "mine.toml", *ON, code=2).stderr.replace("\n", " ")
    finally:
        slurm.kill_node()
        slurm.start_node()
    assert "ended before it wrote anything (FAILED on" in said
    assert f"its node seems not to see {Path.cwd()}; work in a folder that this machine shares with the nodes" in said
