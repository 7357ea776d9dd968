"""The text of a list of images: its encoding, what separates its cells, and its rows.

encoding        UTF-8, with a byte-order mark or without; UTF-16, as Excel's "Unicode text" is; nothing else, since
                the bytes of a code page do not tell which one it is
separator       that of the file's ending; or else the one by which its header has a column of paths, or by which
                the first line of a list without a header is a path and a label
"""

from __future__ import annotations

import codecs
import csv
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path

from hpt.data.file_kinds import EXTENSIONS
from hpt.errors import DataError

log = logging.getLogger("hpt.data")

DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": ",", ".list": ","}
HEADERLESS = frozenset({".txt", ".list"})
NAMES = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars", " ": "spaces"}
"""What may separate cells."""
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, which it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SPACED = re.compile(rf"(.*?(?:{'|'.join(map(re.escape, sorted(EXTENSIONS)))}))\s+(\S.*)", re.IGNORECASE)
"""A path, which may hold spaces, and a label."""

Row = tuple[int, list[str]]
"""The number of a line, and its cells."""


def rows(path: Path, has_paths: Callable[[list[str]], bool]) -> Iterator[Row]:
    """The number and the cells of each line that is not blank.

    Args:
        has_paths: whether a header has a column of paths.

    Raises:
        DataError: the file cannot be read, or is no text in a known encoding, or its quotes are not paired.
    """
    done = 0
    encoding = _encoding(path)
    try:
        with path.open(encoding=encoding, newline="") as file:
            lines = _text(file, path)
            # Until the first line that is not blank, which tells the separator; the reader counts those before it too.
            first: list[str] = []
            for line in lines:
                first.append(line)
                if line.strip():
                    break
            given = re.fullmatch(r'"?sep=(.)"?\s*', first[-1]) if first else None  # Excel's own first line
            if given:
                first[-1] = "\n"
            elif path.suffix.lower() in HEADERLESS and first and _spaced(first[-1]):
                yield from _by_spaces(chain(first, lines), path)
                return
            delimiter = given[1] if given else _delimiter(first[-1] if first else "", path, has_paths)
            if delimiter != DELIMITERS[path.suffix.lower()]:
                log.info("%s is separated by %s", path.name, NAMES.get(delimiter, f"'{delimiter}'"))
            reader = csv.reader(chain(first, lines), delimiter=delimiter, skipinitialspace=True, strict=True)
            for cells in reader:
                done = reader.line_num
                if any(cells):
                    yield done, cells
    except UnicodeError:
        raise _not_utf8(path, encoding) from None
    except (csv.Error, TypeError) as error:
        raise DataError(f"{path}, line {done + 1}: {error}", "check the quotes that begin there") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def _encoding(path: Path) -> str:
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    zeros = bytes(byte == 0 for byte in head)
    return {b"\0\1\0\1": "utf-16-le", b"\1\0\1\0": "utf-16-be"}.get(zeros, "utf-8-sig")


def _text(lines: Iterable[str], path: Path) -> Iterator[str]:
    for line in lines:
        if "\0" in line:
            raise DataError(f"{path} is not a text file", "save it as UTF-8 text")
        yield line


def _delimiter(first: str, path: Path, has_paths: Callable[[list[str]], bool]) -> str:
    """The separator by which a first line makes sense; that of the file's ending where none does."""
    usual = DELIMITERS[path.suffix.lower()]
    headerless = path.suffix.lower() in HEADERLESS
    for delimiter in dict.fromkeys((usual, *NAMES)):
        try:
            cells = next(csv.reader([first], delimiter=delimiter, skipinitialspace=True, strict=True), [])
        except csv.Error:
            continue
        if headerless and delimiter != " " and (len(cells) > 1 or _is_image(cells[0] if cells else "")):
            return delimiter
        if not headerless and has_paths([cell.strip() for cell in cells]):
            return delimiter
    return usual


def _is_image(text: str) -> bool:
    return Path(text).suffix.lower() in EXTENSIONS


def _spaced(line: str) -> list[str]:
    """The path and the label on a line that spaces separate; none where it is not such a line."""
    line = line.strip()
    if _is_image(line) or any(mark in line for mark in (*NAMES, '"') if mark != " "):
        return []
    found = _SPACED.fullmatch(line)
    cells = [found[1], found[2]] if found else line.split()
    return cells if len(cells) == 2 else []


def _by_spaces(lines: Iterable[str], path: Path) -> Iterator[Row]:
    log.info("%s is separated by spaces", path.name)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        cells = _spaced(line)
        if cells and re.fullmatch(r"-?\d+(\s+-?\d+)+", cells[1]):
            raise DataError(
                f"{path}, line {number}: {len(cells[1].split())} numbers behind {cells[0]}",
                "several classes need a .csv with a header: path, and a column of 0 and 1 for each class",
            )
        yield number, cells or [line.strip()]


def _not_utf8(path: Path, encoding: str) -> DataError:
    """Which line is not text, and how it would read in the code page that most such files have."""
    if encoding != "utf-8-sig":
        return DataError(f"{path} begins as {encoding.upper()} and does not go on so", "save it as UTF-8")
    with path.open("rb") as file:
        number, shown = next(_undecodable(file), (1, ""))
    return DataError(
        f"{path}, line {number} is not UTF-8 (as Windows-1252 it reads '{shown}')",
        f"save it as UTF-8: iconv -f WINDOWS-1252 -t UTF-8 {path.name}",
    )


def _undecodable(lines: Iterable[bytes]) -> Iterator[tuple[int, str]]:
    """The number of each line that is not UTF-8, and what stands around the place in Windows' code page 1252."""
    for number, line in enumerate(lines, start=1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            around = line[max(0, error.start - 40) : error.start + 40].decode("cp1252", errors="replace")
            yield number, "".join(character for character in around.strip() if character.isprintable())
