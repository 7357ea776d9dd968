"""The only file that prints. Results go to standard output; notes, progress and errors to standard error.

With `--json` standard output is for the JSON alone, whatever a library or a child prints there (`json_alone`).
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import IO, Any, Self

from rich.cells import cell_len, chop_cells
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from hptctl.format import reading
from hptctl.secrets import masked, masked_in

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)
PLAIN_SECONDS = 5.0
"""Seconds between lines of progress where there is no terminal."""
NARROWEST = 12
"""Characters of a column of text: below that, words are cut into letters."""
GAP = 2
"""Spaces between the columns of a table."""
_json: IO[str] | None = None
"""Where JSON goes once standard output is its own."""


def _safe(text: str) -> str:
    return escape(visible(masked(text)))


def say(text: str) -> None:
    """Print a line of the result."""
    out.print(_safe(text))


def note(text: str) -> None:
    """Print a line beside the result."""
    err.print(f"[dim]{_safe(text)}[/dim]")


def warn(text: str) -> None:
    """Print a warning."""
    err.print(f"[yellow]warning:[/yellow] {escape(_message(text))}")


def error(text: str) -> None:
    """Print the one line that ends a failed command."""
    err.print(f"[bold red]error:[/bold red] {escape(_message(text))}")


def time_is_up(text: str) -> None:
    """Print the one line that ends a command that has used the time that it was given."""
    err.print(f"[yellow]time is up:[/yellow] {escape(_message(text))}")


def _line(text: str) -> str:
    """Text on one line, which names that people give to files and classes may break."""
    return visible(masked(text)).replace("\n", "\\n").replace("\t", "\\t")


def _message(text: str) -> str:
    """Text on one line that a terminal shows whole: a word of thousands of letters, as a broken list has, is cut."""
    return re.sub(r"\S{400,}", lambda word: f"{word[0][:150]}...{word[0][-150:]}", _line(text))


def print_json(value: Any) -> None:
    """Print JSON for scripts; nothing else goes to standard output."""
    stream = sys.stdout if _json is None or _json.closed else _json  # that of an earlier command in this process
    stream.write(json.dumps(masked_in(value), indent=2) + "\n")
    stream.flush()


def json_alone() -> None:
    """From now on standard output is `print_json`'s; what others print there goes to standard error."""
    global _json
    sys.stdout.flush()
    try:
        is_descriptor = sys.stdout.fileno() == 1
    except (OSError, ValueError):  # a stream of somebody's own
        is_descriptor = False
    _json = os.fdopen(os.dup(1), "w", encoding="utf-8") if is_descriptor else sys.stdout
    if is_descriptor:
        os.dup2(2, 1)  # what a library writes past Python, and what a child inherits
    sys.stdout = sys.stderr


def print_text(text: str) -> None:
    """Print text for scripts, as it is."""
    sys.stdout.write(masked(text))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table that fits the terminal; a column named '>...' is aligned right.

    Text is folded, at spaces where it has any, and figures never are. Where that would leave columns of a few letters,
    each row is printed by itself: its first cell, and below it a line for each other.
    """
    if title:  # a title of the table itself would wrap at the table's width
        out.print(f"[bold]{_safe(title)}[/bold]")
    widths = _widths(columns, rows, out.width)
    if widths is None:
        _by_row(columns, rows)
    else:
        out.print(_table(columns, rows, widths), soft_wrap=False)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int]) -> Table:
    shown = Table(header_style="bold", box=None, pad_edge=False)
    for column, width in zip(columns, widths, strict=True):
        right = column.startswith(">")
        shown.add_column(
            column.removeprefix(">"), justify="right" if right else "left", overflow="fold", width=width, no_wrap=right
        )
    for row in rows:
        shown.add_row(*(escape(_folded(_line(cell), width)) for cell, width in zip(row, widths, strict=True)))
    return shown


def _widths(columns: Sequence[str], rows: Sequence[Sequence[str]], room: int) -> list[int] | None:
    """The width of each column; None where some of text would be narrower than `NARROWEST`."""
    cells = [[column.removeprefix(">"), *(_line(row[i]) for row in rows)] for i, column in enumerate(columns)]
    widths = [max(map(cell_len, each), default=0) for each in cells]
    room -= GAP * (len(columns) - 1)
    least = [
        width if name.startswith(">") else min(width, NARROWEST) for name, width in zip(columns, widths, strict=True)
    ]
    while sum(widths) > room:
        spare = [width - fewest for width, fewest in zip(widths, least, strict=True)]
        if not any(spare):
            return None
        widest = max(range(len(widths)), key=lambda i: (spare[i] > 0, widths[i]))
        others = max((width for i, width in enumerate(widths) if i != widest and spare[i]), default=0)
        widths[widest] -= max(1, min(spare[widest], sum(widths) - room, widths[widest] - others))
    return widths


def _by_row(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    names = [column.removeprefix(">") for column in columns]
    for row in rows:
        first, *others = (_line(cell) for cell in row)
        out.print(Text(_folded(first, out.width), style="bold", overflow="fold"), soft_wrap=False)
        for name, cell in zip(names[1:], others, strict=True):
            if cell:
                said = _folded(f"{name} {cell}".strip(), out.width - 2)
                out.print(Padding(Text(said, overflow="fold"), (0, 0, 0, 2)), soft_wrap=False)


def _folded(text: str, width: int) -> str:
    """Text whose words are cut where they are too long for a column: after a mark (`_ - / .`), or else anywhere."""
    if cell_len(text) <= width:
        return text
    lines: list[str] = []
    for word in text.split(" "):
        line = ""
        for piece in (part for whole in re.findall(r"[^_/.-]*[_/.-]?", word) for part in chop_cells(whole, width)):
            if line and cell_len(line + piece) > width:
                lines.append(f"{line}\n")
                line = ""
            line += piece
        lines.append(f"{line} ")
    return "".join(lines).rstrip(" ")


def visible(text: str) -> str:
    """Text on a terminal: what would move its cursor or change its colours is shown as an escape."""
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character.isprintable() or character in "\n\t\u00a0\u3000":
        return character
    return character.encode("unicode_escape").decode()


class LiveTable:
    """A table on a terminal that is updated in place while work goes on, and removed when the work is done."""

    def __init__(self) -> None:
        self.live = err.is_terminal and not os.environ.get("NO_PROGRESS")
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self.live:
            self._live = Live(console=err, transient=True, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Update the table; does nothing without a terminal."""
        if self._live is not None:
            self._live.update(
                Group(
                    Text(visible(masked(title)), style="bold", no_wrap=True, overflow="ellipsis"),
                    _table(columns, rows, _widths(columns, rows, err.width) or [err.width] * len(columns)),
                ),
                refresh=True,
            )


def traceback() -> None:
    """Print the traceback of the exception being handled, for `--debug`."""
    import traceback as tb

    sys.stderr.write(masked(tb.format_exc()))


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        (warn if record.levelno >= logging.WARNING else note)(record.getMessage())


def show_library_notes() -> None:
    """Print what this project's own packages log."""
    for name in ("hpt", "hptctl"):
        logger = logging.getLogger(name)
        logger.handlers = [_Handler()]
        logger.setLevel(logging.INFO)
        logger.propagate = False


class Display:
    """Progress of long work: a bar on a terminal, a plain line now and then elsewhere, nothing when `silent`.

    `follow` is called in any case.
    """

    def __init__(self, silent: bool = False, follow: Callable[[int, int, str], None] | None = None) -> None:
        self.silent = silent
        self._follow = follow
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._shown: dict[str, float] = {}
        self._figures = ""
        self._spoke = 0.0

    def __enter__(self) -> Self:
        if not self.silent and err.is_terminal and not os.environ.get("NO_PROGRESS"):
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=16),
                MofNCompleteColumn(),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[figures]}"),
                console=err,
                transient=True,
            )
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def progress(self, done: int, total: int, what: str) -> None:
        """Show that `done` of `total` units of a piece of work are done."""
        if self._follow is not None:
            self._follow(done, total, what)
        if self._bar is not None:
            if what not in self._tasks:
                for task in self._tasks.values():
                    self._bar.update(task, visible=False)
                self._tasks[what] = self._bar.add_task(what, total=total, figures="")
            self._bar.update(self._tasks[what], completed=done, total=total, visible=True, figures=self._figures)
        elif not self.silent and (time.monotonic() - self._spoke > PLAIN_SECONDS or done == total):
            self._spoke = time.monotonic()
            note(f"{what} {done}/{total} {self._figures}".rstrip())

    def metrics(self, metrics: dict[str, float]) -> None:
        """Show the newest figures behind the bar."""
        names = {"images_per_second": "images/s", "contrastive_top1": "acc", "loss": "loss", "lr": "lr"}
        shown = {short: metrics[name] for name, short in names.items() if name in metrics}
        shown |= {key: value for key, value in metrics.items() if key.startswith("val_curve")}
        shown |= {key.removeprefix("probe/"): value for key, value in metrics.items() if key.startswith("probe/knn")}
        if shown:
            self._shown |= shown
            self._figures = "  ".join(f"{key} {reading(value)}" for key, value in self._shown.items())
