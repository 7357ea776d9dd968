"""`hptctl runs export|import`: from one machine to another."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated

import typer

from hptctl import options
from hptctl.format import count, size

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
SMALLEST = 10 * 2**10
"""Bytes of the smallest part: a record of a tar."""


def export_runs(
    name: Annotated[list[str], typer.Argument(metavar="NAME...", help="Runs, sweeps and studies.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where to write, for example runs.tar.")],
    split: Annotated[
        str | None,
        typer.Option("--split", metavar="SIZE", help="Write parts of at most 500K, 15M or 1G: FILE.001, FILE.002, ..."),
    ] = None,
    without_weights: Annotated[
        bool, typer.Option("--without-weights", help="Leave backbones, classifiers and checkpoints here.")
    ] = False,
    alone: Annotated[
        bool, typer.Option("--alone", help="Only what is named: no trials, cells or pretrainings behind it.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Write runs into one file for another machine, with all that goes on from there.

    A sweep takes its trials along, a study its cells, and each run the pretrainings that it started from. Images and
    caches stay, and so do checkpoints of what is finished. Figures, reports and a study's progress need no weights.

    Examples:

        hptctl runs export my-base my-hpt --out runs.tar

        hptctl runs export quick --out quick.tar --split 15M

        hptctl runs export quick --out figures.tar --without-weights
    """
    from hptctl import console
    from hptctl.study import export_runs as leaving

    bytes = _bytes(split) if split is not None else None
    with console.Display() as display:
        made = leaving.export_runs(
            name, out, split=bytes, weights=not without_weights, alone=alone, progress=display.progress
        )
    written = sorted(out.parent.glob(f"{out.name}.[0-9][0-9][0-9]")) if split else [out]
    total = sum(path.stat().st_size for path in written)
    if as_json:
        console.print_json(
            {
                "runs": list(made.run_names),
                "files": len(made.files),
                "bytes": total,
                "without_weights": list(made.without_weights),
                "written": [str(path) for path in written],
            }
        )
        return
    for run in made.run_names:
        mine = [entry.size for entry in made.files if entry.run == run]
        console.say(f"{run}: {count(len(mine), 'file')}, {size(sum(mine))}")
    where = str(out) if split is None else f"{written[0]} to {written[-1].name}"
    console.say(f"{where}: {count(len(made.run_names), 'run')}, {count(len(made.files), 'file')}, {size(total)}")


def import_runs(
    file: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Archives that `hptctl runs export` wrote.")],
    move: Annotated[
        list[str] | None,
        typer.Option("--move", metavar="OLD=NEW", help="Images or weights at OLD there lie at NEW here; repeatable."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Bring runs of another machine into this folder and its tracking store: all of a file, or nothing of it.

    What is here already stays, unless the file has a further state of it. Of FILE.001, FILE.002, ... name any part.

    Examples:

        hptctl runs import runs.tar

        hptctl runs import quick.tar --move /home/me/x-rays=/data/x-rays
    """
    from hptctl import console
    from hptctl.format import listed
    from hptctl.study import import_runs as arriving

    moves = [_move(text) for text in move or ()]
    with console.Display() as display:
        found = arriving.import_runs(file, moves, display=display)
    if as_json:
        console.print_json(
            {
                "new": list(found.new),
                "updated": list(found.updated),
                "here": list(found.here),
                "renamed": dict(found.renamed),
                "images_missing": dict(found.absent),
                "without_weights": list(found.without_weights),
                "go_on": dict(found.stopped),
            }
        )
        return
    for what, names in (("new", found.new), ("updated", found.updated), ("already here", found.here)):
        if names:
            console.say(f"{what}: {', '.join(names)}")
    for old, name in found.renamed.items():
        console.say(f"study '{old}' is '{name}' here: another study has its name")
    if found.without_weights:
        console.say(f"without weights: {', '.join(found.without_weights)}")
    if found.absent:
        needed = [f"{place} ({count(many, 'run')})" for place, many in found.absent.items()]
        console.say(
            f"images that unfinished runs need are not here: {listed(needed)};"
            " bring them, or import again with --move OLD=NEW"
        )
    for run, command in found.stopped.items():
        absent = [word for word in shlex.split(command) if word.endswith(".toml") and not Path(word).exists()]
        console.say(f"go on with {run}: {command}" + (f" (bring {absent[0]} too)" if absent else ""))


def _bytes(text: str) -> int:
    from hpt.errors import ConfigError

    match = re.fullmatch(r"(\d+)([KMG]?)(?:i?B)?", text.strip(), flags=re.IGNORECASE)
    bytes = int(match[1]) * UNITS[match[2].upper()] if match else 0
    if bytes < SMALLEST:
        raise ConfigError(f"--split {text!r} is no size of {size(SMALLEST)} or more", "write for example --split 15M")
    return bytes


def _move(text: str) -> tuple[str, str]:
    from hpt.errors import ConfigError

    old, equals, new = text.partition("=")
    if not equals or not new or not Path(old).is_absolute():
        raise ConfigError(
            f"--move {text!r} is not of the form OLD=NEW with OLD an absolute path",
            "for example --move /home/me/images=/data/images",
        )
    return old, str(Path(new).absolute())
