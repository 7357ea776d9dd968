"""The table of contents: every command, and the one boundary where errors become a line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any

import typer
from typer.main import get_command

from hptctl import options
from hptctl.commands import (
    advise,
    bench,
    compare,
    datasets,
    demo,
    doctor,
    evaluate,
    pretrain,
    report,
    runs,
    study,
    sweep,
    ui,
    weights,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Adapt a self-supervised vision model to your own images: pretrain, evaluate, sweep, report.",
    epilog="Start with `hptctl demo`, which needs no network and no images.",
)
app.command()(demo.demo)
app.command()(pretrain.pretrain)
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(sweep.app, name="sweep")
app.add_typer(study.app, name="study")
app.command()(advise.advise)
app.command()(compare.compare)
app.command()(report.report)
app.add_typer(runs.app, name="runs")
app.add_typer(datasets.app, name="datasets")
app.add_typer(weights.app, name="weights")
app.command()(ui.ui)
app.command()(bench.bench)
app.command()(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        from hptctl import __version__

        typer.echo(f"hptctl {__version__}")
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    data_root: options.DataRoot = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    if debug:
        os.environ["HPTCTL_DEBUG"] = "1"


@cache
def tree() -> Callable[..., Any]:
    """The commands with their options, which take Typer 0.1 s to put together: once in a process that runs several."""
    return get_command(app)


def main() -> None:
    """Run the command, and end the process."""
    from hpt.errors import Interrupted
    from hpt.user_folders import give_home
    from hptctl import collector, ending, environment, secrets
    from hptctl.runs import children, signals

    collector.spare()
    environment.keep_warnings_warnings()
    secrets.mask_tracebacks()
    give_home()
    signals.raise_on_signals()
    children.end_with_command()
    _show_notes_when_they_come()
    try:
        _run()
    except Interrupted as second:  # it came while the first was being explained
        sys.stderr.write(f"error: {second}\n")
        sys.exit(second.exit_code)
    finally:
        ending.end_at_once()


def _run() -> None:
    """The one boundary where errors become a line and an exit code."""
    from hpt.errors import HptError

    try:
        tree()()
    except HptError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        from hptctl.system_errors import explain

        what, mend = explain(error)
        _fail(f"{what}; {mend} and run it again" if mend else what, 2 if mend else 1)
    except Exception as error:
        if "null byte" in str(error) or "null character" in str(error):  # Python's, of any path
            _fail("the name of a file or run holds a NUL character; write it without", 2)
        if "Invalid log settings" in str(error):  # PyTorch's, as it is imported
            _fail("TORCH_LOGS holds what PyTorch does not know; unset it, or see what TORCH_LOGS=help prints", 2)
        _fail(f"{type(error).__name__}: {error} (this is a fault of hptctl: --debug shows where)", 1)


def _fail(text: str, exit_code: int) -> None:
    from hptctl import ending

    ending.end_at_once()
    from hpt.errors import TIME_IS_UP_CODE
    from hptctl import console

    if os.environ.get("HPTCTL_DEBUG") or "--debug" in sys.argv:
        console.traceback()
    console.time_is_up(text) if exit_code == TIME_IS_UP_CODE else console.error(text)
    sys.exit(exit_code)


def _show_notes_when_they_come() -> None:
    """Route the libraries' notes to the console, which is imported (Rich with it) when the first one comes."""
    import logging

    class Late(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            from hptctl import console

            console.show_library_notes()
            logging.getLogger(record.name).handle(record)

    for name in ("hpt", "hptctl"):
        logger = logging.getLogger(name)
        logger.handlers = [Late()]
        logger.setLevel(logging.INFO)
        logger.propagate = False
