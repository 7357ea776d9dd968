"""The labels and classes of a list: from a column of names, or from a column of 0 and 1 for each class."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from hpt.data.listing import SPLITS, Labels, Note, unlabelled
from hpt.data.table_lines import BLANK, ONE, UNCERTAIN, TableLines, some
from hpt.errors import DataError

log = logging.getLogger("hpt.data")

SEPARATORS = "|;"
"""The separators between the classes of one cell."""
_QUOTED = re.compile(r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)\"""")
_CHOICES = re.compile(r"""\{\s*["']choices["']\s*:\s*(\[.*\])\s*\}""")


def labels_from_names(table: TableLines, splits: npt.NDArray[np.str_]) -> tuple[Labels, tuple[str, ...]]:
    """Labels and classes by the column of labels."""
    parts = _as_python_lists(table.texts)
    if parts is None and (parts := _by_commas(table)) is not None:
        table.notes.append(Note("cells such as 'cat,dog' are read as several classes, since they stand alone as well"))
    used = [mark for mark in SEPARATORS if parts is None and any(mark in text for text in table.texts)]
    if len(used) > 1:
        example = next(text for text in table.texts if used[1] in text)
        raise DataError(
            f"{table.path} has both | and ; in its labels, for example '{example}'",
            "separate the classes of an image by one of them, and write the names without it",
        )
    if parts is None:
        parts = [text.split(used[0]) if used else [text] for text in table.texts]
    sets = [{part.strip() for part in its} - {""} for its in parts]
    several = bool(used) or any(len(its) > 1 for its in sets)
    classes = tuple(sorted(set[str]().union(*sets)))
    codes = np.frombuffer(table.labels, dtype=np.int64)
    if not classes:
        return np.full(len(codes), -1, dtype=np.int64), ()
    if len(classes) == 1:
        raise DataError(
            f"all labels of {table.path} are '{classes[0]}'", "name two classes or more, or remove the column"
        )
    number = {name: i for i, name in enumerate(classes)}
    if not several:
        labels = np.array([number[names.pop()] if names else -1 for names in sets], dtype=np.int64)[codes]
        _check_single(table, labels, classes, splits)
        return labels, classes
    has = np.zeros((len(sets), len(classes)), dtype=np.bool_)
    for its, names in zip(has, sets, strict=True):
        its[[number[name] for name in names]] = True
    labels = has[codes].astype(np.float32)
    without = labels.max(axis=1) == 0
    _unlabel(labels, without, splits)
    if without_any := np.count_nonzero(without & ~unlabelled(labels)):
        log.info("%s: %s images have none of the %d classes", table.path.name, f"{without_any:,}", len(classes))
    _warn_of_missing(table, labels, classes, splits)
    return labels, classes


def _as_python_lists(texts: Collection[str]) -> list[list[str]] | None:
    """The parts of cells that are all written as `['cat', 'dog']`, or by Label Studio as `{"choices": [...]}`."""
    choices = any(_CHOICES.fullmatch(text) for text in texts)  # of one class, Label Studio writes its name alone
    parts = []
    for text in texts:
        inner = found[1] if (found := _CHOICES.fullmatch(text)) else text
        if inner and (inner[0], inner[-1]) not in (("[", "]"), ("{", "}"), ("(", ")")):
            if not choices:
                return None
            parts.append([inner])
            continue
        quoted = [one or other for one, other in _QUOTED.findall(inner)]
        parts.append(quoted or inner[1:-1].split(","))
    return parts if any(texts) else None


def _by_commas(table: TableLines) -> list[list[str]] | None:
    """The parts of cells such as `cat,dog`; None where no cell has a comma, or a comma may be a part of a name.

    They are several classes where each of their parts is a part of another cell too, and one of them is a whole cell;
    `tench, Tinca tinca` is one.
    """
    parts = [[part.strip() for part in text.split(",")] for text in table.texts]
    compound = [its for its in parts if len(its) > 1]
    if not compound:
        return None
    cells = Counter(part for its in parts for part in set(its))
    alone = {its[0] for its in parts if len(its) == 1}
    known = {part for its in compound for part in its}
    if all(cells[part] > 1 for part in known) and known & alone:
        return parts
    example = ",".join(compound[0])
    table.notes.append(
        Note(
            f"'{example}' is read as one class; write {'|'.join(compound[0])} if it is several",
            doubtful=bool(known & alone),
        )
    )
    return None


def _check_single(table: TableLines, labels: Labels, classes: tuple[str, ...], splits: npt.NDArray[np.str_]) -> None:
    """Refuse, as in folders, a split that is labelled in part, and a labelled train that lacks a class."""
    blank = unlabelled(labels)
    for split in SPLITS:
        here = splits == split
        if (blank & here).any() and not blank[here].all():
            row = int((blank & here).argmax())
            raise DataError(
                f"{table.at(row)}: {table.names[row]} has no label, although others of {split} have one",
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


def labels_from_marks(table: TableLines, splits: npt.NDArray[np.str_]) -> tuple[Labels, tuple[str, ...]]:
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
    """Put NaN in place of the labels of a split that has none on any line."""
    for split in SPLITS:
        here = splits == split
        if blank[here].all():
            labels[here] = np.nan


def _warn_of_missing(table: TableLines, labels: Labels, classes: tuple[str, ...], splits: npt.NDArray[np.str_]) -> None:
    train = labels[splits == "train"]
    found = np.count_nonzero(train > 0, axis=0).tolist()
    missing = [name for name, count in zip(classes, found, strict=True) if not count]
    if missing and not unlabelled(train).all():
        log.warning("%s: no train image has %s, which therefore cannot be learned", table.path.name, some(missing))
