"""Environment variables of the libraries below that a run does not follow, and the line that says so.

A run is what its configuration says: what a library would take from its environment must not change it in silence, and
what somebody set on purpose must not be passed over in silence either.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator

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
