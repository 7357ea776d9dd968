"""Files wherever they lie: below a folder of this machine, or behind an address that fsspec knows.

    /data/shards/                            a folder
    /data/shards/train-{000000..000099}.tar  files of a folder: braces name them, * and ? match
    s3://bucket/shards/                      the same behind an address: s3, gs, hf, https, ...
    https://host/train-{0..9}.tar            a web server lists nothing, so braces name the files

Reading is tried again with longer and longer pauses before it is given up: a disk of the network, a host or a
credential may be away for seconds. Of an object store a file is read a range at a time, never as a whole.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from hpt.errors import DataError

log = logging.getLogger("hpt.data")

T = TypeVar("T")

PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before the second attempt to read and those after it: half a minute in all."""
AT_ONCE = 16
"""Requests to a host at one time: one waits mostly for the way there and back."""
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
"""The extra of this program that reads a scheme."""
PACKAGES = {"http": "aiohttp", "https": "aiohttp", "hf": "huggingface_hub"}
"""And the packages that read others, which mostly are there."""
NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "RefreshError")
"""What the libraries of object stores raise where they find nobody to be."""
_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_FILE = re.compile(r"file://(localhost(?=/))?", re.IGNORECASE)
_SECRET = re.compile(r"signature|credential|token|secret|password|^sig$|access.?key", re.IGNORECASE)
_ENDING = re.compile(r"\.[a-zA-Z]\w{1,7}$")
_RANGE = re.compile(r"^(\d+)\.\.(\d+)$")
_BRACES = re.compile(r"\{([^{}]*)\}")
MOST_FILES = 1_000_000
"""The most files that braces may name."""


@dataclass(frozen=True)
class Address:
    """Where a dataset lies that no path leads to: a URL, whose last part may be a pattern of files."""

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def scheme(self) -> str:
        """The protocol in small letters, such as `s3`."""
        return self.url.partition("://")[0].lower()

    @property
    def name(self) -> str:
        """What the dataset is called in names and tables: the last folder, or a file without its suffix."""
        folder, pattern = self.parts
        last = pattern if pattern and not is_pattern(pattern) else folder.rstrip("/").rpartition("/")[2]
        return PurePosixPath(last).stem or self.scheme

    @property
    def parts(self) -> tuple[str, str]:
        """The folder, and the file or pattern in it; empty where the address is that of a folder."""
        start = self.url.index("://") + 3
        folder, slash, last = self.url[start:].rpartition("/")
        if slash and (is_pattern(last) or _ENDING.search(last)):  # v1.0 is a folder, and so is my.bucket
            return self.url[:start] + folder + slash, last
        return self.url, ""


Place = Path | Address
"""Where a dataset lies: a folder, a zip file, a list, files by a pattern; or an address."""


def address_of(text: str) -> Address | None:
    """The address that a text is; None for a path.

    Raises:
        DataError: it holds a password or a signature, which would be written into the runs that name it.
    """
    if (found := _SCHEME.match(text)) is None or found[1].lower() in ("file", "local"):
        return None
    parts = urlsplit(text)
    secret = parts.password is not None or any(_SECRET.search(key) for key, _ in parse_qsl(parts.query))
    if secret:
        plain = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
        raise DataError(
            f"the address {plain} came with a password or a signature, which would be written into the run's files",
            "leave it out: credentials come from the environment, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "from the store's own files, or for https from ~/.netrc",
        )
    return Address(text)


def path_of(text: str) -> Path:
    """The path on this machine that a text names: `~` is the home, `file:///my%20images` what RFC 8089 says.

    Raises:
        DataError: an address without a path, as an unset variable leaves it: an empty one is the folder one is in.
    """
    if (found := _FILE.match(text)) is None:
        return Path(text).expanduser()
    if not (path := unquote(text[found.end() :])):
        raise DataError(f"{text} names no path", "write for example file:///data/my-images")
    return Path(path).expanduser()


def is_pattern(text: str) -> bool:
    """Whether a text names several files: `*.tar`, `train-{000..099}.tar`."""
    return any(mark in text for mark in "*?[") or bool(_BRACES.search(text))


def expand(pattern: str) -> list[str]:
    """The names that braces stand for: `a-{00..02}` is a-00, a-01, a-02, and `{a,b}` is a, b.

    Raises:
        DataError: more than `MOST_FILES`, or a range that runs backwards.
    """
    parts = _BRACES.split(pattern)
    choices: list[list[str]] = []
    count = 1
    for number, part in enumerate(parts):
        if number % 2 == 0:
            choices.append([part])
            continue
        if (found := _RANGE.match(part)) is not None:
            first, last = int(found[1]), int(found[2])
            if last < first or last - first >= MOST_FILES:
                raise DataError(f"{{{part}}} in {pattern} is no range of files", "write for example {000000..000099}")
            choices.append([str(n).zfill(len(found[1])) for n in range(first, last + 1)])
        else:
            choices.append(part.split(","))
        count *= len(choices[-1])
    if count > MOST_FILES:
        raise DataError(f"{pattern} names {count:,} files", f"name at most {MOST_FILES:,}")
    return ["".join(chosen) for chosen in product(*choices)]


@dataclass(frozen=True)
class StoredFile:
    """A file of a dataset, as its folder or host lists it."""

    name: str
    """The name, relative to the folder, with slashes."""
    size: int
    """The size in bytes."""
    version: str
    """A text that changes when the content does: its time on a disk, an entity tag elsewhere."""

    @property
    def stamp(self) -> str:
        """A text that another content would hardly share."""
        return f"{self.size} {self.version}"


class Files(Protocol):
    """Files below one folder, here or elsewhere."""

    @property
    def parallel(self) -> int:
        """The number of reads that are worth having at one time."""

    def said(self, name: str = "") -> str:
        """How messages name a file, or the folder."""

    def found(self, pattern: str) -> tuple[StoredFile, ...]:
        """The files that a pattern names, sorted; all files below the folder where it is empty.

        Raises:
            DataError: one that is named is missing, or the folder or host cannot be read.
        """

    def named(self, names: Sequence[str]) -> tuple[StoredFile, ...]:
        """These files, in their order.

        Raises:
            DataError: as `found`.
        """

    def read(self, name: str, start: int, size: int) -> bytes:
        """So many bytes of a file. Several threads may call it.

        Raises:
            DataError: they could not be read, nor when it was tried again, or the file ends before them.
        """


def files_of(place: Place) -> tuple[Files, str]:
    """The files of a place, and the pattern of those that are meant."""
    if isinstance(place, Address):
        folder, pattern = place.parts
        return RemoteFiles(Address(folder)), pattern
    if place.is_dir():
        return LocalFiles(place), ""
    return LocalFiles(place.parent), place.name


def in_parallel(files: Files, work: Callable[[T], Any], items: Sequence[T]) -> Iterator[Any]:
    """What `work` makes of each item, in their order, as many at a time as the files bear."""
    if len(items) == 1 or files.parallel == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(min(files.parallel, len(items)), thread_name_prefix="files") as pool:
        try:
            yield from pool.map(work, items)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class LocalFiles:
    """Files below a folder of this machine."""

    root: Path
    parallel: int = 4

    def said(self, name: str = "") -> str:
        return str(self.root / name)

    def found(self, pattern: str) -> tuple[StoredFile, ...]:
        if pattern and not is_pattern(pattern):
            names = [pattern]
        elif pattern:
            names = list(_matching(pattern, (path.name for path in self.root.iterdir() if path.is_file()), self))
        else:
            names = list(self._below())
        return self.named(sorted(set(names)))

    def named(self, names: Sequence[str]) -> tuple[StoredFile, ...]:
        return tuple(map(self._stat, names))

    def _below(self) -> Iterator[str]:
        for folder, folders, names in os.walk(self.root, followlinks=True):
            folders[:] = sorted(each for each in folders if not each.startswith("."))
            for name in names:
                if not name.startswith("."):
                    yield (Path(folder) / name).relative_to(self.root).as_posix()

    def _stat(self, name: str) -> StoredFile:
        try:
            facts = (self.root / name).stat()
        except OSError as error:
            raise DataError(f"{self.said(name)} cannot be read: {error.strerror}", "check the path") from None
        return StoredFile(name, facts.st_size, str(facts.st_mtime_ns))

    def read(self, name: str, start: int, size: int) -> bytes:
        def attempt() -> bytes:
            with (self.root / name).open("rb", buffering=0) as file:
                file.seek(start)
                data = file.read(size)
                while len(data) < size and (more := file.read(size - len(data))):
                    data += more
                return data

        return _whole(attempt, self.said(name), size)


@dataclass(frozen=True, eq=False)
class RemoteFiles:
    """Files behind an address."""

    address: Address
    parallel: int = AT_ONCE
    _known: dict[str, Any] = field(default_factory=dict, repr=False)

    def said(self, name: str = "") -> str:
        return f"{self.address.url.rstrip('/')}/{name}" if name else self.address.url

    @cached_property
    def _system(self) -> Any:
        from fsspec.core import url_to_fs

        # aiohttp takes proxies and ~/.netrc from the environment where it is told to.
        options = {"client_kwargs": {"trust_env": True}} if self.address.scheme in ("http", "https") else {}
        try:
            return url_to_fs(self.address.url, **options)[0]
        except ImportError as error:
            raise _lacking(self.address, error) from None
        except ValueError as error:
            raise DataError(
                f"{self.address.url} cannot be read: {error}", "s3, gs, hf, http and https are known"
            ) from None

    @property
    def system(self) -> Any:
        """fsspec's file system."""
        return self._system

    def path(self, name: str) -> str:
        """A file as the file system calls it."""
        path: str = self.system._strip_protocol(self.address.url)
        return f"{path.rstrip('/')}/{name}" if name else path

    def found(self, pattern: str) -> tuple[StoredFile, ...]:
        if pattern and not any(mark in pattern for mark in "*?["):
            return self.named(sorted(set(expand(pattern))))
        if self.address.scheme in ("http", "https"):
            listed = {}
            with suppress(DataError):  # as most, which then do not
                listed = self._below()
            if not listed:
                raise DataError(
                    f"{self.said()} lists no files, as few web servers do",
                    "name them, for example https://host/train-{000000..000099}.tar",
                )
        else:
            listed = self._below()
        if pattern:
            wanted = set(_matching(pattern, (name for name in listed if "/" not in name), self))
            listed = {name: facts for name, facts in listed.items() if name in wanted}
        return tuple(_stored(name, listed[name]) for name in sorted(listed))

    def named(self, names: Sequence[str]) -> tuple[StoredFile, ...]:
        return tuple(in_parallel(self, self._info, names))

    def _below(self) -> dict[str, dict[str, Any]]:
        root = self.path("").rstrip("/") + "/"
        with _reasons(self):
            found = self.system.find(root.rstrip("/"), detail=True)
        names = {path: path[len(root) :] if path.startswith(root) else path for path in found}
        return {
            name: found[path]
            for path, name in names.items()
            if name and found[path].get("type") == "file" and not any(part.startswith(".") for part in name.split("/"))
        }

    def _info(self, name: str) -> StoredFile:
        with _reasons(self, name):
            return _stored(name, self.system.info(self.path(name)))

    def read(self, name: str, start: int, size: int) -> bytes:
        path = self.path(name)

        def attempt() -> bytes:
            data: bytes = self.system.cat_file(path, start=start, end=start + size)
            if len(data) > size:
                raise DataError(
                    f"{self.said(name)}: the host sends whole files only, not parts of them",
                    "download the files, and name their folder",
                )
            return data

        return _whole(attempt, self.said(name), size) if size else b""

    def write(self, name: str, content: Path | bytes) -> None:
        """Put a file there, which appears whole or not at all, as object stores have it.

        Raises:
            DataError: the host refuses.
        """
        path = self.path(name)

        def attempt() -> bytes:
            if isinstance(content, bytes):
                self.system.pipe_file(path, content)
            else:
                self.system.put_file(str(content), path)
            return b""

        _patiently(attempt, self.said(name), "written")

    def remove(self, name: str) -> None:
        """Remove a file.

        Raises:
            DataError: the host refuses.
        """
        with _reasons(self, name):
            self.system.rm_file(self.path(name))


def _stored(name: str, facts: dict[str, Any]) -> StoredFile:
    versions = ("ETag", "etag", "md5Hash", "blob_id", "Content-MD5", "Last-Modified", "LastModified", "last_modified")
    version = next((str(facts[key]) for key in (*versions, "updated", "mtime") if facts.get(key)), "")
    if facts.get("size") is None:
        raise DataError(f"{name}: the host does not say how large it is", "download the files, and name their folder")
    return StoredFile(name, int(facts["size"]), version.strip('"'))


def _matching(pattern: str, names: Iterable[str], files: Files) -> Iterator[str]:
    """The names that a pattern stands for. What braces alone name has to be there."""
    there = list(names)
    for each in expand(pattern):
        if any(mark in each for mark in "*?["):
            yield from fnmatch.filter(there, each)
        else:
            yield each


def _whole(attempt: Callable[[], bytes], said: str, size: int) -> bytes:
    def checked() -> bytes:
        data = attempt()
        if len(data) < size:
            raise _Short(f"it ended {size - len(data):,} bytes too early")
        return data

    return _patiently(checked, said, "read")


class _Short(OSError):
    """A read gave fewer bytes than the file has."""


def _patiently(attempt: Callable[[], bytes], said: str, done: str) -> bytes:
    """What an attempt gives, tried again with pauses where it fails."""
    for pause in (*PAUSES, None):
        try:
            return attempt()
        except DataError:
            raise
        except ImportError:
            raise
        except Exception as error:  # of each library its own, over OSError, aiohttp's and botocore's
            if type(error).__name__ in NO_CREDENTIALS or isinstance(error, TypeError | AttributeError):
                raise DataError(f"{said} cannot be {done}: {why(error)}", _ENVIRONMENT) from None
            reason = why(error)
        if pause is None:
            break
        log.warning("%s cannot be %s (%s); trying again in %g s", said, done, reason, pause)
        time.sleep(pause)
    raise DataError(f"{said} cannot be {done} ({reason}, {len(PAUSES) + 1} times)", "bring it back, and go on")


_ENVIRONMENT = (
    "credentials come from the environment, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or from the store's files"
)


@contextmanager
def _reasons(files: RemoteFiles, name: str = "") -> Iterator[None]:
    """What goes wrong inside, as one line."""
    said = files.said(name)
    try:
        yield
    except DataError:
        raise
    except ImportError as error:
        raise _lacking(files.address, error) from None
    except FileNotFoundError:
        raise DataError(f"there is no {said}", "check the address: the bucket or host, and the name") from None
    except Exception as error:  # of each library its own
        refused = isinstance(error, PermissionError) or type(error).__name__ in NO_CREDENTIALS
        raise DataError(
            f"{said} cannot be read: {why(error)}", _ENVIRONMENT if refused else "check the address and the network"
        ) from None


def _lacking(address: Address, error: ImportError) -> DataError:
    scheme = address.scheme
    if scheme in EXTRAS:
        return DataError(
            f"{address.url} needs a package that is not installed", f"pip install 'hptctl[{EXTRAS[scheme]}]'"
        )
    package = PACKAGES.get(scheme)
    return DataError(
        f"{address.url} needs a package that is not installed", f"pip install {package}" if package else str(error)
    )


def why(error: BaseException) -> str:
    """What an error of some library says, on one line."""
    if type(error).__name__ in NO_CREDENTIALS:
        return "no credentials were found"
    if isinstance(error, FileNotFoundError):
        return "it is not there"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return " ".join(text.split())
