"""What commands share of their command line: options, groups of them, and the line itself."""

from __future__ import annotations

import inspect
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer


def _set_data_root(folder: Path | None) -> Path | None:
    """The one setting that says where data lies, for this process and those that it starts."""
    if folder is not None:
        os.environ["HPTCTL_DATA"] = str(folder.absolute())
    return folder


DataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        metavar="FOLDER",
        help="Where the catalogue's datasets lie; $HPTCTL_DATA sets it for good.",
        callback=_set_data_root,
    ),
]


def _limit_time(time: str | None) -> str | None:
    """The one time limit, for this process and those that it starts."""
    from hptctl import deadline

    deadline.limit(time) if time is not None else deadline.lift()
    return time


For = Annotated[
    str | None,
    typer.Option(
        "--for",
        metavar="TIME",
        help="Stop within 90s, 8m or 2h, saved, with exit code 75; the same command goes on.",
        callback=_limit_time,
    ),
]
DatasetArgument = Annotated[
    str, typer.Argument(help="A catalogue name, a folder, a zip file, a list, shards or tables, or their address.")
]
Dataset = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        "-d",
        help="A catalogue name (see `hptctl datasets list`), a folder, a zip file, a list, shards or tables, or their "
        "address, such as s3://bucket/folder.",
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Any field of the configuration; repeatable."),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="A TOML file of fields.")]
Preset = Annotated[
    str | None,
    typer.Option("--preset", help="paper: the published protocol. small: a laptop. tiny: seconds, for trying out."),
]
Name = Annotated[str | None, typer.Option("--name", help="Name of the run and of its folder runs/NAME.")]
Experiment = Annotated[str, typer.Option("--experiment", envvar="MLFLOW_EXPERIMENT_NAME", help="MLflow experiment.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of everything random but the split.")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
Precision = Annotated[str | None, typer.Option("--precision", help="auto, fp32 or bf16.")]
Processes = Annotated[
    int | None,
    typer.Option("--processes", help="Processes, a device each; the result does not depend on it.", show_default="1"),
]
ImageSize = Annotated[int | None, typer.Option("--image-size", help="Side of a view in pixels.")]
Policy = Annotated[
    str | None,
    typer.Option(
        "--policy",
        help="Augmentation: baseline, no-grayscale, no-color, crop-blur or crop-only.",
        show_default="baseline",
    ),
]
Metric = Annotated[
    str | None,
    typer.Option(
        "--metric",
        help="The figure by which val chooses: top1, top5, balanced_accuracy, auroc or map.",
        show_default="the dataset's",
    ),
]
AllowPartial = Annotated[
    bool, typer.Option("--allow-partial", help="Take weights that have a part of the backbone; the rest starts afresh.")
]
Resume = Annotated[str | None, typer.Option("--resume", metavar="RUN", help="Go on with a run that stopped.")]


def _for_scripts(wanted: bool) -> bool:
    """Nothing but JSON goes to standard output, whatever a library prints there."""
    if wanted:
        from hptctl import console

        console.json_alone()
    return wanted


Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.", callback=_for_scripts)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved configuration and start nothing.")]
RunArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[RUN]",
        help="A run's name, MLflow id or folder, a weights file, or `untrained`, a network that was never trained; the"
        " newest pretraining if left out.",
    ),
]


def refuse_beside_resume(given: Mapping[str, object]) -> None:
    """A ConfigError for the first option that was given beside `--resume`, which takes all of them from the run."""
    from hpt.errors import ConfigError

    for key, value in given.items():
        if value is not None and value != []:  # an option that repeats is an empty list when it was not given
            option = "--" + key.replace("_", "-")
            raise ConfigError(f"--resume goes on with the run as it was, but {option} was given", f"drop {option}")


def gathered(command: Callable[..., None]) -> Callable[..., None]:
    """A command as Typer takes it, of a function some of whose parameters are dataclasses of options: their fields
    stand on the command line where the parameter stands in the function."""
    parameters = inspect.signature(command, eval_str=True).parameters.values()
    groups: dict[str, Any] = {each.name: each.annotation for each in parameters if is_dataclass(each.annotation)}

    def call(**values: Any) -> None:
        for name, group in groups.items():
            given = {field.name: values.pop(field.name) for field in fields(group) if field.name in values}
            values[name] = group(**given)
        command(**values)

    flat: list[inspect.Parameter] = []
    for each in parameters:
        group = groups.get(each.name)
        flat += inspect.signature(group, eval_str=True).parameters.values() if group else [each]
    call.__name__, call.__doc__ = command.__name__, command.__doc__
    call.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]  # what Typer reads the options from
    return call


CIRCUMSTANCES = {"--for": 1, "--on": 1, "--cluster": 1, "--detach": 0}
"""Options that say when and where a command works, and are no part of what it asks for; and how many words follow."""


def command_line(*, whole: bool = False) -> str:
    """The command that was given, to be given again; where it is recorded without its circumstances."""
    from hptctl.secrets import masked

    if whole:
        return masked(shlex.join(["hptctl", *sys.argv[1:]]))
    words, given = [], iter(sys.argv[1:])
    for word in given:
        option, equals, _ = word.partition("=")
        if option not in CIRCUMSTANCES:
            words.append(word)
        elif not equals:
            for _ in range(CIRCUMSTANCES[option]):
                next(given, None)
    return masked(shlex.join(["hptctl", *words]))
