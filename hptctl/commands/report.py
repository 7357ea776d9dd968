"""`hptctl report`"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hptctl.format import count, size

if TYPE_CHECKING:
    from hptctl.report.page import Summary

WATCH_SECONDS = 2.0
"""Seconds between two checks of the store."""
STDOUT = Path("-")


def report(
    run: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN...]",
            help="Runs by name, MLflow id or fingerprint, with their evaluations (all of a sweep or study); all runs"
            " if left out.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write; - is standard output.")] = Path(
        "report.html"
    ),
    format: Annotated[
        str | None,
        typer.Option("--format", help="html, md, csv, json or latex.", show_default="that of --out's suffix"),
    ] = None,
    experiment: Annotated[
        str | None, typer.Option("--experiment", help="One MLflow experiment; all of the store if left out.")
    ] = None,
    dataset: Annotated[
        list[str] | None, typer.Option("--dataset", "-d", help="Runs on this dataset only; repeatable.")
    ] = None,
    study: Annotated[
        str | None, typer.Option("--study", help="The finished cells of a study: `hptctl runs list --kind study`.")
    ] = None,
    images: Annotated[
        int,
        typer.Option(
            "--images", metavar="N", min=0, help="Draw N images of each dataset: whoever gets the page gets them."
        ),
    ] = 0,
    reproducible: Annotated[
        bool,
        typer.Option(
            "--reproducible",
            help="Leave out names, ids, times, machines and commands of runs: equal results give equal bytes.",
        ),
    ] = False,
    anew: Annotated[
        bool,
        typer.Option("--anew", help="Ask the store for runs that ended long ago too: one was edited in MLflow."),
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Write again whenever a run begins or ends, until Ctrl-C.")
    ] = False,
) -> None:
    """Compare strategies across datasets on one self-contained HTML page, or for papers and scripts.

    Examples:

        hptctl report --out report.html

        hptctl report --dataset flowers --out flowers.tex

        hptctl report my-sweep --out - --format md

        hptctl report --images 12

        hptctl report --study quick --reproducible

        hptctl report --watch
    """
    from hpt.errors import ConfigError
    from hptctl import console, tracking
    from hptctl.report import formats, page
    from hptctl.report.selection import Selection, read

    if anew:
        tracking.read_anew()
    only = None
    if study is not None:
        from hptctl.study.progress import run_ids

        only = run_ids(study)
    selection = Selection(experiment=experiment, names=tuple(run or ()), datasets=tuple(dataset or ()), only=only)
    if out != STDOUT:
        formats.of(out, format)
        if images and formats.of(out, format) != "html":
            raise ConfigError("--images are for a page", "drop it, or write an .html")
        write = partial(page.write, out, selection, format=format, images=images, reproducible=reproducible)
        _watch(write) if watch else _say(write())
        return
    if watch:
        raise ConfigError("--watch writes again and again, which standard output is not for", "give a file as --out")
    console.print_text(page.render(read(selection, reproducible=reproducible), formats.of(out, format or "md")))


def _watch(write: Callable[[], Summary]) -> None:
    import time

    from hpt.errors import RunError
    from hptctl import console, tracking
    from hptctl.runs.signals import held_back

    store, looked = tracking.StoreWatch(), -WATCH_SECONDS
    console.note(f"watching {tracking.uri()}; Ctrl-C ends it")
    with held_back() as stop:
        while not stop():
            if time.monotonic() - looked < WATCH_SECONDS:
                time.sleep(0.1)
                continue
            looked = time.monotonic()
            try:
                if store.changed():
                    _say(write())
            except RunError as error:  # no store yet, nothing finished in it, or a server that is away for a while
                console.note(f"{error}; waiting")


def _say(made: Summary) -> None:
    from hptctl import console

    console.say(f"{made.path}: {count(made.datasets, 'dataset')}, {count(made.runs, 'run')}, {size(made.bytes)}")
