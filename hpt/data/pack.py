"""Packing a dataset into WebDataset shards, here or behind an address.

    <out>/dataset.json               the classes, the shards, and whether they are all there
    <out>/train-000000.tar           images as their files are, and labels: `cats/1.jpg`, `cats/1.cls`
    <out>/train-000000.index.json    where each image lies in it, and a digest of it (`hpt.data.tar_index`)

The same files come to the same bytes. A shard is written under another name and renamed, its index after it, and
`dataset.json` says last that the pack is whole: one that was stopped is refused by who would read it, and the same
command goes on behind the last whole shard.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from PIL import Image

from hpt.callbacks import Progress
from hpt.config import DataConfig
from hpt.data import dataset, quarantine
from hpt.data.file_kinds import kind_of, suffixes
from hpt.data.listing import SPLITS, Listing, unlabelled
from hpt.data.names import list_images
from hpt.data.packed import FACTS
from hpt.data.reading import reading
from hpt.data.remote import Address, LocalFiles, Place, RemoteFiles
from hpt.data.row import CatalogRow, Found
from hpt.data.tar_index import BLOCK, NAME_KEY, ShardIndex, index_name, is_image
from hpt.errors import DataError
from hpt.files import replacing, write_text

log = logging.getLogger("hpt.data")

MADE_FROM = ".made-from.json"
"""The file that says what each shard was made from, so that the same command writes none anew that is whole."""
OURS = re.compile(r"(train|val|test|images)-\d{6}\.(tar|index\.json)")
WHOLE = "images"
"""What the shards of a dataset are called that is cut into splits by who reads it."""
NAMED = 3
"""Images that are left out and named as they come; all are counted."""


@dataclass(frozen=True)
class Packed:
    """What was written."""

    images: dict[str, int]
    """The number of images by what their shards' names begin with: a split, or `images` where none is told."""
    shards: tuple[str, ...]
    """The shards, all of them."""
    bytes: int
    """Their size."""
    kept: int
    """The number of shards that an earlier attempt had written."""
    left_out: tuple[tuple[str, str], ...]
    """The name of each image that could not be read, and why."""
    renamed: int
    """The number of images whose members are called otherwise: a dot in a name would end its key."""
    quarantine: Path | None
    """The dataset's quarantine list, where it could not be copied beside the pack."""


def pack(found: Found, out: Place, config: DataConfig, *, shard_bytes: int, progress: Progress | None = None) -> Packed:
    """Write a dataset's images, labels and splits as shards of at most `shard_bytes` each, or of one larger image.

    The splits are those that the dataset brings. What it leaves to be cut is cut again by who reads the pack, in the
    same way; where groups, shares or boxes of the dataset have a say in it, the cut is written down.

    Raises:
        DataError: as `list_images`; something else lies in `out`, or it cannot be written; or too many images cannot
            be read.
    """
    listing = list_images(found, progress, config)
    target = _target(out)
    facts = {
        "format": "hptctl shards",
        "version": 1,
        "classes": list(listing.classes),
        "several": listing.labels.ndim == 2,
    }
    writer = _Writer(target, listing, shard_bytes, facts, target.begin(facts), progress)
    for name, rows in _parts(found, listing, config):
        writer.write(name, rows)
    bad, total = len(writer.left_out), len(listing.names)
    if bad > config.max_unreadable * total:
        name, reason = writer.left_out[0]
        raise DataError(
            f"{bad:,} of {total:,} images cannot be read, over the limit of {config.max_unreadable:.4g}: {name} "
            f"({reason})",
            "repair or remove them, or raise data.max_unreadable",
        )
    target.text(FACTS, _json(facts | {"complete": True, "shards": sorted(writer.sizes)}))
    target.prune({file for name in writer.sizes for file in (name, index_name(name))})
    return Packed(
        images=dict(writer.images),
        shards=tuple(sorted(writer.sizes)),
        bytes=sum(writer.sizes.values()),
        kept=writer.kept,
        left_out=tuple(writer.left_out),
        renamed=writer.renamed,
        quarantine=_copy_quarantine(found, out),
    )


def _parts(found: Found, listing: Listing, config: DataConfig) -> list[tuple[str, list[int]]]:
    """The rows of each split, in the order of their names; of all together where who reads the pack can cut them."""
    plain = listing.groups is None and not listing.annotated
    plain &= not (isinstance(found, CatalogRow) and found.shares)
    if plain and set(listing.splits) == {"train"}:
        return [(WHOLE, list(range(len(listing.names))))]
    if plain:
        given = np.array(listing.splits)
        cut = {str(split): np.flatnonzero(given == split) for split in SPLITS}
    else:
        cut = dataset.split(found, listing, np.arange(len(listing.names)), config.split_seed)
    return [(split, rows.tolist()) for split, rows in cut.items() if len(rows)]


def _copy_quarantine(found: Found, out: Place) -> Path | None:
    """Copy the dataset's quarantine list beside the pack; the list where it cannot be."""
    place = quarantine.place(found)
    reasons = quarantine.read(place)
    if reasons and not isinstance(out, Address):
        quarantine.write(out.with_name(f"{out.name}.quarantine.csv"), reasons)
        return None
    return place if reasons else None


# ---- writing


@dataclass
class _Shard:
    """A shard that is being written."""

    name: str
    file: IO[bytes]
    close: Callable[[], object]
    """Gives the file its place."""
    index: ShardIndex = field(default_factory=lambda: ShardIndex(digests=[]))
    labels: list[Any] = field(default_factory=list)


class _Writer:
    """Writes images, shard after shard."""

    def __init__(
        self,
        target: _Target,
        listing: Listing,
        most: int,
        facts: dict[str, Any],
        before: dict[str, tuple[ShardIndex, str, int]],
        progress: Progress | None,
    ) -> None:
        """`before` has the shards of an earlier attempt: the index, a digest of what it was made from, and the size."""
        self._target, self._listing, self._most, self._facts = target, listing, most, facts
        self._before, self._progress = before, progress
        self._keys = set[str]()
        self._made_from = dict[str, str]()
        labelled = len(listing.classes) > 0
        self._labelled = ~unlabelled(listing.labels) if labelled else np.zeros(len(listing.names), dtype=bool)
        self.images, self.sizes = Counter[str](), dict[str, int]()
        self.kept = self.renamed = 0
        self.left_out: list[tuple[str, str]] = []

    def write(self, part: str, rows: Sequence[int]) -> None:
        """The images of one split, behind those that an earlier attempt has written."""
        number = at = 0
        while done := self._there(f"{part}-{number:06d}.tar", rows[at:]):
            at, number = at + done, number + 1
        rows = rows[at:]
        some = replace(self._listing, names=tuple(self._listing.names[row] for row in rows))
        shard: _Shard | None = None
        try:
            with reading(some, bytes, self._said, what="packing") as images:
                for row, data in zip(rows, images, strict=True):
                    if isinstance(data, str):
                        self._leave_out(self._listing.names[row], data)
                        continue
                    key, ending = self._member(self._listing.names[row], data)
                    members = list(self._members(key, ending, row, data))
                    size = sum(2 * BLOCK + len(content) for _, content in members)
                    if shard is not None and shard.file.tell() + size + 2 * BLOCK > self._most:
                        self._close(shard)
                        shard = None
                    if shard is None:
                        name = f"{part}-{number:06d}.tar"
                        shard, number = _Shard(name, *self._target.shard(name)), number + 1
                    starts = [add(shard.file, member, content) for member, content in members]
                    shard.index.names.append(self._listing.names[row])
                    shard.index.starts.append(starts[0])
                    shard.index.sizes.append(len(data))
                    assert shard.index.digests is not None
                    shard.index.digests.append(hashlib.blake2b(data, digest_size=16).hexdigest())
                    shard.labels.append(self._label(row))
                    self._keys.add(key)
                    self.renamed += f"{key}.{ending}" != self._listing.names[row]
            if shard is not None:
                self._close(shard)
                shard = None
        finally:
            if shard is not None:
                shard.file.close()

    def _said(self, done: int, total: int, what: str) -> None:
        if self._progress is not None:
            self._progress(len(self._listing.names) - total + done, len(self._listing.names), what)

    def _close(self, shard: _Shard) -> None:
        shard.file.write(bytes(2 * BLOCK))
        size = shard.file.tell()
        shard.close()
        if any(label is not None for label in shard.labels):
            shard.index.labels = {"json" if self._listing.labels.ndim == 2 else "cls": shard.labels}
        self._target.text(index_name(shard.name), shard.index.to_json(size) + "\n")
        self._count(shard.name, len(shard.index.names), size, self._stamp(shard.index.names))
        self._target.text(MADE_FROM, _json(self._made_from))

    def _count(self, name: str, images: int, size: int, stamp: str) -> None:
        self.sizes[name], self._made_from[name] = size, stamp
        self.images[name.rpartition("-")[0]] += images

    def _stamp(self, names: Sequence[str]) -> str:
        """A digest of what a shard is made from, without reading it."""
        digest = hashlib.sha256(f"{self._most}\n".encode())
        for text in (*names, *self._listing.source.stamp(names)):
            digest.update(text.encode("utf-8", "surrogateescape") + b"\n")
        return digest.hexdigest()[:32]

    def _there(self, name: str, rows: Sequence[int]) -> int:
        """How many images an earlier attempt has put into a shard, those that could not be read included; 0 where it
        has to be written."""
        if name not in self._before:
            return 0
        index, stamp, size = self._before[name]
        taken, unreadable, seen = 0, list[str](), 0
        for row in rows:
            if taken == len(index.names):
                break
            image, seen = self._listing.names[row], seen + 1
            if image == index.names[taken]:
                taken += 1
            else:
                unreadable.append(image)
        if taken < len(index.names) or stamp != self._stamp(index.names):
            return 0
        for image in unreadable:
            self._leave_out(image, "left out by an earlier attempt")
        for image in index.names:
            self._keys.add(self._key(image))
        self.kept += 1
        self._count(name, taken, size, stamp)
        return seen

    def _leave_out(self, image: str, why: str) -> None:
        self.left_out.append((image, why))
        if len(self.left_out) <= NAMED:
            log.warning("%s cannot be read (%s) and is left out", image, why)

    def _label(self, row: int) -> Any:
        if not self._labelled[row]:
            return None
        if self._listing.labels.ndim == 1:
            return int(self._listing.labels[row])
        return [self._listing.classes[i] for i in np.flatnonzero(self._listing.labels[row] > 0)]

    def _members(self, key: str, ending: str, row: int, data: bytes) -> Iterator[tuple[str, bytes]]:
        yield f"{key}.{ending}", data
        label, facts = self._label(row), dict[str, Any]()
        if f"{key}.{ending}" != self._listing.names[row]:
            facts[NAME_KEY] = self._listing.names[row]
        if isinstance(label, int):
            yield f"{key}.cls", str(label).encode()
        elif label is not None:
            facts["labels"] = label
        if facts:
            yield f"{key}.json", json.dumps(facts, ensure_ascii=False).encode("utf-8", "surrogateescape")

    def _member(self, name: str, data: bytes) -> tuple[str, str]:
        """The key and the ending of an image's member."""
        return self._key(name), _parted(name)[1] or _ending(data)

    def _key(self, name: str) -> str:
        """The name of an image without its ending, and without dots, which would end the key; one of its own, since
        members of one key are one sample."""
        folder, slash, file = _parted(name)[0].rpartition("/")
        key = found = f"{folder}{slash}{file.replace('.', '_')}"
        number = 2
        while found in self._keys:
            found, number = f"{key}_{number}", number + 1
        return found


def _parted(name: str) -> tuple[str, str]:
    """The name of an image without its ending, and the ending; empty where it has none that images have."""
    name = name.lstrip("/")
    lower = name.lower()
    length = 6 if lower.endswith(".nii.gz") else len(name) - name.rfind(".") - 1
    ending = name[len(name) - length :] if "." in name else ""
    if not ending or not is_image(ending.lower()) or name[: -length - 1].endswith("/"):
        return name, ""
    return name[: -length - 1], ending


def _ending(data: bytes) -> str:
    """The ending of an image whose name has none, by its content."""
    kind = kind_of(data)
    if kind != "picture":
        return {"dicom": "dcm", "tiff": "tif", "array": "npy", "volume": "nii"}[kind]
    with suppress(Exception), Image.open(io.BytesIO(data)) as image:
        return suffixes(image.format or "")[0].removeprefix(".")
    return "jpg"


def add(file: IO[bytes], name: str, content: bytes) -> int:
    """Append a member, and return where its bytes begin."""
    facts = tarfile.TarInfo(name)
    facts.size, facts.mode = len(content), 0o644
    file.write(facts.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
    start = file.tell()
    file.write(content + bytes(-len(content) % BLOCK))
    return start


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


# ---- where to


class _Target(Protocol):
    """Where a pack is written."""

    def begin(self, facts: dict[str, Any]) -> dict[str, tuple[ShardIndex, str, int]]:
        """Make it ready; the index of each whole shard of an earlier attempt, what it was made from, and its size.

        Raises:
            DataError: something else lies there, or it cannot be written.
        """

    def shard(self, name: str) -> tuple[IO[bytes], Callable[[], object]]:
        """A new file, and what gives it its place once it is whole."""

    def text(self, name: str, text: str) -> None:
        """Write a small file, whole or not at all."""

    def prune(self, names: Collection[str]) -> None:
        """Remove the shards of another pack, and their indices: all but `names`."""


def _target(out: Place) -> _Target:
    if not isinstance(out, Address):
        return _Folder(out)
    if out.scheme in ("http", "https"):
        raise DataError(f"{out} cannot be written to", "pack into a folder, or to s3:// or gs://")
    return _Elsewhere(RemoteFiles(Address(out.url.rstrip("/") + "/")))


def _refuse(where: str, what: str) -> DataError:
    return DataError(f"{where} holds {what}", "name a new or an empty folder")


def _begun(
    names: Sequence[str], where: str, facts: dict[str, Any], read: Callable[[str], bytes], sizes: dict[str, int]
) -> dict[str, tuple[ShardIndex, str, int]]:
    """The whole shards of an earlier attempt at the same pack.

    Raises:
        DataError: something else lies there.
    """
    if FACTS not in names:
        if names:
            raise _refuse(where, f"other files, such as {min(names)}")
        return {}
    try:
        before = json.loads(read(FACTS))
        same = all(before[key] == value for key, value in facts.items())
    except (ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise _refuse(where, "another pack, or the same dataset with other classes")
    found = {}
    with suppress(ValueError, AttributeError, OSError, DataError):
        for name, stamp in json.loads(read(MADE_FROM)).items():
            with suppress(ValueError, KeyError, TypeError, OSError, DataError):
                found[name] = ShardIndex.from_json(read(index_name(name)), sizes[name]), str(stamp), sizes[name]
    return found


@dataclass(frozen=True)
class _Folder:
    """A folder of this machine."""

    path: Path

    def begin(self, facts: dict[str, Any]) -> dict[str, tuple[ShardIndex, str, int]]:
        with _writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        sizes = {file.name: file.size for file in LocalFiles(self.path).found("")}
        before = _begun([*sizes], str(self.path), facts, lambda name: (self.path / name).read_bytes(), sizes)
        for part in self.path.glob(".*.part"):  # of an attempt that was killed
            part.unlink(missing_ok=True)
        self.text(FACTS, _json(facts | {"complete": False, "shards": []}))
        return before

    def prune(self, names: Collection[str]) -> None:
        for path in self.path.iterdir():
            if OURS.fullmatch(path.name) and path.name not in names:
                path.unlink()

    def shard(self, name: str) -> tuple[IO[bytes], Callable[[], object]]:
        placing = replacing(self.path / name)
        with _writing(self.path):
            part = placing.__enter__()
            file = part.open("wb")

        def close() -> None:
            with _writing(self.path):
                file.close()
                placing.__exit__(None, None, None)

        return file, close

    def text(self, name: str, text: str) -> None:
        with _writing(self.path):
            write_text(self.path / name, text)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path} cannot be written ({error.strerror or error})", "free some space or choose another folder"
        ) from None


@dataclass(frozen=True)
class _Elsewhere:
    """A folder behind an address, whose host shows a file whole or not at all."""

    files: RemoteFiles

    def begin(self, facts: dict[str, Any]) -> dict[str, tuple[ShardIndex, str, int]]:
        sizes = {file.name: file.size for file in self.files.found("")}

        def read(name: str) -> bytes:
            (file,) = self.files.named([name])
            return self.files.read(name, 0, file.size)

        before = _begun([*sizes], self.files.said(), facts, read, sizes)
        self.text(FACTS, _json(facts | {"complete": False, "shards": []}))
        return before

    def prune(self, names: Collection[str]) -> None:
        for file in self.files.found(""):
            if OURS.fullmatch(file.name) and file.name not in names:
                self.files.remove(file.name)

    def shard(self, name: str) -> tuple[IO[bytes], Callable[[], object]]:
        file = tempfile.NamedTemporaryFile(prefix="hptctl-", suffix=".tar")  # noqa: SIM115  (its removal is its end)

        def close() -> None:
            file.flush()
            self.files.write(name, Path(file.name))
            file.close()

        return file, close

    def text(self, name: str, text: str) -> None:
        self.files.write(name, text.encode("utf-8", "surrogateescape"))
