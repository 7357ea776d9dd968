"""Start a run: here for one process, under `accelerate launch` for several, on each of several machines."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hpt.config import DENSE, UNTRAINED, Config, EvaluateConfig, PretrainConfig
from hpt.errors import (
    LOST,
    TIME_IS_UP,
    TIME_IS_UP_CODE,
    ConfigError,
    HptError,
    Interrupted,
    ProcessLost,
    RunError,
    UserError,
)
from hptctl import __version__, deadline, runs
from hptctl.environment import not_followed, quiet_accelerate
from hptctl.format import weights_name
from hptctl.runs import Run
from hptctl.runs.children import SHUTDOWN_SECONDS, Child, child_processes, threads
from hptctl.runs.machines import ANSWER_SECONDS, BEAT_SECONDS, Hello, Meeting, Place, free_port, interface_to, meet
from hptctl.runs.record import Spec, Tags
from hptctl.runs.signals import COMMAND_VARIABLE
from hptctl.runs.weights import find_weights, is_untrained, read_weights, saved_steps, step_of
from hptctl.system_errors import explain

if TYPE_CHECKING:
    from hpt.evaluate.embeddings import Embeddings

LAUNCHER_SECONDS = 10.0
"""Seconds for the launcher to end after its workers."""


@dataclass(frozen=True)
class Origin:
    """Who asked for a run: what its `run.json` says besides what it is."""

    command: str
    """The command line, as the user gave it, to be given again."""
    experiment: str
    """Name of the experiment in MLflow."""
    parent: str | None = None
    """Name of the study that asked for the run, or of the sweep whose trial it is."""
    trial: int | None = None
    """Number of that trial."""


def create_pretraining(
    config: PretrainConfig,
    origin: Origin,
    *,
    name: str | None = None,
    suggestion: str | None = None,
    log_backbone: bool = False,
    look: bool = True,
) -> Run:
    """Make a run folder for a pretraining; what it needs is looked for first, so that a failure leaves no folder.

    `look` is whether device and weights are looked at, which takes PyTorch: where the run is a job, its node does so.

    Raises:
        ConfigError: no such device. DataError: no such dataset. WeightsError: no such weights, or of another backbone.
        RunError: a run of that name exists.
    """
    config, tags, source = describe_pretraining(config, look=look)
    suggestion = suggestion or f"{config.strategy}-{tags.dataset}"
    spec = spec_of(config, tags, source, origin)
    return runs.create("pretrain", name, suggestion, **spec, log_backbone=log_backbone)


def create_evaluation(
    config: EvaluateConfig,
    origin: Origin,
    *,
    name: str | None = None,
    suggestion: str | None = None,
    look: bool = True,
) -> Run:
    """Make a run folder for an evaluation; `look` as `create_pretraining` has it.

    Raises:
        WeightsError: no such weights. RunError: a run of that name exists, or the weights' run is not finished.
    """
    config, tags, source = describe_evaluation(config, look=look)
    about = source.name if source else Path(weights_name(config.weights)).stem
    if tags.of_steps is not None:
        about += f"-step-{tags.steps}"
    in_its_name = source is not None and tags.pretrain_dataset == tags.dataset
    elsewhere = "" if in_its_name else f"-{tags.dataset}"
    suggestion = suggestion or f"{config.kind}-{about}{elsewhere}"
    return runs.create(config.kind, name, suggestion, **spec_of(config, tags, source, origin))


def spec_of(config: Config, tags: Tags, source: Run | None, origin: Origin) -> dict[str, Any]:
    """The fields of a new run's `run.json`, but for its kind and name; `source` is the run that it starts from."""
    return {
        "config": config.model_dump(mode="json"),
        "tags": tags.model_copy(update={"trial": origin.trial}),
        "source": source.name if source else None,
        "source_folder": str(source.path.resolve()) if source else None,
        "experiment": origin.experiment,
        "command": origin.command,
        "parent": origin.parent,
    }


def find_evaluation(config: EvaluateConfig) -> Run | None:
    """The newest evaluation of the same configuration that is finished or can go on, of the backbone as it is now."""
    config, _, source = describe_evaluation(config)
    for run in reversed(runs.all_runs()):
        spec = run.spec()
        if spec.kind == config.kind and spec.config == config.model_dump(mode="json") and not runs.is_trial(run):
            newer = source is None or spec.created > source.spec().created
            return run if newer and run.status().state != "running" else None
    return None


def describe_pretraining(config: PretrainConfig, *, look: bool = True) -> tuple[PretrainConfig, Tags, Run | None]:
    """The configuration with its paths made absolute, what is known of its start, and the run that it starts from.

    `look` is whether device and weights are looked at, as a run of this machine needs them.
    """
    config, name_of_data = _pin_dataset(config)
    tags = _tags(config, name_of_data, look=look)
    tags.strategy = config.strategy
    tags.steps = config.steps if config.strategy != "base" else 0
    source = None
    if config.weights is not None:
        file, source = _fitting_weights(config, look=look)
        tags.weights, tags.weights_file = config.weights, str(file)
    return config, tags, source


def describe_evaluation(config: EvaluateConfig, *, look: bool = True) -> tuple[EvaluateConfig, Tags, Run | None]:
    """The configuration with its paths made absolute, what is known of the backbone under test, and its run; `look` as
    `describe_pretraining` has it."""
    config, name_of_data = _pin_dataset(config)
    if is_untrained(config.weights):
        tags = _tags(config, name_of_data, look=look)
        tags.weights, tags.strategy, tags.steps = UNTRAINED, UNTRAINED, 0
        tags.pretrain_dataset, tags.pretrain_seed = name_of_data, config.seed
        return config, tags, None
    file, source = _fitting_weights(config, look=look)
    tags = _tags(config, name_of_data, look=look)
    tags.weights, tags.weights_file = config.weights, str(file)
    tags.strategy, tags.steps = "weights", 0
    if source is not None:
        about = source.spec().tags
        tags.strategy, tags.steps = about.strategy, about.steps
        if (step := step_of(file)) is not None:
            tags.steps, tags.of_steps = step, about.steps
        tags.pretrain_dataset, tags.pretrain_seed = about.dataset, about.seed
    return config, tags, source


def execute(run: Run, meeting: Meeting | None = None) -> None:
    """Do the run, or this machine's part of it, and return when it has finished.

    Raises:
        Interrupted: with the command that goes on. HptError: what went wrong.
    """
    say_what_is_not_followed()
    if meeting is None or meeting.place.rank == 0:
        _note_if_again(run)
    processes = int(run.spec().config.get("processes", 1))
    words = [*resume_words(run), *(meeting.place.words() if meeting else []), *deadline.words()]
    resume = f"`hptctl {shlex.join(words)}`{', and likewise on the other machines' if meeting else ''}"
    try:
        if processes == 1:
            from hptctl.runs.worker import work

            work(run)
        else:
            _launch(run, processes, meeting=meeting)
    except Interrupted as stop:
        raise Interrupted(stop.signum, stop.what, f"go on with {resume}") from None
    except ProcessLost as lost:
        step = saved_steps(run)
        kept = f"the checkpoint of step {step} is kept: " if step else ""
        raise ProcessLost(f"run '{run.name}' stopped: {lost.what}", f"{kept}go on with {resume}") from None
    except OSError as error:
        what, mend = explain(error)
        raise RunError(f"run '{run.name}' stopped: {what}", f"{mend or 'mend that'}, then {resume}") from error


def execute_on(
    place: Place, asked: Mapping[str, Any], make: Callable[[], Run], dataset: str | None = None
) -> Run | None:
    """Do a pretraining on several machines, of which this is one; returns the run on machine 0, which has its folder.

    Args:
        asked: the settings that were given, which have to be the same on each machine.
        make: makes or finds the run, on machine 0.
        dataset: where its images lie on another machine, if not at the same place.

    Raises:
        ConfigError: the machines do not fit, or did not find each other. Interrupted, HptError: as `execute`.
    """
    import torch

    from hptctl import console
    from hptctl.runs.places import without_places

    release = ".".join(torch.__version__.split(".")[:2])
    with meet(place, Hello(without_places(dict(asked)), __version__, release)) as meeting:
        if place.rank == 0:
            run = make()
            console.note(f"run '{run.name}' in {run.path}")
            config = run.config(PretrainConfig)
            check_share(config.processes, place)
            finished = run.status().state == "finished"
            told: dict[str, Any] = {"spec": run.spec().stored(), "port": free_port(), "finished": finished}
            meeting.port = told["port"]
            meeting.tell(**told, computes=_computes(config, place))
            if finished:
                console.note(f"run '{run.name}' is finished already")
            else:
                execute(run, meeting)
            return run
        told = meeting.told()
        spec = Spec.model_validate_json(told["spec"])
        if told["finished"]:
            console.note(f"run '{spec.name}' is finished already")
            return None
        config = PretrainConfig.model_validate(spec.config)
        if dataset is not None:
            config = config.model_copy(update={"dataset": dataset})
        config, _ = _pin_dataset(config)
        if (computes := _computes(config, place)) != told["computes"]:
            raise ConfigError(
                f"machine {place.rank} computes on {computes}, and machine 0 on {told['computes']}",
                "give --device and --precision that each machine has",
            )
        meeting.port = told["port"]
        with runs.scratch(spec.model_copy(update={"config": config.model_dump(mode="json")})) as part:
            execute(part, meeting)
    return None


def check_share(processes: int, place: Place) -> None:
    """A ConfigError where the machines cannot share the processes evenly."""
    if processes % place.machines:
        raise ConfigError(
            f"--processes {processes} cannot be shared evenly by {place.machines} machines",
            f"it counts those of all machines: give a multiple of {place.machines}",
        )


def _computes(config: PretrainConfig, place: Place) -> str:
    """What this machine computes on, and in which precision.

    Raises:
        ConfigError: it has not the device, or fewer GPUs than processes.
    """
    import torch

    from hpt.processes import Compute

    compute = Compute.of(config)
    here = config.processes // place.machines
    if compute.device.type == "cuda" and here > torch.cuda.device_count():
        raise ConfigError(
            f"machine {place.rank} has {torch.cuda.device_count()} GPUs for {here} processes",
            f"give --processes {torch.cuda.device_count() * place.machines}, or fewer",
        )
    return f"{compute.device.type} in {compute.precision}"


@cache  # once a command, however many runs it does
def say_what_is_not_followed() -> None:
    """A line for each variable of the environment that a run does not follow; a command's children leave it to it."""
    from hptctl import console

    if COMMAND_VARIABLE not in os.environ:
        for line in not_followed():
            console.note(f"note: {line}")


def _note_if_again(run: Run) -> None:
    """Say of a run that had got somewhere, and whose checkpoint is not here, that it starts again."""
    if run.spec().kind in {"pretrain", "linear", "finetune", *DENSE} and any(run.metrics()) and not saved_steps(run):
        from hptctl import console

        console.note(f"note: run '{run.name}' starts again: no checkpoint of it is here")


def resume_words(run: Run) -> list[str]:
    """The words after `hptctl` of the command that goes on with a run."""
    kind = run.spec().kind
    verbs = {"pretrain": ["pretrain"], "sweep": ["sweep", run.spec().config.get("target", "finetune")]}
    return [*verbs.get(kind, ["evaluate", kind]), "--resume", run.name]


def embed(config: EvaluateConfig, splits: Sequence[str]) -> Embeddings:
    """The features of a dataset's images, computed by several processes; they leave no run.

    Raises:
        DataError: these splits have no images. HptError: a feature is NaN or infinite.
    """
    from hpt.evaluate import embeddings
    from hptctl.runs.worker import FEATURES

    config, tags, source = describe_evaluation(config)
    about = spec_of(config, tags, source, Origin("", ""))
    with runs.scratch(Spec(kind="knn", name="features", created=time.time(), **about)) as run:
        _launch(run, config.processes, ["--features", *splits])
        return embeddings.read(run.path / FEATURES)


def _launch(run: Run, processes: int, words: Sequence[str] = (), meeting: Meeting | None = None) -> None:
    """`accelerate launch` with the run's folder; its workers write what happened into `status.json`."""
    here = processes // meeting.place.machines if meeting is not None else processes
    environment = (
        threads(here)
        | quiet_accelerate()
        | {
            "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": os.environ.get(
                "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", f"{SHUTDOWN_SECONDS:.0f}"
            ),
        }
    )
    device = run.spec().config["device"]
    if device == "cpu" or (device == "auto" and not _has_gpu()):
        # `--cpu --num_processes 2` would silently start one process
        environment["ACCELERATE_USE_CPU"] = "true"
    if meeting is not None:
        if (interface := interface_to(meeting.place)) is not None:
            environment["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME") or interface
        if os.environ.get("TORCH_CPP_LOG_LEVEL") == "FATAL":  # the command's (`quiet_sockets`)
            environment["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    command = [*launcher(processes, meeting), "-m", "hptctl.worker", str(run.path), *words]
    # The workers' own words come on their standard output, the launchers' many on standard error.
    log = run.path / "launcher.log"
    with run.working():
        run.write_status(state="created", reason="", exit_code=0)
    with child_processes(patience=SHUTDOWN_SECONDS + LAUNCHER_SECONDS) as children:
        child = children.start(0, command, log, environment, stdout=sys.stderr)
        while not children.wait(inf if meeting is None else BEAT_SECONDS):
            if meeting is not None and meeting.trouble is not None:
                children.terminate()
                break
    # A clean run may still abort while its interpreters exit: what counts is the status that the main process wrote.
    status = run.status()
    if status.state == "finished":
        return
    if stop := children.stop():
        raise Interrupted(stop, status.reason or "stopped before the first step")
    if status.state == "interrupted" and status.exit_code == TIME_IS_UP_CODE:
        raise Interrupted(TIME_IS_UP, status.reason)
    if meeting is not None:
        _end_among(meeting, run, child)
        return
    # "interrupted" without a signal of ours: the launcher ended the others because one process had died.
    reason = status.reason if status.state == "failed" else f"its processes died (exit code {child.process.returncode})"
    run.write_status(state="failed", reason=reason)
    if status.exit_code == UserError.exit_code:
        raise UserError(reason)
    raise HptError(f"run '{run.name}' failed: {reason}", f"see {log}" if not words else None)


def _end_among(meeting: Meeting, run: Run, child: Child) -> None:
    """How a run ended whose processes here have, though not by a signal of ours; returns if it has finished.

    Raises:
        Interrupted: another machine was asked to stop, so that all have. HptError: what went wrong, here or there.
    """
    status = run.status()
    if status.state == "interrupted" and meeting.trouble is None:
        raise Interrupted(status.exit_code - 128, f"another machine was asked to stop: {status.reason}")
    if status.state == "created" and meeting.place.rank != 0 and child.process.returncode == 0:
        end = meeting.end_of_main()  # which alone writes how the run ended
        if end.state == "finished":
            return
        raise end.error(meeting.hosts.get(0, ""))
    broke = status.state == "failed" and status.reason.startswith(LOST)
    of_its_own = status.state == "failed" and not broke
    # Who has lost others waits longer than who has died, or neither would hear why.
    if not of_its_own and (why := meeting.explained(ANSWER_SECONDS if broke else ANSWER_SECONDS / 2)) is not None:
        run.write_status(state="failed", reason=why.what, exit_code=why.exit_code)
        raise why if isinstance(why, UserError) else ProcessLost(why.what)
    died = f"its processes died (exit code {child.process.returncode}): {child.last_line()}"
    reason = status.reason if status.state == "failed" else died
    run.write_status(state="failed", reason=reason)
    if status.exit_code == UserError.exit_code:
        raise UserError(reason)
    raise HptError(f"run '{run.name}' failed: {reason}")


def launcher(processes: int, meeting: Meeting | None = None) -> list[str]:
    """The command that starts a module once per process, on the devices that this process may use; of several machines,
    this one's share of the processes.

    Without `--gpu_ids` Accelerate looks for them in the user's own file of defaults, and they take the place of an
    inherited CUDA_VISIBLE_DEVICES.
    """
    machines = ["--num_machines", "1", "--main_process_port", "0"]
    if meeting is not None:
        place = meeting.place
        machines = [
            *("--num_machines", str(place.machines), "--machine_rank", str(place.rank), "--rdzv_backend", "static"),
            *("--same_network", "--main_process_ip", place.host, "--main_process_port", str(meeting.port)),
        ]
    return [
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)),
        *(*machines, "--gpu_ids", "all", "--mixed_precision", "no", "--dynamo_backend", "no"),
    ]


def start_line(run: Run) -> str:
    """The command by which `accelerate launch` starts a run that was only created."""
    processes = int(run.spec().config.get("processes", 1))
    on_cpu = run.spec().config["device"] == "cpu" or not _has_gpu()
    several = ["--multi_gpu"] if processes > 1 else []
    words = ["accelerate", "launch", *several, "--num_processes", str(processes), "-m", "hptctl.worker"]
    # With --cpu it would start one process, whatever the number is.
    return ("ACCELERATE_USE_CPU=true " if on_cpu else "") + shlex.join([*words, str(run.path.resolve())])


C = TypeVar("C", PretrainConfig, EvaluateConfig)


def pinned(config: PretrainConfig | EvaluateConfig) -> dict[str, Any]:
    """The configuration as a run keeps it: with the dataset's path made absolute, since it may go on from elsewhere."""
    from hpt.data.names import find
    from hpt.data.row import CatalogRow

    found = find(config.dataset)
    return config.model_dump(mode="json") | ({} if isinstance(found, CatalogRow) else {"dataset": str(found)})


def _pin_dataset(config: C) -> tuple[C, str]:
    """The configuration with the dataset's path made absolute, since a run may go on from elsewhere; and its name."""
    from hpt.data.names import find, name_of
    from hpt.data.row import CatalogRow

    found = find(config.dataset)
    if not isinstance(found, CatalogRow):
        config = config.model_copy(update={"dataset": str(found)})
    return config, name_of(found)


def _fitting_weights(config: PretrainConfig | EvaluateConfig, *, look: bool) -> tuple[Path, Run | None]:
    """As `find_weights`; to `look` at the file is to see that it is whole and holds the configuration's backbone."""
    assert config.weights is not None
    file, source = find_weights(config.weights)
    if look:
        read_weights(file, backbone=config.backbone, allow_partial=config.allow_partial)
    return file, source


def _tags(config: PretrainConfig | EvaluateConfig, dataset: str, *, look: bool) -> Tags:
    if look:
        from hpt import encoder
        from hpt.processes import choose_device

        choose_device(config.device)
        encoder.check(config.backbone, config.image_size)
    return Tags(
        dataset=dataset,
        seed=config.seed,
        preset=config.preset,
        backbone=config.backbone,
        image_size=config.image_size,
        version=__version__,
        commit=_commit(),
    )


def _commit() -> str:
    """The commit of the code, where it runs from a checkout; `+` for changes that are not committed."""
    folder = Path(__file__).parent
    try:
        git = ["git", "-C", str(folder)]
        tracked = subprocess.run([*git, "ls-files", "--error-unmatch", __file__], capture_output=True, timeout=5)
        if tracked.returncode:
            return ""
        asked = subprocess.run(
            [*git, "describe", "--always", "--dirty=+"], capture_output=True, text=True, timeout=5, check=True
        )
        return asked.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
