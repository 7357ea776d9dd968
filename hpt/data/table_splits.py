"""The split of each line of a list, from a column of names of splits, or from columns of 0 and 1 such as `is_test`.

split, set, subset, usage, ...      train, val, test, or other names of these (`folder_names`), one on each line
any other column                    the same, where it holds nothing else, and `train` among them
is_valid, is_test                   1 is that split, 0 is train; beside `label` also valid, test
is_train                            1 is train, 0 is test
train, val, test                    1 in one of them
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from hpt.data import folder_names as called
from hpt.data.listing import SPLITS, Note, Split
from hpt.errors import DataError, did_you_mean

SURE = frozenset(
    {
        "split",
        "splits",
        "subset",
        "partition",
        "usage",
        "datasplit",
        "datasetsplit",
        "traintest",
        "traintestsplit",
        "trainvaltest",
        "trainvaltestsplit",
        "evalpartition",
        "imageset",
        "splitset",
        "datasubset",
    }
)
"""Columns that hold nothing but splits: 0, 1 and 2 in them are a question."""
NAMES = SURE | {"set", "phase", "stage", "mode", "fold", "folds", "kfold", "cvfold"}
"""Columns that hold splits where one of their cells is the name of a split."""
CODES = frozenset({"0", "1", "2"})
"""What splits are numbered by: 0 is train in one set and test in another."""
YES, NO = frozenset({"1", "1.0", "true", "yes", "t", "y"}), frozenset({"0", "0.0", "false", "no", "f", "n"})


@dataclass
class Cells:
    """A column, cell by cell."""

    name: str
    texts: dict[str, int] = field(default_factory=dict)
    """The number of each different cell."""
    codes: array[int] = field(default_factory=lambda: array("q"))
    """The number of the cell on each line."""

    def add(self, text: str) -> None:
        self.codes.append(self.texts.setdefault(text, len(self.texts)))


def key(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def candidates(header: Sequence[str], first: Sequence[str], taken: Collection[int]) -> tuple[int, ...]:
    """The columns that may hold names of splits: by their name, or by what is on the first line."""
    return tuple(
        i
        for i, name in enumerate(header)
        if name and i not in taken and (key(name) in NAMES or (i < len(first) and called.split_of(first[i].strip())))
    )


def flags(header: Sequence[str], first: Sequence[str], taken: Collection[int], *, labelled: bool) -> dict[int, Split]:
    """The columns that may hold 1 for one split.

    `train` may be a class as well: without `is`, the others must lie beside it, or a column of labels.
    """
    sure, bare = dict[int, Split](), dict[int, Split]()
    for i, name in enumerate(header):
        if not name or i in taken or (i < len(first) and first[i].strip().lower() not in YES | NO):
            continue
        found = [word for word in called.words(name) if word not in ("is", "in", "for", "use")]
        plain = key(name).removeprefix("is")
        split = called.split_of(plain) or called.split_of(" ".join(found))
        if split is not None:
            (bare if key(name) == plain and len(found) == len(called.words(name)) else sure)[i] = split
    return sure | (bare if labelled or sure or len(set(bare.values())) > 1 else {})


def read_splits(
    path: str, columns: Sequence[Cells], marks: Mapping[Split, Cells], lines: Sequence[int], notes: list[Note]
) -> tuple[Cells | None, list[Split | None]]:
    """The split of each line, or none on any, and the column that it is from, unless it is from columns of 0 and 1.

    Raises:
        DataError: a cell is no split although others of its column are, or columns contradict each other.
    """
    found = [(column, splits) for column in columns if (splits := _named(path, column, lines, notes)) is not None]
    called_split = [pair for pair in found if key(pair[0].name) == "split"]
    for column, splits in (called_split or found)[1:]:
        if splits != found[0][1]:
            raise DataError(
                f"{path} has 2 columns that may be the split: '{found[0][0].name}', '{column.name}'",
                "keep one of them, or call the one split",
            )
    if found:
        column, splits = (called_split or found)[0]
        if column.name.lower() != "split":
            notes.append(Note(f"the split is read from the column '{column.name}'", doubtful=False))
        return column, splits
    return None, _marked(path, marks, lines, notes) if marks else []


def _named(path: str, column: Cells, lines: Sequence[int], notes: list[Note]) -> list[Split | None] | None:
    known = {text: called.split_of(text) for text in column.texts if text}
    name = key(column.name)
    if known and all(text.isdecimal() for text in known):
        if name in SURE or (name in NAMES and not called.is_fold(column.name) and {"0", "1"} <= known.keys() <= CODES):
            raise DataError(
                f"{path}: column '{column.name}' holds {', '.join(sorted(known)[:4])}, which names no split",
                "write train, val and test, or rename the column if it is no split",
            )
        if called.is_fold(column.name):
            folds = f"{len(known)} folds of a cross-validation"
            notes.append(
                Note(f"column '{column.name}' is not used: it holds {folds}; a column split says what is test")
            )
        return None
    wrong = next((text for text, split in known.items() if split is None), None)
    if wrong is not None and (name == "split" or (name in NAMES and any(known.values()))):
        row = column.codes.index(column.texts[wrong])
        raise DataError(
            f"{path}, line {lines[row]}: unknown split '{wrong}'{did_you_mean(wrong, called.PLAIN_SPLITS)}",
            f"use one of {', '.join(called.PLAIN_SPLITS)}",
        )
    if name not in NAMES and ("" in column.texts or "train" not in known.values() or len(set(known.values())) < 2):
        return None
    if wrong is not None or (not known and name != "split"):
        return None
    of_code = [called.split_of(text) if text else None for text in column.texts]
    return [of_code[code] for code in column.codes]


def _marked(path: str, marks: Mapping[Split, Cells], lines: Sequence[int], notes: list[Note]) -> list[Split | None]:
    order = [split for split in SPLITS if split in marks]
    rest: Split | None = "train"
    if "train" in marks:
        rest = next((split for split in ("test", "val") if split not in marks), None)
    splits: list[Split | None] = []
    yes = {split: [_is_yes(path, column, text, lines) for text in column.texts] for split, column in marks.items()}
    for row in range(len(lines)):
        its = [split for split in order if yes[split][marks[split].codes[row]]]
        if len(its) > 1:
            names = " and ".join(f"'{marks[split].name}'" for split in its)
            raise DataError(f"{path}, line {lines[row]}: both {names} are 1", "an image is in one split")
        splits.append(its[0] if its else rest)
    held_out = sum(split != "train" for split in splits)
    names = ", ".join(f"'{marks[split].name}'" for split in order)
    if "train" not in marks and 2 * held_out > len(splits):
        raise DataError(
            f"{path}: {held_out:,} of {len(splits):,} images are in val or test by {names}",
            "remove that column if it says something else, or write a column split with train, val and test",
        )
    others = f", the others are {rest}" if rest is not None and rest in splits else ""
    said = ", ".join(f"1 in '{marks[split].name}' is {split}" for split in order)
    notes.append(Note(f"the split is read from {names}: {said}{others}"))
    return splits


def _is_yes(path: str, column: Cells, text: str, lines: Sequence[int]) -> bool:
    if text.lower() not in YES | NO:
        line = lines[column.codes.index(column.texts[text])]
        raise DataError(
            f"{path}, line {line}: column '{column.name}' holds '{text}', neither 0 nor 1",
            "write 0 or 1, or rename the column if it is no split",
        )
    return text.lower() in YES
