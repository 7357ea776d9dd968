"""Environment variables of the libraries below that a run does not follow, and the line that says so; and those of a
launcher, which say who the processes of a run are, and which it does follow.

A run is what its configuration says: what a library would take from its environment must not change it in silence, and
what somebody set on purpose must not be passed over in silence either.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterator

from hpt import cores

NOT_FOLLOWED = {
    "MLFLOW_EXPERIMENT_ID": "--experiment and MLFLOW_EXPERIMENT_NAME take a name",
    "MLFLOW_RUN_ID": "each run here is tracked as one of its own",
    "MLFLOW_REGISTRY_URI": "the registry is that of the tracking store",
    "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "a run records its hours, memory and energy by itself",
    "OPTUNA_STORAGE": "--storage or HPTCTL_STORAGE says where the trials are",
    "ACCELERATE_MIXED_PRECISION": "--precision says it",
    "ACCELERATE_USE_CPU": "--device cpu says it",
    "ACCELERATE_TORCH_DEVICE": "--device says it",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "a step takes --batch-size images",
    "ACCELERATE_USE_DEEPSPEED": "several processes compute by torch.distributed alone",
    "ACCELERATE_USE_FSDP": "several processes compute by torch.distributed alone",
    "ACCELERATE_DYNAMO_BACKEND": "nothing is compiled",
}
"""What takes the place of each."""
OFF = {"", "0", "no", "false", "none", "off"}


def quiet_accelerate() -> dict[str, str]:
    """Environment of processes that Accelerate's state is asked in, without what would change what they compute."""
    return dict.fromkeys(("ACCELERATE_USE_CPU", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"), "false")


def quiet_sockets() -> None:
    """Keep torch.distributed from writing of sockets and names of hosts by itself, past Python: what matters of it is
    said in a line. Before PyTorch is loaded, which reads it once."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")


def follow_no_accelerate() -> None:
    """Forget, in a process of a run, what the user's launcher has told Accelerate besides who the processes are: its
    file of defaults may name a precision, DeepSpeed or FSDP."""
    for name in ("ACCELERATE_TORCH_DEVICE", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"):
        os.environ.pop(name, None)


def join_slurm_step() -> None:
    """Say in torch.distributed's variables what `srun` says in its own of the tasks that it has started; nothing where
    a launcher has said it already, or where a batch script runs outside of `srun`.

    Before PyTorch is loaded: each process has its share of the cores.
    """
    given = os.environ.get
    if given("RANK") is not None or int(given("SLURM_STEP_NUM_TASKS", "1")) < 2:
        return
    here = _tasks_here(given("SLURM_STEP_TASKS_PER_NODE", "1"), int(given("SLURM_NODEID", "0")))
    said = {
        "RANK": given("SLURM_PROCID", "0"),
        "WORLD_SIZE": given("SLURM_STEP_NUM_TASKS", "1"),
        "LOCAL_RANK": given("SLURM_LOCALID", "0"),
        "LOCAL_WORLD_SIZE": str(here),
        "MASTER_ADDR": _first_host(given("SLURM_STEP_NODELIST", "") or "127.0.0.1"),
        # Jobs of one node differ in their number: two of them would meet at one port.
        "MASTER_PORT": str(20_000 + int(given("SLURM_JOB_ID", "0")) % 10_000),
        "OMP_NUM_THREADS": str(max(1, cores.usable() // here)),
    }
    for name, value in said.items():
        os.environ.setdefault(name, value)


def _first_host(nodes: str) -> str:
    """The first of Slurm's list of nodes: `n[03-07,9],m1` -> `n03`."""
    match = re.match(r"([^\[,]+)(?:\[(\w+)[^\]]*\])?([^,]*)", nodes)
    return f"{match[1]}{match[2] or ''}{match[3]}" if match else nodes


def _tasks_here(by_node: str, node: int) -> int:
    """The tasks on a node, by Slurm's count: `4(x2),1` are 4, 4 and 1."""
    counts: list[int] = []
    for part in by_node.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        counts += [int(match[1])] * int(match[2] or 1) if match else [1]
    return counts[min(node, len(counts) - 1)]


def keep_warnings_warnings() -> None:
    """Undo `PYTHONWARNINGS=error` and `python -W error`, by which a library's deprecation would end a run."""
    if _raises_warnings():
        warnings.simplefilter("default")


def not_followed() -> Iterator[str]:
    """A line for each variable that is set and not followed."""
    for name, instead in NOT_FOLLOWED.items():
        if os.environ.get(name, "").lower() not in OFF:
            yield f"{name} is not followed: {instead}"
    if _raises_warnings():
        yield "PYTHONWARNINGS is not followed: what libraries warn of stays a warning"


def _raises_warnings() -> bool:
    return any(option.split(":")[0] == "error" for option in sys.warnoptions)
