"""What a list of images says, line by line: its columns, and the path, split and labels on each line."""

from __future__ import annotations

import logging
import unicodedata
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path

from hpt.data.file_kinds import EXTENSIONS
from hpt.data.listing import Note, Split
from hpt.data.table_places import Places
from hpt.data.table_splits import Cells, candidates, flags, read_splits
from hpt.data.table_text import HEADERLESS, rows
from hpt.errors import DataError, did_you_mean

log = logging.getLogger("hpt.data")

PATH, LABEL = ("path", "image", "file", "filename"), ("label", "labels", "class", "target")
"""What a header calls the columns, in lower case."""
IDS = ("image_path", "img_path", "file_path", "filepath", "file_name", "image_name", "img_name", "image_file",
       "imagepath", "images", "image_id", "img_id", "id_code", "img", "id", "name")  # fmt: skip
"""What published lists call the column of paths, the first that there is, where none is called as in `PATH`."""
ZERO, ONE, UNCERTAIN, BLANK = range(4)
MARKS = {"0": ZERO, "0.0": ZERO, "1": ONE, "1.0": ONE, "-1": UNCERTAIN, "-1.0": UNCERTAIN, "": BLANK} | {
    "False": ZERO, "FALSE": ZERO, "false": ZERO, "True": ONE, "TRUE": ONE, "true": ONE,
}  # fmt: skip
"""What the cell of a class may contain, or what `BLANKS` has."""
BLANKS = frozenset({"nan", "na", "n/a", "#n/a", "<na>", "nat", "null"})
"""What programs write into a cell without a value, in lower case. Not none: it is a class of many lists."""
NAMED = 6
"""The number of columns or classes that a message names."""


@dataclass(frozen=True)
class Columns:
    """What each column is, by its number."""

    header: list[str]
    path: int
    label: int | None
    others: tuple[int, ...]
    """The columns with any other name."""
    splits: tuple[int, ...] = ()
    """The columns that may hold the names of splits; they are none of a class."""
    flags: dict[int, Split] = field(default_factory=dict)
    """The columns of 0 and 1 that may say what is in one split."""

    @cached_property
    def classes(self) -> tuple[int, ...]:
        """The columns of 0 and 1, each of one class."""
        taken = () if self.label is None else self.others
        return tuple(i for i in self.others if i not in (*taken, *self.splits, *self.flags))

    def __str__(self) -> str:
        split = some(self.names((*self.splits, *self.flags))) or "none"
        return f"path: '{self.header[self.path]}', split: {split}, classes: {some(self.names(self.classes)) or 'none'}"

    def names(self, columns: Iterable[int]) -> list[str]:
        return [self.header[i] for i in columns]


@dataclass
class TableLines:
    """What a list says, line by line."""

    path: Path
    columns: Columns
    names: list[str] = field(default_factory=list)
    lines: array[int] = field(default_factory=lambda: array("q"))
    splits: list[Split | None] = field(default_factory=list)
    """The split on each line; empty where no column says it."""
    notes: list[Note] = field(default_factory=list)
    cells: dict[int, Cells] = field(default_factory=dict)
    """The columns that may say what the split is."""
    texts: dict[str, int] = field(default_factory=dict)
    """The number of each different cell in the column of labels."""
    labels: array[int] = field(default_factory=lambda: array("q"))
    """The number of the label on each line."""
    marks: bytearray = field(default_factory=bytearray)
    """The value of `MARKS` for each class of each line."""

    def at(self, row: int) -> str:
        return f"{self.path}, line {self.lines[row]}"


def read_lines(path: Path) -> TableLines:
    found = rows(path, lambda header: _path_column(header) is not None)
    first = next(found, None)
    if first is None:
        raise DataError(f"{path} is empty", "list one image on each line")
    if path.suffix.lower() in HEADERLESS:
        columns = _without_header(first[1], path)
        found = chain([first], found)
    else:
        second = next(found, None)
        header = [_cell(cell.strip("\ufeff")) for cell in first[1]]
        columns = _columns(header, second[1] if second else [], path)
        found = chain([second] if second else [], found)
    table = TableLines(path, columns)
    table.cells = {i: Cells(columns.header[i]) for i in (*columns.splits, *columns.flags)}
    places = Places(path)
    seen: dict[str, int] = {}
    # Beside a column of labels, what would be a class without it: no cell but of MARKS.
    doubtful = {i: set[int]() for i in columns.others if columns.label is not None and i not in table.cells}
    for line, cells in found:
        table.lines.append(line)
        text = _add(table, cells)
        if places.doubtful(text):
            text = places.on_disk(text, table.at(-1))
        place, name = places.find(text)
        row = len(table.names)
        table.names.append(name)
        if seen.setdefault(place, row) != row:
            raise _twice(table, seen[place], row)
        for i in list(doubtful):
            doubtful[i].add(MARKS.get(_cell(cells[i]), -1))
            if -1 in doubtful[i]:
                del doubtful[i]
    if not table.names:
        raise DataError(f"{path} lists no images: it has a header only", "list one image on each line")
    used = _read_splits(table)
    unused = tuple(i for i in columns.others if i not in used and i not in columns.classes)
    if unused:
        if columns.label is None:
            raise _no_class(table, unused[0])
        if twice := [i for i, marks in doubtful.items() if ONE in marks]:
            raise DataError(
                f"{path} has labels twice: the column '{columns.header[columns.label]}', and "
                f"{some(columns.names(twice))} with 0 and 1",
                "remove the one or the other",
            )
        table.notes.append(Note(f"columns not used: {some(columns.names(unused))}", doubtful=False))
    return table


def _read_splits(table: TableLines) -> set[int]:
    """Fill in the splits, and return the columns that they are from."""
    columns = table.columns
    marks: dict[Split, Cells] = {}
    for i, split in columns.flags.items():
        if split in marks:
            raise DataError(
                f"{table.path} has 2 columns that may be the split: '{marks[split].name}', '{columns.header[i]}'",
                "keep one of them",
            )
        marks[split] = table.cells[i]
    named = [table.cells[i] for i in columns.splits]
    column, table.splits = read_splits(str(table.path), named, marks, table.lines, table.notes)
    if column is not None:
        return {i for i, cells in table.cells.items() if cells is column}
    return set(columns.flags) if table.splits else set()


def _no_class(table: TableLines, column: int) -> DataError:
    cells = table.cells[column]
    text = next(iter(cells.texts))
    return DataError(
        f"{table.path}, line {table.lines[0]}: column '{cells.name}' holds '{text}', neither a split nor 0 nor 1 "
        f"({table.columns})",
        "remove that column, or call it label if it has the names of the classes",
    )


def _add(table: TableLines, cells: list[str]) -> str:
    """Add the split and the labels of a line, and return its path."""
    columns = table.columns
    if len(cells) != len(columns.header):
        raise DataError(
            f"{table.at(-1)}: {len(cells)} cells instead of {len(columns.header)}",
            'put a path or a name that holds the separator in quotes: "a,b.jpg"',
        )
    for i, column in table.cells.items():
        column.add(_cell(cells[i]))
    if columns.label is not None:
        table.labels.append(table.texts.setdefault(_cell(cells[columns.label]), len(table.texts)))
    try:
        table.marks.extend([MARKS[cells[i].strip()] for i in columns.classes])
    except KeyError:
        try:
            table.marks.extend([MARKS[_cell(cells[i])] for i in columns.classes])
        except KeyError:
            raise _no_mark(table, cells) from None
    if not _cell(cells[columns.path]):
        raise DataError(f"{table.at(-1)}: no path", "write one, or remove the line")
    return cells[columns.path]


def _cell(text: str) -> str:
    """What a cell says: in Unicode's composed form, and nothing where a program wrote that there is no value."""
    text = text.strip()
    if len(text) < 6 and text.lower() in BLANKS:
        return ""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _columns(header: list[str], first: list[str], path: Path) -> Columns:
    named = [name for name in header if name]
    for name in named:
        if named.count(name) > 1:
            raise DataError(f"{path} has two columns '{name}'", "remove or rename one of them")
    _column(header, PATH, path)  # which refuses two of them
    where = _path_column(header)
    if where is None:
        raise _no_path(header, path)
    label = _column(header, LABEL, path)
    taken = [where] if label is None else [where, label]
    others = tuple(i for i, name in enumerate(header) if name and i not in taken)
    splits = candidates(header, first, taken)
    marks = flags(header, first, (*taken, *splits), labelled=label is not None)
    return Columns(header, where, label, others, splits, marks)


def _column(header: list[str], called: tuple[str, ...], path: Path) -> int | None:
    found = [i for i, name in enumerate(header) if name.lower() in called]
    if len(found) > 1:
        raise DataError(
            f"{path} has {len(found)} columns that may be the {called[0]}: {some([header[i] for i in found])}",
            f"keep one of them, or rename the others so that they are none of {', '.join(called)}",
        )
    return found[0] if found else None


def _path_column(header: list[str]) -> int | None:
    lower = [name.lower() for name in header]
    return next((lower.index(name) for name in (*PATH, *IDS) if name in lower), None)


def _no_path(header: list[str], path: Path) -> DataError:
    is_data = any(Path(name).suffix.lower() in EXTENSIONS for name in header)
    guess = "" if is_data else next((hint for hint in (did_you_mean(name, PATH) for name in header) if hint), "")
    return DataError(
        f"{path} has no column of paths: its header reads {some(header)}{guess}",
        f"name one column {PATH[0]} (or {', '.join(PATH[1:])}), or name a list without a header .txt",
    )


def _without_header(first: list[str], path: Path) -> Columns:
    if first[0].strip().lower() in PATH:
        raise DataError(f"{path} begins with a header, '{','.join(first)}'", "name it .csv")
    if len(first) > 2:
        raise DataError(
            f"{path}, line 1: {len(first)} cells, where a {path.suffix} has `path` or `path,label`",
            "for more, write a .csv with a header",
        )
    label = 1 if len(first) == 2 else None
    return Columns(["path", "label"][: len(first)], path=0, label=label, others=())


def _no_mark(table: TableLines, cells: list[str]) -> DataError:
    columns = table.columns
    wrong = next(i for i in columns.classes if _cell(cells[i]) not in MARKS)
    return DataError(
        f"{table.at(-1)}: column '{columns.header[wrong]}' holds '{cells[wrong]}', neither 0 nor 1 ({columns})",
        "remove that column, or call it label if it has the names of the classes",
    )


def _twice(table: TableLines, first: int, again: int) -> DataError:
    if table.columns.label is not None and table.labels[first] != table.labels[again]:
        fix = "keep one of them; an image of several classes has them on one line, as cat|dog"
    else:
        fix = "remove one of them"
    lines = f"lines {table.lines[first]} and {table.lines[again]}"
    return DataError(f"{table.path} lists {table.names[first]} twice, on {lines}", fix)


def some(names: Sequence[str]) -> str:
    quoted = [f"'{name}'" for name in names[:NAMED]]
    return ", ".join(quoted) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
