"""Start a run: here for one process, under `accelerate launch` for several."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from hpt.config import DENSE, UNTRAINED, Config, EvaluateConfig, PretrainConfig
from hpt.errors import TIME_IS_UP, TIME_IS_UP_CODE, HptError, Interrupted, RunError, UserError
from hptctl import __version__, deadline, runs
from hptctl.environment import not_followed, quiet_accelerate
from hptctl.runs import Run
from hptctl.runs.children import SHUTDOWN_SECONDS, child_processes, threads
from hptctl.runs.record import Tags
from hptctl.runs.signals import COMMAND_VARIABLE
from hptctl.runs.weights import find_weights, is_untrained, read_weights, saved_steps, step_of
from hptctl.system_errors import explain

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
) -> Run:
    """Make a run folder for a pretraining; what it needs is looked for first, so that a failure leaves no folder.

    Raises:
        ConfigError: no such device. DataError: no such dataset. WeightsError: no such weights, or of another backbone.
        RunError: a run of that name exists.
    """
    config, tags, source = describe_pretraining(config)
    suggestion = suggestion or f"{config.strategy}-{tags.dataset}"
    spec = spec_of(config, tags, source, origin)
    return runs.create("pretrain", name, suggestion, **spec, log_backbone=log_backbone)


def create_evaluation(
    config: EvaluateConfig, origin: Origin, *, name: str | None = None, suggestion: str | None = None
) -> Run:
    """Make a run folder for an evaluation.

    Raises:
        WeightsError: no such weights. RunError: a run of that name exists, or the weights' run is not finished.
    """
    config, tags, source = describe_evaluation(config)
    about = source.name if source else Path(config.weights).stem
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


def describe_pretraining(config: PretrainConfig) -> tuple[PretrainConfig, Tags, Run | None]:
    """The configuration with its paths made absolute, what is known of its start, and the run that it starts from."""
    config, name_of_data = _pin_dataset(config)
    tags = _tags(config, name_of_data)
    tags.strategy = config.strategy
    tags.steps = config.steps if config.strategy != "base" else 0
    source = None
    if config.weights is not None:
        file, source = _fitting_weights(config)
        tags.weights, tags.weights_file = config.weights, str(file)
    return config, tags, source


def describe_evaluation(config: EvaluateConfig) -> tuple[EvaluateConfig, Tags, Run | None]:
    """The configuration with its paths made absolute, what is known of the backbone under test, and its run."""
    config, name_of_data = _pin_dataset(config)
    if is_untrained(config.weights):
        tags = _tags(config, name_of_data)
        tags.weights, tags.strategy, tags.steps = UNTRAINED, UNTRAINED, 0
        tags.pretrain_dataset, tags.pretrain_seed = name_of_data, config.seed
        return config, tags, None
    file, source = _fitting_weights(config)
    tags = _tags(config, name_of_data)
    tags.weights, tags.weights_file = config.weights, str(file)
    tags.strategy, tags.steps = "weights", 0
    if source is not None:
        about = source.spec().tags
        tags.strategy, tags.steps = about.strategy, about.steps
        if (step := step_of(file)) is not None:
            tags.steps, tags.of_steps = step, about.steps
        tags.pretrain_dataset, tags.pretrain_seed = about.dataset, about.seed
    return config, tags, source


def execute(run: Run) -> None:
    """Do the run and return when it has finished.

    Raises:
        Interrupted: with the command that goes on. HptError: what went wrong.
    """
    say_what_is_not_followed()
    _note_if_again(run)
    processes = int(run.spec().config.get("processes", 1))
    resume = f"`hptctl {shlex.join([*resume_words(run), *deadline.words()])}`"
    try:
        if processes == 1:
            from hptctl.runs.worker import work

            work(run)
        else:
            _launch(run, processes)
    except Interrupted as stop:
        raise Interrupted(stop.signum, stop.what, f"go on with {resume}") from None
    except OSError as error:
        what, mend = explain(error)
        raise RunError(f"run '{run.name}' stopped: {what}", f"{mend or 'mend that'}, then {resume}") from error


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


def _launch(run: Run, processes: int) -> None:
    """`accelerate launch` with the run's folder; its workers write what happened into `status.json`."""
    environment = (
        threads(processes)
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
    command = [*launcher(processes), "-m", "hptctl.worker", str(run.path)]
    # The workers' own words come on their standard output, the launchers' many on standard error.
    log = run.path / "launcher.log"
    with run.working():
        run.write_status(state="created", reason="", exit_code=0)
    with child_processes(patience=SHUTDOWN_SECONDS + LAUNCHER_SECONDS) as children:
        child = children.start(0, command, log, environment, stdout=sys.stderr)
        children.wait()
    # A clean run may still abort while its interpreters exit: what counts is the status that the main process wrote.
    status = run.status()
    if status.state == "finished":
        return
    if stop := children.stop():
        raise Interrupted(stop, status.reason or "stopped before the first step")
    if status.state == "interrupted" and status.exit_code == TIME_IS_UP_CODE:
        raise Interrupted(TIME_IS_UP, status.reason)
    # "interrupted" without a signal of ours: the launcher ended the others because one process had died.
    reason = status.reason if status.state == "failed" else f"its processes died (exit code {child.process.returncode})"
    run.write_status(state="failed", reason=reason)
    if status.exit_code == UserError.exit_code:
        raise UserError(reason)
    raise HptError(f"run '{run.name}' failed: {reason}", f"see {log}")


def launcher(processes: int) -> list[str]:
    """The command that starts a module once per process, on the devices that this process may use.

    Without `--gpu_ids` Accelerate looks for them in the user's own file of defaults, and they take the place of an
    inherited CUDA_VISIBLE_DEVICES.
    """
    return [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--multi_gpu", "--num_processes", str(processes), "--num_machines", "1", "--gpu_ids", "all"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
    ]


C = TypeVar("C", PretrainConfig, EvaluateConfig)


def pinned(config: PretrainConfig | EvaluateConfig) -> dict[str, Any]:
    """The configuration as a run keeps it: with the dataset's path made absolute, since it may go on from elsewhere."""
    from hpt.data.names import find

    found = find(config.dataset)
    return config.model_dump(mode="json") | ({"dataset": str(found)} if isinstance(found, Path) else {})


def _pin_dataset(config: C) -> tuple[C, str]:
    """The configuration with the dataset's path made absolute, since a run may go on from elsewhere; and its name."""
    from hpt.data.names import find, name_of

    found = find(config.dataset)
    if isinstance(found, Path):
        config = config.model_copy(update={"dataset": str(found)})
    return config, name_of(found)


def _fitting_weights(config: PretrainConfig | EvaluateConfig) -> tuple[Path, Run | None]:
    """As `find_weights`; the file is read to see that it is whole and holds the configuration's backbone."""
    assert config.weights is not None
    file, source = find_weights(config.weights)
    read_weights(file, backbone=config.backbone, allow_partial=config.allow_partial)
    return file, source


def _tags(config: PretrainConfig | EvaluateConfig, dataset: str) -> Tags:
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
