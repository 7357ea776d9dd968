"""Lists of images: tables of paths, splits and labels.

    path,split,label        label: a class (single-label), or several as `cat|dog` or `cat;dog` (multi-label)
    path,split,cat,dog      0 and 1: multi-label; -1 (uncertain) and blank count as 0
    path                    unlabelled

    .csv, .tsv              with a header, separated by commas or tabs; the order of the columns is free
    .txt, .list             without a header: `path` or `path,label` on each line

The column of paths may also be called image, file or filename, that of labels labels, class or target; in any case.
Columns without a name, such as pandas' index, are left out, and so are those beside `label` that hold other than 0
and 1. A split whose labels are all blank is unlabelled. Without splits, `load` cuts them.

A path is relative to the list's folder, or absolute. An image below that folder has the name that `list_folder` of it
would give, however its path is written, so that a list beside class folders and the folder itself are one dataset with
one fingerprint and one split. Any other image is named as it is found: `../more/1.png`, or by its absolute path.
"""

from __future__ import annotations

import csv
import logging
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hpt.data.folder import EXTENSIONS, SPLIT_FOLDERS, Folder
from hpt.data.listing import SPLITS, Labels, Listing, Split, unlabelled
from hpt.errors import DataError, did_you_mean

log = logging.getLogger("hpt.data")

DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": ",", ".list": ","}
HEADERLESS = frozenset({".txt", ".list"})
PATH, SPLIT, LABEL = ("path", "image", "file", "filename"), ("split",), ("label", "labels", "class", "target")
"""What a header calls the columns, in lower case."""
SEPARATORS = "|;"
"""Between the classes of one cell."""
ZERO, ONE, UNCERTAIN, BLANK = range(4)
MARKS = {"0": ZERO, "0.0": ZERO, "1": ONE, "1.0": ONE, "-1": UNCERTAIN, "-1.0": UNCERTAIN, "": BLANK}
"""What the cell of a class may hold."""
NAMED = 6
"""Columns or classes named in a message."""


def list_table(path: Path) -> Listing:
    """The images that a list names, whether they are there or not.

    A million lines of 14 classes take about 8 s and 0.5 GiB.

    Raises:
        DataError: not UTF-8, no column of paths, an image listed twice, a line, split or label that is not clear.
    """
    table = _read(path)
    splits = _splits(table)
    labels: Labels = np.full(len(table.names), -1, dtype=np.int64)
    classes: tuple[str, ...] = ()
    if table.columns.label is not None:
        labels, classes = _from_names(table, np.array(splits))
    elif table.columns.classes:
        labels, classes = _from_marks(table, np.array(splits))
    order = sorted(range(len(table.names)), key=table.names.__getitem__)
    return Listing(
        source=Folder(path.parent.resolve()),
        names=tuple(table.names[i] for i in order),
        splits=tuple(splits[i] for i in order),
        labels=labels[order],
        classes=classes,
    )


@dataclass(frozen=True)
class _Columns:
    """Which column is what, by number."""

    header: list[str]
    path: int
    split: int | None
    label: int | None
    others: tuple[int, ...]
    """Those with any other name."""

    @property
    def classes(self) -> tuple[int, ...]:
        """The columns of 0 and 1."""
        return () if self.label is not None else self.others

    def __str__(self) -> str:
        split = "none" if self.split is None else f"'{self.header[self.split]}'"
        return f"path: '{self.header[self.path]}', split: {split}, classes: {_some(self.names(self.classes))}"

    def names(self, columns: Iterable[int]) -> list[str]:
        return [self.header[i] for i in columns]


@dataclass
class _Table:
    """What a list says, line by line."""

    path: Path
    columns: _Columns
    names: list[str] = field(default_factory=list)
    lines: array[int] = field(default_factory=lambda: array("q"))
    splits: list[Split | None] = field(default_factory=list)
    texts: dict[str, int] = field(default_factory=dict)
    """The different cells of the column of labels, numbered."""
    labels: array[int] = field(default_factory=lambda: array("q"))
    """Their number on each line."""
    marks: bytearray = field(default_factory=bytearray)
    """A `MARKS` for each line and class."""

    def at(self, row: int) -> str:
        return f"{self.path}, line {self.lines[row]}"


def _read(path: Path) -> _Table:
    rows = _rows(path)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{path} is empty", "list one image on each line")
    if path.suffix.lower() in HEADERLESS:
        columns = _without_header(first[1], path)
        rows = chain([first], rows)
    else:
        columns = _columns([cell.strip() for cell in first[1]], path)
    table = _Table(path, columns)
    places = _Places(path)
    seen: dict[str, int] = {}
    # Beside a column of labels, what would be a class without it: no cell but of MARKS.
    doubtful = {i: set[int]() for i in columns.others if columns.label is not None}
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
    if columns.label is not None and columns.others:
        if twice := [i for i, marks in doubtful.items() if ONE in marks]:
            raise DataError(
                f"{path} has labels twice: the column '{columns.header[columns.label]}', and "
                f"{_some(columns.names(twice))} with 0 and 1",
                "remove the one or the other",
            )
        log.info("%s: columns not used: %s", path.name, _some(columns.names(columns.others)))
    return table


def _add(table: _Table, cells: list[str]) -> str:
    """Take in the split and the labels of a line; its path."""
    columns = table.columns
    if len(cells) != len(columns.header):
        raise DataError(
            f"{table.at(-1)}: {len(cells)} cells instead of {len(columns.header)}",
            'put a path or a name that holds the separator in quotes: "a,b.jpg"',
        )
    if columns.split is not None:
        table.splits.append(_split(cells[columns.split].strip(), table))
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
    """Number and cells of each line that is not blank."""
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
            raise DataError(f"{path} is no text file", "save it as UTF-8 text")
        yield line


def _columns(header: list[str], path: Path) -> _Columns:
    named = [name for name in header if name]
    for name in named:
        if named.count(name) > 1:
            raise DataError(f"{path} has two columns '{name}'", "remove or rename one of them")
    where = _column(header, PATH, path)
    if where is None:
        raise _no_path(header, path)
    split, label = _column(header, SPLIT, path), _column(header, LABEL, path)
    others = tuple(i for i, name in enumerate(header) if name and i not in (where, split, label))
    return _Columns(header, where, split, label, others)


def _column(header: list[str], called: tuple[str, ...], path: Path) -> int | None:
    found = [i for i, name in enumerate(header) if name.lower() in called]
    if len(found) > 1:
        raise DataError(
            f"{path} has {len(found)} columns that may be the {called[0]}: {_some([header[i] for i in found])}",
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
        f"{path} has no column of paths: its header reads {_some(header)}{guess}",
        f"name one column {PATH[0]} (or {', '.join(PATH[1:])}), or name a list without a header .txt",
    )


def _without_header(first: list[str], path: Path) -> _Columns:
    if first[0].strip().lower() in PATH:
        raise DataError(f"{path} begins with a header, '{','.join(first)}'", "name it .csv")
    if len(first) > 2:
        raise DataError(
            f"{path}, line 1: {len(first)} cells, where a {path.suffix} has `path` or `path,label`",
            "for more, write a .csv with a header",
        )
    label = 1 if len(first) == 2 else None
    return _Columns(["path", "label"][: len(first)], path=0, split=None, label=label, others=())


class _Places:
    """From a path as written to where it is and what the image is called."""

    def __init__(self, path: Path) -> None:
        self._root = str(path.parent.resolve())
        # Absolute paths may come through the same links as the list's own.
        self._above = sorted({_slash(folder) for folder in (self._root, str(path.parent.absolute()))})
        self._known: dict[str, tuple[str, str]] = {}

    def find(self, text: str) -> tuple[str, str]:
        """Where it is, the same for all ways of writing a path; and its name in the listing."""
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


def _split(text: str, table: _Table) -> Split | None:
    if not text:
        return None
    split = SPLIT_FOLDERS.get(text.lower())
    if split is None:
        known = ", ".join(SPLIT_FOLDERS)
        raise DataError(
            f"{table.at(-1)}: unknown split '{text}'{did_you_mean(text, SPLIT_FOLDERS)}",
            f"use one of {known}",
        )
    return split


def _no_mark(table: _Table, cells: list[str]) -> DataError:
    columns = table.columns
    wrong = next(i for i in columns.classes if cells[i].strip() not in MARKS)
    return DataError(
        f"{table.at(-1)}: column '{columns.header[wrong]}' holds '{cells[wrong]}', neither 0 nor 1 ({columns})",
        "remove that column, or call it label if it has the names of the classes",
    )


def _twice(table: _Table, first: int, again: int) -> DataError:
    if table.columns.label is not None and table.labels[first] != table.labels[again]:
        fix = "keep one of them; an image of several classes has them on one line, as cat|dog"
    else:
        fix = "remove one of them"
    lines = f"lines {table.lines[first]} and {table.lines[again]}"
    return DataError(f"{table.path} lists {table.names[first]} twice, on {lines}", fix)


def _splits(table: _Table) -> list[Split]:
    given = [split for split in table.splits if split is not None]
    if not given:
        return ["train"] * len(table.names)
    if len(given) < len(table.names):
        row = table.splits.index(None)
        raise DataError(
            f"{table.at(row)}: {table.names[row]} is in no split, though others are",
            "fill it in, or remove the column to have the splits cut",
        )
    if "train" not in given:
        raise DataError(
            f"{table.path} has the splits {', '.join(sorted(set(given)))} but no train", "call one of them train"
        )
    return given


def _from_names(table: _Table, splits: npt.NDArray[np.str_]) -> tuple[Labels, tuple[str, ...]]:
    """Labels and classes by the column of labels."""
    used = [mark for mark in SEPARATORS if any(mark in text for text in table.texts)]
    if len(used) > 1:
        example = next(text for text in table.texts if used[1] in text)
        raise DataError(
            f"{table.path} has both | and ; in its labels, for example '{example}'",
            "separate the classes of an image by one of them, and write the names without it",
        )
    sets = [{part.strip() for part in text.split(used[0])} - {""} if used else {text} - {""} for text in table.texts]
    classes = tuple(sorted(set[str]().union(*sets)))
    codes = np.frombuffer(table.labels, dtype=np.int64)
    if not classes:
        return np.full(len(codes), -1, dtype=np.int64), ()
    if len(classes) == 1:
        raise DataError(
            f"all labels of {table.path} are '{classes[0]}'", "name two classes or more, or remove the column"
        )
    number = {name: i for i, name in enumerate(classes)}
    if not used:
        labels = np.array([number[names.pop()] if names else -1 for names in sets], dtype=np.int64)[codes]
        _check_single(table, labels, classes, splits)
        return labels, classes
    has = np.zeros((len(sets), len(classes)), dtype=np.bool_)
    for its, names in zip(has, sets, strict=True):
        its[[number[name] for name in names]] = True
    labels = has[codes].astype(np.float32)
    without = labels.max(axis=1) == 0
    _unlabel(labels, without, splits)
    if some := np.count_nonzero(without & ~unlabelled(labels)):
        log.info("%s: %s images have none of the %d classes", table.path.name, f"{some:,}", len(classes))
    _warn_of_missing(table, labels, classes, splits)
    return labels, classes


def _check_single(table: _Table, labels: Labels, classes: tuple[str, ...], splits: npt.NDArray[np.str_]) -> None:
    """As in folders: a split has labels or it has none, and a labelled train has all classes."""
    blank = unlabelled(labels)
    for split in SPLITS:
        here = splits == split
        if (blank & here).any() and not blank[here].all():
            row = int((blank & here).argmax())
            raise DataError(
                f"{table.at(row)}: {table.names[row]} has no label, though others of {split} have",
                "fill it in, or remove the line",
            )
    train = labels[splits == "train"]
    missing = np.setdiff1d(labels[~blank], train)
    if len(missing) and not unlabelled(train).all():
        row = int((labels == missing[0]).argmax())
        raise DataError(
            f"{table.at(row)}: class '{classes[missing[0]]}' has {splits[row]} images but none in train",
            "move some into train, or remove them",
        )


def _from_marks(table: _Table, splits: npt.NDArray[np.str_]) -> tuple[Labels, tuple[str, ...]]:
    """Labels and classes by the columns of 0 and 1."""
    classes = tuple(table.columns.names(table.columns.classes))
    marks = np.frombuffer(table.marks, dtype=np.uint8).reshape(-1, len(classes))
    if not (marks == ONE).any():
        raise DataError(f"{table.path} has no label that is 1 ({table.columns})", "fill them in, or remove the columns")
    if len(classes) == 1:
        raise DataError(
            f"{table.path} has one class only, the column '{classes[0]}'",
            "call the column label, so that 0 and 1 are two classes",
        )
    labels = (marks == ONE).astype(np.float32)
    blank = marks == BLANK
    _unlabel(labels, blank.all(axis=1), splits)
    blanks, uncertain = np.count_nonzero(blank & ~np.isnan(labels)), np.count_nonzero(marks == UNCERTAIN)
    if blanks or uncertain:
        counts = f"{uncertain:,} of {marks.size:,} labels are -1 (uncertain) and {blanks:,} are blank"
        log.info("%s: %s; they count as 0", table.path.name, counts)
    _warn_of_missing(table, labels, classes, splits)
    return labels, classes


def _unlabel(labels: Labels, blank: npt.NDArray[np.bool_], splits: npt.NDArray[np.str_]) -> None:
    """NaN in place of the labels of a split that has none on any line."""
    for split in SPLITS:
        here = splits == split
        if blank[here].all():
            labels[here] = np.nan


def _warn_of_missing(table: _Table, labels: Labels, classes: tuple[str, ...], splits: npt.NDArray[np.str_]) -> None:
    train = labels[splits == "train"]
    found = np.count_nonzero(train > 0, axis=0).tolist()
    missing = [name for name, count in zip(classes, found, strict=True) if not count]
    if missing and not unlabelled(train).all():
        log.warning("%s: no train image has %s, so that cannot be learned", table.path.name, _some(missing))


def _some(names: Sequence[str]) -> str:
    quoted = [f"'{name}'" for name in names[:NAMED]]
    return ", ".join(quoted) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
