"""What is asked of a cluster for each job."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from hpt import toml_file
from hpt.config import Config, check, merge
from hpt.errors import ConfigError, did_you_mean

TABLE = "cluster"
"""The table of a TOML file that holds the settings."""
FIELDS = {
    "partition": "partition",
    "time": "time",
    "gpus-per-node": "gpus",
    "cpus-per-task": "cpus",
    "mem": "mem",
    "account": "account",
    "qos": "qos",
}
"""sbatch's options that have a field of their own."""
OURS = ("array", "comment", "error", "job-name", "nodes", "ntasks", "open-mode", "output", "signal")
"""sbatch's options that decide how a job is found again, what it writes, and that it is warned before its limit."""


def _minutes(text: str) -> int:
    """Whole minutes, rounded up, of `90m`, `4h`, `2d`, `12:00:00` or `1-12:00:00`; 0 where it is none of them."""
    if match := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([mhd])\s*", text):
        return math.ceil(float(match[1]) * {"m": 1, "h": 60, "d": 1440}[match[2]])
    if match := re.fullmatch(r"\s*(?:(\d+)-)?(\d+):(\d\d):(\d\d)\s*", text):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return math.ceil(days * 1440 + hours * 60 + minutes + seconds / 60)
    return 0


def _check_time(text: str) -> str:
    if not _minutes(text):
        raise ValueError(f"'{text}' is not a length of time: write 90m, 4h, 2d or 1-12:00:00")
    return text


def _check_options(options: dict[str, Any]) -> dict[str, Any]:
    named = {key.lstrip("-").replace("_", "-"): value for key, value in options.items()}
    if taken := [key for key in named if key in FIELDS]:
        raise ValueError("; ".join(f"'{key}' has a field of its own: {FIELDS[key]}" for key in taken))
    if ours := [key for key in named if key in OURS]:
        raise ValueError(f"{', '.join(ours)} cannot be set: it is how a job is found, read and warned")
    return named


class Cluster(Config):
    """What is asked of a cluster for each job; a field that is not given is left to the cluster."""

    partition: str | None = None
    """The partition (queue) that jobs wait in."""
    time: Annotated[str, AfterValidator(_check_time)] = "1h"
    """The limit of a job: 90m, 4h, 2d or 1-12:00:00. What takes longer is saved before it, and goes on in the queue."""
    gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs of a job."""
    cpus: Annotated[int, Field(ge=1)] | None = None
    """Cores of a job."""
    mem: str | None = None
    """Memory of a job, as sbatch takes it: 16G."""
    account: str | None = None
    qos: str | None = None
    array_parallelism: Annotated[int, Field(ge=1)] | None = None
    """Jobs of one array that run at once, as many as the cluster lets if not given; with `--on local`, jobs at once."""
    setup: tuple[str, ...] = ()
    """Lines of shell that a job runs first: `module load cuda`."""
    sbatch: Annotated[dict[str, str | int | float | bool], AfterValidator(_check_options)] = Field(default={})
    """Any other option of sbatch, by its long name: `constraint = "a100"`."""

    @property
    def minutes(self) -> int:
        """The limit of a job."""
        return _minutes(self.time)


def read(given: Iterable[str], table: Cluster | None = None) -> Cluster:
    """The settings of a study's table, overridden by what `--cluster` gave: TOML files and `key=value`, in order.

    Raises:
        ConfigError: all problems at once; a file that cannot be read.
    """
    values: dict[str, Any] = table.model_dump(exclude_unset=True) if table is not None else {}
    for text in given:
        values = merge(values, _pair(text) if "=" in text else _file(Path(text)))
    return check(Cluster, values)


def _file(path: Path) -> Mapping[str, Any]:
    values = toml_file.read(path, "--cluster", "give a TOML file, or a setting such as partition=gpu")
    table = values.get(TABLE, values)
    if not isinstance(table, dict):
        raise ConfigError(f"{TABLE} in {path} is not a table", f"begin it with [{TABLE}]")
    return table


def _pair(text: str) -> Mapping[str, Any]:
    key, _, raw = text.partition("=")
    value: Any = raw.strip()
    if value[:1] in {"[", "{"}:
        try:
            value = json.loads(value)
        except ValueError:
            raise ConfigError(f"--cluster {text!r}: the value is not valid JSON") from None
    elif key.strip() == "setup":  # a single line
        value = [value]
    for part in reversed(key.strip().split(".", 1)):
        value = {part: value}
    return value  # type: ignore[no-any-return]  # the loop has wrapped it


def unknown(name: str, known: Iterable[str]) -> ConfigError:
    """`--on` names nobody that runs jobs."""
    return ConfigError(f"unknown --on '{name}'{did_you_mean(name, known)}", f"choose one of {', '.join(known)}")
