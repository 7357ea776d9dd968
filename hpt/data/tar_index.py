"""Where the members of a tar lie, found by its headers alone, and what of them is one image and its label.

A WebDataset shard is a tar whose members belong together where their names are the same up to the first dot:

    0001.jpg  0001.cls         an image and the number or the name of its class
    0002.jpg  0002.json        ... or an object with a key `label` (or what `data.label_column` names), or `labels`
    0003.jpg  0003.txt         ... or a text, which may as well be a caption

An index takes as long as the headers take: of a file on a disk the rest is never read. It is kept in the cache until
the shard changes; one that `hptctl datasets pack` wrote lies beside its shard.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hpt.data.file_kinds import ARRAYS, EXTENSIONS
from hpt.data.folder_names import hidden
from hpt.data.remote import Files, RemoteFiles, StoredFile
from hpt.errors import DataError
from hpt.files import write_text
from hpt.user_folders import cache_folder

log = logging.getLogger("hpt.data")

VERSION = 1
"""The version of the index: raise it when the same shard comes to another one."""
BLOCK = 512
"""A tar is made of blocks of so many bytes."""
NEAR, FAR = 1 << 14, 1 << 21
"""Bytes that are read at once, from a disk, which is asked again at no cost, and from a host."""
LARGEST_LABEL = 1 << 20
"""The most bytes of a member that may be a label."""
LABEL_KEYS = ("label", "labels", "class", "cls", "target", "category")
"""What a key of a `.json` member is called that holds the class."""
NAME_KEY = "packed_from"
"""The key of a `.json` member that holds an image's name in the dataset that was packed, where its key says another."""
LABELS = ("cls", "json", "txt")
"""The endings of members that hold a label, the surest first."""
AGAIN = "copy or download it again"


class Member(NamedTuple):
    """A file in a tar."""

    name: str
    start: int
    """Where its bytes begin."""
    size: int


@dataclass
class ShardIndex:
    """The images of one shard, in the order in which they lie there."""

    names: list[str] = field(default_factory=list)
    """The key and the ending of each image: `cats/0001.jpg`."""
    starts: list[int] = field(default_factory=list)
    """Where its bytes begin."""
    sizes: list[int] = field(default_factory=list)
    """How many they are."""
    labels: dict[str, list[Any]] = field(default_factory=dict)
    """By the ending of the members that hold it, the label of each image: a text, a number, or several; None: none."""
    digests: list[str] | None = None
    """A digest of the bytes of each image, in hexadecimal digits, where a pack has recorded it."""
    left_out: dict[str, int] = field(default_factory=dict)
    """How many members are neither an image nor a label, by their ending."""

    def to_json(self, size: int) -> str:
        """As it is kept; `size` is that of the shard in bytes."""
        return json.dumps({"version": VERSION, "bytes": size} | vars(self), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: bytes, size: int) -> ShardIndex:
        """What was kept.

        Raises:
            ValueError: it is none, or of another shard. KeyError, TypeError: likewise.
        """
        facts = json.loads(text)
        if facts.pop("version") != VERSION or facts.pop("bytes") != size:
            raise ValueError("the index is of another shard")
        index = cls(**facts)
        columns = [index.starts, index.sizes, *index.labels.values(), *([index.digests] if index.digests else [])]
        if any(len(column) != len(index.names) for column in columns):
            raise ValueError("the index is incomplete")
        return index


def index_name(shard: str) -> str:
    """The file beside a shard that holds its index: `train-000000.index.json` of `train-000000.tar`."""
    return f"{shard.removesuffix('.tar')}.index.json"


def index_of(files: Files, shard: StoredFile, beside: bool, label_key: str | None) -> ShardIndex:
    """The index of a shard: the one beside it, or that of the cache, or a new one.

    Args:
        beside: whether a file of its `index_name` lies there.
        label_key: the key of `.json` members that holds the label; None: one of `LABEL_KEYS`.

    Raises:
        DataError: the shard is torn, packed, or no tar, or cannot be read.
    """
    if beside and label_key is None:
        name = index_name(shard.name)
        with suppress(DataError, ValueError, KeyError, TypeError):
            (file,) = files.named([name])
            return ShardIndex.from_json(files.read(name, 0, file.size), shard.size)
        log.warning("%s is not the index of its shard, which is read instead", files.said(name))
    digest = hashlib.sha256(f"{VERSION} {files.said(shard.name)}\0{shard.stamp}\0{label_key}".encode()).hexdigest()
    kept = cache_folder() / "listings" / "shards" / f"{digest[:32]}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        return ShardIndex.from_json(kept.read_bytes(), shard.size)
    index = read_index(files, shard, label_key)
    with suppress(OSError):  # a cache that may not be written to
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_text(kept, index.to_json(shard.size))
    return index


def read_index(files: Files, shard: StoredFile, label_key: str | None = None) -> ShardIndex:
    """The index of a shard, from its headers.

    Raises:
        DataError: as `index_of`.
    """
    window = _Window(files, shard)
    samples: dict[str, dict[str, Member | Any]] = {}
    left_out: Counter[str] = Counter()
    for member in members(window):
        key, ending = split_name(member.name)
        kind = ending.lower()
        if hidden(member.name) or not ending:
            left_out[f".{kind}" if kind else "without extension"] += 1
        elif is_image(kind):
            samples.setdefault(key, {})[ending] = member
        elif kind in LABELS and member.size <= LARGEST_LABEL:
            data = window.read(member.start, member.size)
            said = f"{files.said(shard.name)}: {member.name}"
            samples.setdefault(key, {})[kind] = _label(data, kind, label_key, said)
        else:
            left_out[f".{kind}"] += 1
    return _indexed(samples, left_out)


def _indexed(samples: dict[str, dict[str, Any]], left_out: Counter[str]) -> ShardIndex:
    """The index of samples, of each of which the image is taken whose ending most of them have."""
    often = Counter(ending for its in samples.values() for ending in its if ending not in LABELS)
    index, found = ShardIndex(), dict[str, list[Any]]()
    for key, its in samples.items():
        images = sorted((e for e in its if e not in LABELS), key=lambda e: (f".{e}" in ARRAYS, -often[e], e))
        if not images:
            left_out.update(f".{ending}" for ending in its)
            continue
        left_out.update(f".{ending.lower()} of the same key" for ending in images[1:])
        member = its[images[0]]
        json_label = its.get("json")
        name = f"{key}.{images[0]}"
        if isinstance(json_label, _Json):
            name = json_label.name or name
        index.names.append(name)
        index.starts.append(member.start)
        index.sizes.append(member.size)
        for kind in LABELS:
            label = its.get(kind)
            label = label.label if isinstance(label, _Json) else label
            found.setdefault(kind, []).append(label)
    index.labels = {kind: labels for kind, labels in found.items() if any(label is not None for label in labels)}
    index.left_out = dict(left_out)
    return index


def split_name(name: str) -> tuple[str, str]:
    """The key of a member, up to the first dot of its file's name, and the ending behind it: `a.b/c`, `seg.png` of
    `a.b/c.seg.png`."""
    folder, slash, file = name.removeprefix("./").rpartition("/")
    key, _, ending = file.partition(".")
    return f"{folder}{slash}{key}", ending


def is_image(ending: str) -> bool:
    """Whether a member with this ending, in small letters, is an image; `seg.png` is something beside one."""
    return f".{ending}" in EXTENSIONS or ending == "nii.gz"


class _Json(NamedTuple):
    """What matters of a `.json` member."""

    label: Any
    name: str


def _label(data: bytes, kind: str, key: str | None, said: str) -> Any:
    """The label that a member holds: text, a number, or several; None where it holds none."""
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise DataError(f"{said} is no text in UTF-8", "write labels as text") from None
    if kind != "json":
        return int(text) if text.removeprefix("-").isdecimal() else text or None
    try:
        found = json.loads(text)
    except ValueError as error:
        raise DataError(f"{said} is no JSON: {error}", "write it again") from None
    if not isinstance(found, dict):
        return found if isinstance(found, int | str) and not isinstance(found, bool) else None
    keys = [key] if key else [each for each in LABEL_KEYS if each in found]
    label = next((found.get(each) for each in keys), None)
    usable = isinstance(label, int | str) or (isinstance(label, list) and all(isinstance(e, int | str) for e in label))
    return _Json(label if usable else None, str(found.get(NAME_KEY, "")))


class _Window:
    """The bytes of a shard, read a piece at a time."""

    def __init__(self, files: Files, shard: StoredFile) -> None:
        self.files, self.shard = files, shard
        self.said, self.size = files.said(shard.name), shard.size
        self._start, self._data = 0, b""
        self._piece = FAR if isinstance(files, RemoteFiles) else NEAR

    def read(self, start: int, size: int) -> bytes:
        """So many bytes; fewer where the file ends."""
        end = min(start + size, self.size)
        if not (self._start <= start and end <= self._start + len(self._data)):
            length = min(max(size, self._piece), self.size - start)
            self._start, self._data = start, self.files.read(self.shard.name, start, length) if length > 0 else b""
        return self._data[start - self._start : end - self._start]


def members(window: _Window) -> Iterator[Member]:
    """The regular files of a tar.

    Raises:
        DataError: it is torn, packed, or no tar.
    """
    at, long_name, long_size = 0, "", -1
    while True:
        header = window.read(at, BLOCK)
        if len(header) < BLOCK:
            raise DataError(f"{window.said} is torn: it ends at byte {window.size:,} without a tar's end mark", AGAIN)
        if not any(header):
            return
        size = _checked_size(header, window.said, at)
        kind, start = header[156:157], at + BLOCK
        if start + (size if kind in b"\x000xLg7K" else 0) > window.size:
            raise DataError(
                f"{window.said} is torn: a member of {size:,} bytes begins at byte {start:,} of {window.size:,}", AGAIN
            )
        if kind == b"L":  # GNU: the name of the next member
            long_name = window.read(start, size).rstrip(b"\0").decode("utf-8", "surrogateescape")
        elif kind == b"x":  # POSIX: what the next header has no room for
            records = _records(window.read(start, size))
            long_name = records.get("path", long_name)
            long_size = int(records.get("size", -1))
        elif kind in (b"\0", b"0", b"7"):
            size = long_size if long_size >= 0 else size
            name = long_name or _name(header)
            if start + size > window.size:
                raise DataError(f"{window.said} is torn: its member {name} ends after the file", AGAIN)
            if not name.endswith("/"):
                yield Member(name, start, size)
            long_name, long_size = "", -1
        elif kind in b"123456":  # links, devices and folders, which have no bytes
            size, long_name, long_size = 0, "", -1
        at = start + -(-size // BLOCK) * BLOCK


def _checked_size(header: bytes, said: str, at: int) -> int:
    """The size that a header says, whose checksum is right."""
    told = _number(header[148:156])
    if told != sum(header[:148]) + 8 * 32 + sum(header[156:BLOCK]):
        if at:
            raise DataError(f"{said} is damaged: byte {at:,} begins no member", AGAIN)
        if header[:2] == b"\x1f\x8b" or header[:4] == b"\x28\xb5\x2f\xfd":
            raise DataError(f"{said} is compressed, so that nothing in it can be found", "unpack it: gunzip, zstd -d")
        raise DataError(f"{said} is no tar", AGAIN)
    return _number(header[124:136])


def _number(field: bytes) -> int:
    """Octal digits, or GNU's binary numbers; -1 for anything else."""
    if field[0] in (0o200, 0o377):
        return int.from_bytes(field[1:], "big")
    with suppress(ValueError):
        return int(field.split(b"\0", 1)[0].strip() or b"0", 8)
    return -1


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "surrogateescape")


def _records(data: bytes) -> dict[str, str]:
    """The records `LENGTH KEY=VALUE` of a POSIX header."""
    found, at = {}, 0
    while at < len(data) and (space := data.find(b" ", at)) > 0:
        length = int(data[at:space]) if data[at:space].isdigit() else 0
        if length <= 0:
            break
        key, _, value = data[space + 1 : at + length - 1].partition(b"=")
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        at += length
    return found
