"""Lists of images: tables of paths, splits and labels.

    path,split,label        label: a class (single-label), or several as `cat|dog` or `cat;dog` (multi-label)
    path,split,cat,dog      0 and 1: multi-label; -1 (uncertain) and blank count as 0
    path                    unlabelled

    .csv, .tsv              with a header, separated by commas or tabs, or otherwise (`hpt.data.table_text`); the order
                            of the columns is free
    .txt, .list             without a header: `path` or `path,label` on each line

The column of paths may also be called image, file or filename, or one of the names that published lists have
(`table_lines.IDS`), that of labels labels, class or target; in any case. `table_splits` has what else may say the
split: a column set, subset or usage, or is_valid and is_test of 0 and 1.
Columns without a name, such as pandas' index, are left out, and so are those beside `label` that hold other than 0
and 1. A split whose labels are all blank is unlabelled. Without splits, `load` cuts them.

A path is relative to the list's folder, or absolute. An image below that folder has the name that `list_folder` of it
would give, however its path is written (`hpt.data.table_places`: also with backslashes, or without its ending), so that
a list beside class folders and the folder itself are one dataset with one fingerprint and one split. Any other image is
named as it is found: `../more/1.png`, or by its absolute path.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from hpt.data.folder import Folder
from hpt.data.folder_names import split_of
from hpt.data.left_out import counted, tell
from hpt.data.listing import Labels, Listing, Note, Split
from hpt.data.table_labels import labels_from_marks, labels_from_names
from hpt.data.table_lines import TableLines, read_lines
from hpt.errors import DataError


def list_table(path: Path) -> Listing:
    """The images that a list names, whether they exist or not.

    A million lines of 14 classes take about 8 s and 0.5 GiB.

    Raises:
        DataError: the list is not text in Unicode or has no column of paths, an image is listed twice, or a line, a
            split or a label is not clear.
    """
    table = read_lines(path)
    splits = _splits(table)
    labels: Labels = np.full(len(table.names), -1, dtype=np.int64)
    classes: tuple[str, ...] = ()
    if table.columns.label is not None:
        labels, classes = labels_from_names(table, np.array(splits))
    elif table.columns.classes:
        labels, classes = labels_from_marks(table, np.array(splits))
    if not table.splits:
        _warn_of_folders(table)
    tell(path.name, table.notes)
    order = sorted(range(len(table.names)), key=table.names.__getitem__)
    return Listing(
        source=Folder(path.parent.resolve()),
        names=tuple(table.names[i] for i in order),
        splits=tuple(splits[i] for i in order),
        labels=labels[order],
        classes=classes,
        notes=tuple(table.notes),
    )


def _warn_of_folders(table: TableLines) -> None:
    """Say that images become training images that lie in folders called test, where no column says the split."""
    folders = Counter(name.rpartition("/")[0] for name in table.names)
    held_out = {folder for folder in folders if {"val", "test"} & {split_of(part) for part in folder.split("/")}}
    if held_out and len(held_out) < len(folders):
        many = counted(sum(folders[folder] for folder in held_out), "image")
        text = f"{many} in folders such as {min(held_out)} are read as training images, since no column says the split"
        table.notes.append(Note(text))


def _splits(table: TableLines) -> list[Split]:
    given = [split for split in table.splits if split is not None]
    if not given:
        return ["train"] * len(table.names)
    if len(given) < len(table.names):
        row = table.splits.index(None)
        raise DataError(
            f"{table.at(row)}: {table.names[row]} is in no split, although others are",
            "fill it in, or remove the column so that the splits are cut",
        )
    if "train" not in given:
        raise DataError(
            f"{table.path} has the splits {', '.join(sorted(set(given)))} but no train", "name one of them train"
        )
    return given
