"""What a list of images says, line by line: its columns, and the path, split and labels on each line."""

from __future__ import annotations

import csv
import logging
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path

from hpt.data.folder import EXTENSIONS
from hpt.data.listing import Note, Split
from hpt.data.table_splits import Cells, candidates, flags, read_splits
from hpt.errors import DataError, did_you_mean

log = logging.getLogger("hpt.data")

DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": ",", ".list": ","}
HEADERLESS = frozenset({".txt", ".list"})
PATH, LABEL = ("path", "image", "file", "filename"), ("label", "labels", "class", "target")
"""What a header calls the columns, in lower case."""
MORE_PATHS = (
    *("file_name", "filepath", "file_path", "image_path", "img_path", "imagepath"),
    *("image_name", "img", "images"),
)
"""What it calls the column of paths where there is none of `PATH`, as Hugging Face's `metadata.csv` does."""
ZERO, ONE, UNCERTAIN, BLANK = range(4)
MARKS = {"0": ZERO, "0.0": ZERO, "1": ONE, "1.0": ONE, "-1": UNCERTAIN, "-1.0": UNCERTAIN, "": BLANK}
"""What the cell of a class may contain."""
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
    rows = _rows(path)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{path} is empty", "list one image on each line")
    if path.suffix.lower() in HEADERLESS:
        columns = _without_header(first[1], path)
        rows = chain([first], rows)
    else:
        second = next(rows, None)
        columns = _columns([cell.strip() for cell in first[1]], second[1] if second else [], path)
        rows = chain([second] if second else [], rows)
    table = TableLines(path, columns)
    table.cells = {i: Cells(columns.header[i]) for i in (*columns.splits, *columns.flags)}
    places = _Places(path)
    seen: dict[str, int] = {}
    # Beside a column of labels, what would be a class without it: no cell but of MARKS.
    doubtful = {i: set[int]() for i in columns.others if columns.label is not None and i not in table.cells}
    for line, cells in rows:
        table.lines.append(line)
        place, name = places.find(_add(table, cells))
        row = len(table.names)
        table.names.append(name)
        if seen.setdefault(place, row) != row:
            raise _twice(table, seen[place], row)
        for i in list(doubtful):
            doubtful[i].add(MARKS.get(cells[i].strip(), -1))
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
        column.add(cells[i].strip())
    if columns.label is not None:
        table.labels.append(table.texts.setdefault(cells[columns.label].strip(), len(table.texts)))
    try:
        table.marks.extend([MARKS[cells[i].strip()] for i in columns.classes])
    except KeyError:
        raise _no_mark(table, cells) from None
    if not cells[columns.path]:
        raise DataError(f"{table.at(-1)}: no path", "write one, or remove the line")
    return cells[columns.path]


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The number and the cells of each line that is not blank."""
    done = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            delimiter = DELIMITERS[path.suffix.lower()]
            reader = csv.reader(_text(file, path), delimiter=delimiter, skipinitialspace=True, strict=True)
            for cells in reader:
                done = reader.line_num
                if any(cells):
                    yield done, cells
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 (after line {done})", "save it as UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{path}, line {done + 1}: {error}", "check the quotes that begin there") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def _text(lines: Iterable[str], path: Path) -> Iterator[str]:
    for line in lines:
        if "\0" in line:
            raise DataError(f"{path} is not a text file", "save it as UTF-8 text")
        yield line


def _columns(header: list[str], first: list[str], path: Path) -> Columns:
    named = [name for name in header if name]
    for name in named:
        if named.count(name) > 1:
            raise DataError(f"{path} has two columns '{name}'", "remove or rename one of them")
    where = _column(header, PATH, path)
    if where is None:
        where = _column(header, MORE_PATHS, path)
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


def _no_path(header: list[str], path: Path) -> DataError:
    alone = header[0] if len(header) == 1 else ""
    if path.suffix.lower() == ".csv" and (";" in alone or "\t" in alone):
        return DataError(
            f"{path} is not separated by commas: its header reads '{alone}'",
            "write it with commas, or with tabs as a .tsv",
        )
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


class _Places:
    """Finds where an image lies and what it is called, from its path as written."""

    def __init__(self, path: Path) -> None:
        self._root = str(path.parent.resolve())
        # Absolute paths may come through the same links as the list's own.
        self._above = sorted({_slash(folder) for folder in (self._root, str(path.parent.absolute()))})
        self._known: dict[str, tuple[str, str]] = {}

    def find(self, text: str) -> tuple[str, str]:
        """Where an image lies, the same however its path is written; and its name in the listing."""
        folder, slash, file = text.rpartition("/")
        place, name = self._known.get(folder + slash) or self._folder(folder + slash)
        return place + file, name + file

    def _folder(self, text: str) -> tuple[str, str]:
        path = Path(self._root, text)
        place = _slash(str(path))
        inside = None if ".." in path.parts else self._inside(place)
        if inside is None:
            real = _slash(os.path.realpath(path))  # on the disk `link/..` is not where `link` is
            inside = self._inside(real)
        if inside is not None:
            found = inside, inside
        elif Path(text).is_absolute():
            found = real, real if ".." in path.parts else place
        else:
            found = real, _slash(os.path.relpath(real, self._root))
        self._known[text] = found
        return found

    def _inside(self, place: str) -> str | None:
        return next((place.removeprefix(above) for above in self._above if place.startswith(above)), None)


def _slash(folder: str) -> str:
    return folder.rstrip("/") + "/"


def _no_mark(table: TableLines, cells: list[str]) -> DataError:
    columns = table.columns
    wrong = next(i for i in columns.classes if cells[i].strip() not in MARKS)
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
