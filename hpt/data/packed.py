"""Datasets that are packed into a few large files: WebDataset shards and tables, here or behind an address.

train-000000.tar  train-000001.tar  val-000000.tar       shards, the split by the name of the file
train/0000.tar    val/0000.tar                           ... or by that of its folder
data/train-00000-of-00002.parquet                        tables, likewise
train/data-00000-of-00001.arrow                          what `datasets.save_to_disk` wrote
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from hpt.callbacks import Progress
from hpt.config import DataConfig
from hpt.data import shards, tables
from hpt.data.file_kinds import EXTENSIONS
from hpt.data.folder_names import composed, read_split
from hpt.data.layout import Tree, read_layout
from hpt.data.left_out import tell
from hpt.data.listing import ImageSource, Labels, Listing, Split
from hpt.data.packed_images import PackedImages
from hpt.data.remote import Address, Files, LocalFiles, Place, address_of, files_of, is_pattern, path_of
from hpt.errors import DataError

SHARDS, TABLES = (".tar",), (".parquet", ".arrow")
"""What packed files end in."""
COMPRESSED = (".tgz", ".tar.gz", ".tar.zst", ".tar.xz", ".tar.bz2")
FACTS = "dataset.json"
"""The file that `hptctl datasets pack` writes beside its shards, the last of all."""
LOOKED_AT, DEEP = 256, 4
"""Files of a folder that are looked at, and how far down, to tell packed files from images."""
NAMED = 6
"""The files or columns that a message names."""


@dataclass(frozen=True)
class Facts:
    """What a pack says of itself."""

    classes: tuple[str, ...]
    """The names of the classes, by their numbers in `.cls` members."""
    several: bool
    """Whether an image has any number of classes."""
    shards: tuple[str, ...]
    """The shards that there are."""


def is_packed(place: Place) -> bool:
    """Whether a place is one of shards or tables."""
    if isinstance(place, Address):
        return True
    if place.is_dir():
        return _holds_packed(place)
    return place.suffix.lower() in SHARDS + TABLES and (place.is_file() or is_pattern(place.name))


def packed_place(text: str) -> Place | None:
    """The address, the files by a pattern, or the packed file, that a text names; None for anything else.

    Raises:
        DataError: a pattern that no file fits, or an address of other files.
    """
    if (address := address_of(text)) is not None:
        _refuse_others(address)
        return address
    path = path_of(text)
    is_ours = path.suffix.lower() in SHARDS + TABLES
    if is_ours and is_pattern(path.name) and not path.exists() and path.parent.is_dir():
        path = path.parent.resolve() / path.name
        _kind_of([file.name for file in LocalFiles(path.parent).found(path.name)], str(path))
        return path
    return path.resolve() if is_ours and path.is_file() else None


def _refuse_others(address: Address) -> None:
    """Refuse what is read on this machine alone."""
    suffix = PurePosixPath(address.parts[1]).suffix.lower()
    if suffix and suffix not in SHARDS + TABLES and not is_pattern(address.parts[1]):
        raise DataError(
            f"{address} is neither a shard (.tar) nor a table (.parquet), the only files that are read from afar",
            "download it and name it here; hptctl datasets pack makes shards of it",
        )


def _holds_packed(folder: Path) -> bool:
    """Whether a folder holds packed files and no images, by a look at some of its files."""
    packed, waiting = False, [(folder, 0)]
    for each, depth in waiting:
        try:
            with os.scandir(each) as entries:
                for number, entry in enumerate(entries):
                    if number >= LOOKED_AT:
                        break
                    suffix = PurePosixPath(entry.name.lower()).suffix
                    if entry.name.startswith("."):
                        continue
                    if suffix in EXTENSIONS:
                        return False
                    if suffix in SHARDS + TABLES:
                        packed = True
                    elif depth < DEEP and len(waiting) < LOOKED_AT and entry.is_dir():
                        waiting.append((Path(entry.path), depth + 1))
        except OSError:
            return False
    return packed


def list_packed(place: Place, config: DataConfig | None = None, progress: Progress | None = None) -> Listing:
    """The images of shards or tables, sorted by name.

    A million images take about 0.4 GiB of memory (README, "Data larger than a disk").

    Raises:
        DataError: there are none, files of both kinds, a shard is torn, a table has no column of images, the splits or
            the labels of some are missing, or the host cannot be read.
    """
    config = config or DataConfig()
    files, pattern = files_of(place)
    facts = _facts(files)
    kind: tuple[str, ...] = SHARDS
    if facts is not None and not pattern:
        chosen = files.named(facts.shards)
    else:
        found = files.found(pattern)
        kind = _kind_of([file.name for file in found], str(place))
        chosen = tuple(file for file in found if file.name.lower().endswith(kind))
    if kind == SHARDS:
        read = shards.read(files, chosen, config.label_column, facts is not None, progress)
    else:
        read = tables.read(files, chosen, config)
    splits = splits_of([file.name for file in chosen], str(place))
    listing = _listing(read, [splits[i] for i in read.file.tolist()], facts, str(place))
    tell(name_of_packed(place), listing.notes)
    return listing


def _kind_of(names: Sequence[str], place: str) -> tuple[str, ...]:
    """The endings of the packed files that lie there: shards or tables."""
    if not names:
        raise DataError(
            f"{place} holds no files", "check the path; in a bucket a folder is what files' names begin with"
        )
    shards = [name for name in names if name.lower().endswith(SHARDS)]
    tables = [name for name in names if name.lower().endswith(TABLES)]
    if shards and tables:
        raise DataError(
            f"{place} holds shards ({shards[0]}) and tables ({tables[0]})",
            "name one kind: its folder, or a pattern such as 'train-*.tar'",
        )
    if shards or tables:
        return SHARDS if shards else TABLES
    if packed := next((name for name in names if name.lower().endswith(COMPRESSED)), None):
        raise DataError(
            f"{place}: {packed} is compressed, so that no image in it can be read in place", "unpack the shards: gunzip"
        )
    endings = sorted({PurePosixPath(name).suffix or name for name in names})
    raise DataError(
        f"{place} holds neither shards (.tar) nor tables (.parquet), but {', '.join(endings[:NAMED])}",
        "from afar only those are read: hptctl datasets pack makes shards of a folder",
    )


def _facts(files: Files) -> Facts | None:
    """What a pack says of itself; None where no pack has written it.

    Raises:
        DataError: the pack is not finished.
    """
    try:
        (file,) = files.named([FACTS])
        facts = json.loads(files.read(FACTS, 0, file.size))
        complete, found = facts["complete"], Facts(tuple(facts["classes"]), facts["several"], tuple(facts["shards"]))
    except (DataError, ValueError, KeyError, TypeError):  # there is none, or somebody else's
        return None
    if not complete:
        raise DataError(f"{files.said()} was not packed to its end", "give the same hptctl datasets pack again")
    return found


def splits_of(names: Sequence[str], place: str) -> list[Split | None]:
    """The split of each file, by its name or else by the folders that it lies in; None for all where no name says one.

    Raises:
        DataError: only some names say one, or none says train.
    """
    found: list[Split | None] = []
    for name in names:
        *folders, file = name.split("/")
        parts = (file.partition(".")[0], *reversed(folders))
        found.append(next((said[0] for part in parts if (said := read_split(part)) is not None), None))
    told = {split for split in found if split is not None}
    if not told:
        return found
    if None in found:
        other = names[found.index(None)]
        raise DataError(
            f"in {place}, {names[found.index(next(iter(told)))]} is in {next(iter(told))} and {other} in no split",
            "name the split in each file, or in its folder: train-000000.tar, val/000000.tar",
        )
    if "train" not in told and len(told) > 1:
        raise DataError(f"{place} holds {', '.join(sorted(told))} but no train", "name the files of train, too")
    return found if "train" in told else [None] * len(found)  # one split alone is all there is


def _listing(read: PackedImages, splits: list[Split | None], facts: Facts | None, place: str) -> Listing:
    names, notes = read.names, list(read.notes)
    order = sorted(range(len(names)), key=names.__getitem__)
    if twice := next((names[a] for a, b in pairwise(order) if names[a] == names[b]), None):
        raise DataError(f"{place} holds {twice} twice", "give each image a key of its own")
    by_name = tuple(names[i] for i in order)
    source: ImageSource = read.source(by_name, np.array(order, dtype=np.int64))
    classes = facts.classes if facts is not None else read.classes
    if read.labels is None and read.by_names and not any(splits) and any("/" in name for name in names):
        layout = read_layout(_tree(by_name), Path(place), in_archive=True)
        below = {f"{layout.prefix}{name}": found for name, found in layout.images.items()}
        return Listing.single_label(source, below, notes=(*notes, *layout.notes))
    given = tuple(splits[i] or "train" for i in order)
    raw = [None] * len(order) if read.labels is None else [read.labels[i] for i in order]
    labels, classes = number_labels(raw, classes, several=facts is not None and facts.several)
    _refuse_some(by_name, given, labels, place)
    return Listing(source, by_name, given, labels, classes, notes=tuple(notes))


def _tree(names: Sequence[str]) -> Tree:
    folders = {name.rpartition("/")[0] for name in names} - {""}
    above = {folder[:at] for folder in folders for at, letter in enumerate(folder) if letter == "/"}
    return Tree(list(names), folders | above)


def number_labels(
    raw: Sequence[Any], names: tuple[str, ...] = (), *, several: bool = False
) -> tuple[Labels, tuple[str, ...]]:
    """Labels as numbers, and the names of their classes.

    Args:
        raw: texts, numbers of `names` (or of nothing, whose digits then are the name), lists of either where an image
            has several, or None.
        names: the names that numbers stand for.
        several: whether an image may have several, though none has.

    Raises:
        DataError: a number that no class has.
    """
    several = several or any(isinstance(label, list) for label in raw)
    each = [label if isinstance(label, list) else [] if label is None else [label] for label in raw]
    occurring = {one for its in each for one in its}
    if not names and occurring:
        if all(isinstance(one, int) for one in occurring):
            numbers = sorted(one for one in occurring if several or one >= 0)
            names, number = tuple(map(str, numbers)), {one: i for i, one in enumerate(numbers)}
        else:
            texts = {one: composed(str(one)) for one in occurring}
            names = tuple(sorted(set(texts.values())))
            place = {name: i for i, name in enumerate(names)}
            number = {one: place[text] for one, text in texts.items()}
    else:
        number = {i: i for i in range(len(names))} | {name: i for i, name in enumerate(names)}
        if wrong := [one for one in occurring if one not in number and one != -1]:
            raise DataError(
                f"a label is {wrong[0]!r}, and the classes are {len(names)}, counted from 0",
                "correct the labels, or the list of classes",
            )
    if several:
        many = np.zeros((len(raw), len(names)), dtype=np.float32)
        for row, (label, its) in enumerate(zip(raw, each, strict=True)):
            many[row] = np.nan if label is None else 0
            many[row, [number[one] for one in its]] = 1
        return many, names
    # A Hugging Face test set without labels has -1 in their place.
    return np.array([number.get(its[0], -1) if its else -1 for its in each], dtype=np.int64), names


def _refuse_some(names: Sequence[str], splits: Sequence[Split], labels: Labels, place: str) -> None:
    """Refuse a split of which only some images have labels."""
    none = (labels if labels.ndim == 1 else np.where(np.isnan(labels[:, 0]), -1, 0)) < 0 if labels.size else None
    if none is None or not none.any() or none.all():
        return
    for split in sorted(set(splits)):
        mine = [i for i, each in enumerate(splits) if each == split]
        without = [i for i in mine if none[i]]
        if without and len(without) < len(mine):
            raise DataError(
                f"in {place}, {len(mine) - len(without):,} of the {len(mine):,} {split} images have labels, and "
                f"{names[without[0]]} has none",
                "label all of a split, or none",
            )


def name_of_packed(place: Place) -> str:
    """What shards or tables are called in names and tables: their folder, or the one file."""
    if isinstance(place, Address):
        return place.name
    if place.is_dir():
        return place.name
    return place.stem if place.is_file() else place.parent.name
