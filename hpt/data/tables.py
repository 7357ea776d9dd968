"""Tables of images: parquet files, and Arrow files as Hugging Face's `datasets` saves them.

An image is a binary cell, or `{bytes, path}` as `datasets` has it; its name is that of the file and its row. Row groups
are what is read at once: a reader keeps a few of them, and no more.
"""

from __future__ import annotations

import json
import logging
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from hpt import cores
from hpt.config import DataConfig
from hpt.data.file_kinds import EXTENSIONS
from hpt.data.listing import Note, Read, Unreadable
from hpt.data.packed_images import PackedImages, Placed, ReadMany
from hpt.data.reading import CHUNK
from hpt.data.remote import Files, LocalFiles, StoredFile, in_parallel
from hpt.data.table_lines import LABEL, some
from hpt.errors import DataError, did_you_mean

log = logging.getLogger("hpt.data")

KEPT = 3
"""The row groups that a reader keeps, or more where they are so short that its threads are at more of them."""
IMAGE_NAMES = ("image", "img", "images", "jpg", "png", "picture", "pixel_values", "bytes")
"""What a column of binary cells is called that holds the images, where several do."""
LABEL_NAMES = (*LABEL, "cls", "category", "fine_label")
LARGE_GROUP = 1 << 30
"""A row group of so many bytes is warned of."""


@dataclass(frozen=True)
class _Columns:
    """What the columns of a table are."""

    image: str
    nested: bool
    """Whether a cell is `{bytes, path}`."""
    has_path: bool
    label: str | None
    classes: tuple[str, ...]


@dataclass
class _Table:
    """One file, opened for its structure alone."""

    files: Files
    stored: StoredFile
    rows: npt.NDArray[np.int64]
    """[groups] the rows of each row group."""
    bytes: npt.NDArray[np.int64]
    """[groups] its size in memory, about."""
    schema: Any
    metadata: Any = None
    """Parquet's footer, so that it is read once."""
    _batches: Any = field(default=None, repr=False)

    def group(self, number: int, columns: list[str]) -> Any:
        """A row group's columns, as an Arrow table."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._batches is not None:
            return pa.Table.from_batches([self._batches[number]]).select([each.split(".")[0] for each in columns])
        with _failures(self.files, self.stored):
            source = pa.PythonFile(_Seekable(self.files, self.stored), mode="r")
            return pq.ParquetFile(source, metadata=self.metadata).read_row_group(number, columns, use_threads=False)


def read(files: Files, tables: Sequence[StoredFile], config: DataConfig) -> PackedImages:
    """The images of tables, row by row.

    Raises:
        DataError: a file is damaged, the tables differ, or there is no column of images, or several.
    """

    def opened(stored: StoredFile) -> _Table:
        return _open(files, stored)

    found = list(in_parallel(files, opened, tables))
    columns = _columns(found[0], config, files.said(found[0].stored.name))
    for table in found[1:]:
        for column in (columns.image, columns.label):
            if column is not None and column not in table.schema.names:
                raise DataError(
                    f"{files.said(table.stored.name)} has no column '{column}', and {found[0].stored.name} has",
                    "name tables of one kind by a pattern",
                )
    largest = max((int(each) for table in found for each in table.bytes), default=0)
    if largest > LARGE_GROUP:
        log.warning(
            "%s has row groups of %.1f GiB, %d of which are held in memory", files.said(), largest / 2**30, KEPT
        )

    def cells(table: _Table) -> tuple[list[str], list[Any] | None]:
        return _cells(table, columns)

    names: list[str] = []
    labels: list[Any] | None = None if columns.label is None else []
    for own, its in in_parallel(files, cells, found):
        names += own
        if labels is not None:
            labels += its
    if not names:
        raise DataError(f"{files.said()} holds no rows", "check the files")
    counts = [int(table.rows.sum()) for table in found]
    which = np.repeat(np.arange(len(found)), counts).astype(np.int64)
    row = np.concatenate([np.arange(count, dtype=np.int64) for count in counts])

    def source(by_name: tuple[str, ...], order: npt.NDArray[np.int64]) -> Tables:
        return Tables(tuple(found), columns, files.parallel, by_name, which[order].astype(np.int32), row[order])

    others = [name for name in found[0].schema.names if name not in (columns.image, columns.label)]
    notes = (Note(f"columns not used: {some(others)}", doubtful=False),) if others else ()
    return PackedImages(names, which, labels, source, columns.classes, notes=notes)


def _cells(table: _Table, columns: _Columns) -> tuple[list[str], list[Any] | None]:
    """The names of a table's images, and their labels."""
    stem = str(PurePosixPath(table.stored.name).with_suffix(""))
    wanted = [f"{columns.image}.path"] if columns.has_path else []
    wanted += [columns.label] if columns.label is not None else []
    names: list[str] = []
    labels: list[Any] = []
    for number, rows in enumerate(table.rows.tolist()):
        suffixes = [""] * rows
        if wanted:
            group = table.group(number, wanted)
            if columns.has_path:
                paths = (cell.get("path") if cell else None for cell in group.column(columns.image).to_pylist())
                suffixes = [_suffix(path) for path in paths]
            if columns.label is not None:
                labels += group.column(columns.label).to_pylist()
        first = len(names)
        names += [f"{stem}/{first + i:08d}{suffix}" for i, suffix in enumerate(suffixes)]
    return names, labels


def _suffix(path: str | None) -> str:
    suffix = PurePosixPath(path or "").suffix.lower()
    return suffix if suffix in EXTENSIONS else ""


# ---- columns


def _columns(table: _Table, config: DataConfig, said: str) -> _Columns:
    import pyarrow as pa

    schema, features = table.schema, _features(table.schema)
    image = config.image_column
    if image is not None and image not in schema.names:
        raise DataError(
            f"{said} has no column '{image}'{did_you_mean(image, schema.names)}: {_shown(schema)}",
            "correct data.image_column",
        )
    if image is None:
        fitting = [name for name in schema.names if features.get(name, {}).get("_type") == "Image"]
        fitting = fitting or [name for name in schema.names if _holds_bytes(schema.field(name).type)]
        named = [name for name in IMAGE_NAMES if name in fitting]
        if not fitting:
            raise DataError(
                f"{said} has no column of images: {_shown(schema)}",
                "an image is a binary cell, or {bytes, path}; name the column by --set data.image_column=NAME",
            )
        if len(fitting) > 1 and not named:
            raise DataError(
                f"{said} has {len(fitting)} columns that may be the images: {some(fitting)}",
                f"name one, for example --set data.image_column={fitting[0]}",
            )
        image = named[0] if named else fitting[0]
    kind = schema.field(image).type
    if not _holds_bytes(kind):
        raise DataError(
            f"{said}: the column '{image}' holds no images but {kind}",
            "an image is a binary cell, or {bytes, path}; correct data.image_column",
        )
    nested = pa.types.is_struct(kind)
    has_path = nested and any(kind.field(i).name == "path" for i in range(kind.num_fields))
    label, classes = _label_column(schema, features, config.label_column, said)
    return _Columns(image, nested, has_path, label, classes)


def _label_column(
    schema: Any, features: dict[str, Any], asked: str | None, said: str
) -> tuple[str | None, tuple[str, ...]]:
    """The column of labels, None where there is none, and the names of the classes, where the file says them."""
    if asked is not None and asked not in schema.names:
        raise DataError(
            f"{said} has no column '{asked}'{did_you_mean(asked, schema.names)}: {_shown(schema)}",
            "correct data.label_column",
        )
    label = asked
    if label is None:
        fitting = [name for name in schema.names if _class_label(features.get(name)) is not None]
        fitting = fitting or [name for name in schema.names if name.lower() in LABEL_NAMES]
        named = [name for name in LABEL_NAMES[: len(LABEL)] if name in fitting]
        if len(fitting) > 1 and not named:
            raise DataError(
                f"{said} has {len(fitting)} columns that may be the labels: {some(fitting)}",
                f"name one, for example --set data.label_column={fitting[0]}",
            )
        label = named[0] if named else next(iter(fitting), None)
    if label is None:
        return None, ()
    kind = schema.field(label).type
    if not _is_label(kind):
        raise DataError(
            f"{said}: the column '{label}' holds no labels but {kind}",
            "a label is a whole number, a text, or a list of either; name another by data.label_column",
        )
    return label, _class_label(features.get(label)) or ()


def _class_label(feature: Any) -> tuple[str, ...] | None:
    """The names of the classes of a feature of `datasets`, of one label or of several; None for another."""
    if isinstance(feature, list) and len(feature) == 1:
        feature = feature[0]
    if not isinstance(feature, dict):
        return None
    if feature.get("_type") in ("Sequence", "List", "LargeList"):
        return _class_label(feature.get("feature"))
    names = feature.get("names")
    return tuple(map(str, names)) if feature.get("_type") == "ClassLabel" and isinstance(names, list) else None


def _features(schema: Any) -> dict[str, Any]:
    """What `datasets` has written about the columns."""
    with suppress(ValueError, KeyError, TypeError):
        features: dict[str, Any] = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return features
    return {}


def _holds_bytes(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(kind.field(i).name == "bytes" and _holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_label(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _is_label(kind.value_type)
    if pa.types.is_dictionary(kind):
        return _is_label(kind.value_type)
    return bool(pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _shown(schema: Any) -> str:
    return "its columns are " + ", ".join(f"{field.name} ({field.type})" for field in list(schema)[:8])


# ---- files


class _Seekable:
    """A file as pyarrow reads it: a range at a time, each tried again where it fails."""

    closed = False

    def __init__(self, files: Files, stored: StoredFile) -> None:
        self._files, self._stored, self._at = files, stored, 0

    def read(self, size: int = -1) -> bytes:
        left = self._stored.size - self._at
        size = left if size < 0 else min(size, left)
        data = self._files.read(self._stored.name, self._at, size) if size > 0 else b""
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._stored.size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def flush(self) -> None:
        pass


@contextmanager
def _failures(files: Files, stored: StoredFile) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowSerializationError, OSError) as error:
        text = " ".join(str(error).split())
        raise DataError(
            f"{files.said(stored.name)} is no whole table: {text}", "it may be truncated; copy or download it again"
        ) from None


def _open(files: Files, stored: StoredFile) -> _Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if stored.name.lower().endswith(".arrow"):
        return _open_arrow(files, stored)
    with _failures(files, stored):
        found = pq.ParquetFile(pa.PythonFile(_Seekable(files, stored), mode="r"))
        metadata = found.metadata
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    rows = np.array([group.num_rows for group in groups], dtype=np.int64)
    sizes = np.array([group.total_byte_size for group in groups], dtype=np.int64)
    return _Table(files, stored, rows, sizes, found.schema_arrow, metadata)


def _open_arrow(files: Files, stored: StoredFile) -> _Table:
    """An Arrow file, mapped: it has no footer, so that its batches are found by going through them."""
    import pyarrow as pa

    if not isinstance(files, LocalFiles):
        raise DataError(
            f"{files.said(stored.name)}: Arrow files are read on this machine alone",
            "download them, or save the dataset as parquet: dataset.to_parquet(...)",
        )
    with _failures(files, stored):
        mapped = pa.memory_map(str(Path(files.root) / stored.name))
        try:
            reader = pa.ipc.open_stream(mapped)
            batches = list(reader)
        except pa.ArrowInvalid:
            reader = pa.ipc.open_file(mapped)
            batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
    rows = np.array([batch.num_rows for batch in batches], dtype=np.int64)
    sizes = np.array([batch.nbytes for batch in batches], dtype=np.int64)
    return _Table(files, stored, rows, sizes, reader.schema, _batches=batches)


# ---- reading


@dataclass(frozen=True, eq=False)
class Tables:
    """A source of images by their names, in tables. It takes 12 bytes an image, and the names."""

    tables: tuple[_Table, ...]
    columns: _Columns
    parallel: int
    names: tuple[str, ...]
    """Sorted."""
    table: npt.NDArray[np.int32]
    """[N] the number of the table of each."""
    row: npt.NDArray[np.int64]
    """[N] its row there."""

    @property
    def digests(self) -> None:
        """Nothing is known of the images' files without reading them."""
        return None

    def rows(self, names: Iterable[str]) -> npt.NDArray[np.int64]:
        """The number of each name."""
        return np.array([bisect_left(self.names, name) for name in names], dtype=np.int64)

    def stamp(self, names: Iterable[str]) -> Iterator[str]:
        yield f"{self.columns.image} {self.columns.label}"
        for row in self.rows(names).tolist():
            yield f"{self.tables[self.table[row]].stored.stamp} {self.row[row]}"

    def placed(self, names: Sequence[str]) -> Placed:
        rows = self.rows(names)
        first = np.cumsum([0, *(len(table.rows) for table in self.tables)])
        chunk, size = np.zeros(len(rows), dtype=np.int64), np.zeros(len(rows), dtype=np.int64)
        for number, table in enumerate(self.tables):
            mine = np.flatnonzero(self.table[rows] == number)
            group = np.searchsorted(np.cumsum(table.rows), self.row[rows[mine]], side="right")
            chunk[mine] = first[number] + group
            size[mine] = (table.bytes // np.maximum(table.rows, 1))[group]
        return Placed(chunk, self.row[rows], size)

    @contextmanager
    def open(self) -> Iterator[Read]:
        groups = _Groups(self)

        def read(name: str) -> bytes:
            row = int(self.rows([name])[0])
            found = groups.cell(int(self.table[row]), int(self.row[row]))
            if isinstance(found, str):
                raise Unreadable(found)
            return found

        yield read

    @contextmanager
    def open_chunks(self) -> Iterator[ReadMany]:
        def read_many(names: Sequence[str]) -> list[bytes | str]:
            groups = _Groups(self)  # of its own: what is read is gone with it
            return [groups.cell(int(self.table[row]), int(self.row[row])) for row in self.rows(names).tolist()]

        yield read_many


class _Groups:
    """The row groups that were asked for last."""

    def __init__(self, source: Tables) -> None:
        self._source, self._lock = source, threading.Lock()
        self._kept: OrderedDict[tuple[int, int], Future[Any]] = OrderedDict()
        self._ends = [np.cumsum(table.rows) for table in source.tables]
        shortest = min((int(rows) for table in source.tables for rows in table.rows[:-1]), default=CHUNK)
        self._most = max(KEPT, 2 + 2 * cores.usable() * CHUNK // max(shortest, 1))

    def cell(self, table: int, row: int) -> bytes | str:
        """The bytes of an image, or why there are none."""
        group = int(np.searchsorted(self._ends[table], row, side="right"))
        cells = self._group(table, group)
        within = row - int(self._ends[table][group]) + int(self._source.tables[table].rows[group])
        cell = cells[within].as_py()
        path = ""
        if self._source.columns.nested and cell is not None:
            cell, path = cell.get("bytes"), cell.get("path") or ""
        if cell is None:
            return f"the table has the path {path} and no bytes" if path else "the cell is empty"
        data: bytes = cell
        return data

    def _group(self, table: int, group: int) -> Any:
        key = table, group
        with self._lock:
            mine = key not in self._kept
            if mine:
                self._kept[key] = Future()
                while len(self._kept) > self._most:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            future = self._kept[key]
        if mine:
            try:
                column = self._source.columns.image
                future.set_result(self._source.tables[table].group(group, [column]).column(column))
            except BaseException as error:
                future.set_exception(error)
        return future.result()
