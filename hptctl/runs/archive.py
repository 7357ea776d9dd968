"""Runs as one file that travels: an uncompressed tar, whose first member says what all the others are.

    manifest.json        who wrote it and where, and of every file its path, size and sha256
    manifest.sha256      its own hash
    runs/<name>/...      the files, sorted

The same runs give the same bytes. Nothing but what `write` writes is read: since the manifest comes first, every byte
between two files is known before it comes, and a link, a path that leads elsewhere or one file too many can only
differ from it. A long archive may be cut into parts of equal size, `F.tar.001` and so on.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
import sys
import tarfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hpt import kept_backbones, step_files
from hpt.config import UNTRAINED
from hpt.errors import ConfigError, RunError
from hpt.files import replacing, sync
from hptctl import __version__, runs
from hptctl.format import size, thousands
from hptctl.runs import Run
from hptctl.runs.folder import NAME
from hptctl.runs.weights import has_its_backbones

FORMAT = 1
MANIFEST = "manifest.json"
TOP = "runs"
"""The folder of all the others in an archive, whatever it is called here."""
SEAL = "manifest.sha256"
MANIFEST_BYTES = 64 * 2**20
"""A longer manifest is refused: this one holds 400,000 files."""
CHUNK = 2**20
PARTS = 999
CHECKPOINTS = "checkpoints"

Progress = Callable[[int, int, str], None]


class Entry(BaseModel):
    """A file of an archive."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Annotated[str, Field(max_length=1000)]
    """`runs/<name>/...`"""
    size: Annotated[int, Field(ge=0, le=2**50)]
    """Bytes."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    @property
    def run(self) -> str:
        """The name of its run."""
        return self.path.split("/")[1]


class Manifest(BaseModel):
    """`manifest.json`: what an archive holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    version: str
    """Of the program that wrote it."""
    folder: str
    """The working folder that the runs come from, and absolute paths in their records lead into."""
    runs: str
    """Its folder of runs, which may be a link to another place."""
    names: tuple[str, ...]
    """What was asked for."""
    without_weights: tuple[str, ...] = ()
    """Runs whose weights stayed behind, or were not there either."""
    files: tuple[Entry, ...]

    @property
    def run_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(entry.run for entry in self.files))

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files)

    def text(self) -> bytes:
        return self.model_dump_json().encode()


class _Head(BaseModel):
    """What a manifest of any format has."""

    format: int
    version: str = "?"


# ---- writing


def write(
    out: Path,
    found: Sequence[Run],
    names: Sequence[str],
    *,
    split: int | None = None,
    without: Callable[[Run], Collection[str]] = lambda _: (),
    weights: bool = True,
    progress: Progress = lambda *_: None,
) -> Manifest:
    """Write an archive of runs to `out`, or in parts of at most `split` bytes beside it; whole or not at all.

    `without` names folders in a run's own that stay; where `weights` is false, so do `weights_of` all runs. Every file
    is read twice, since its hash comes before it.

    Raises:
        Busy: a run is being worked on. RunError: a run changed in the meantime; the disk has no room.
        ConfigError: there is no place for `out`, or there are too many parts.
    """
    if not out.parent.is_dir():
        raise ConfigError(f"there is no folder {out.parent} for {out.name}", "make it, or choose another --out")
    if out.is_dir():
        raise ConfigError(f"{out} is a folder", "name a file as --out, for example runs.tar")
    if out.suffix.lower() != ".tar":
        raise ConfigError(f"runs travel in a plain tar, and '{out.name}' is not called so", "end --out in .tar")
    found = sorted(found, key=lambda run: f"{run.name}/")  # the order of their files' paths
    files: dict[str, list[Path]] = {}
    for run in found:
        refuse_busy(run)
        with run.at_rest():
            files[run.name] = files_of(run, without(run), weights=weights)
    total = sum(file.stat().st_size for each in files.values() for file in each)
    entries: list[Entry] = []
    done = 0
    for run in found:
        with run.at_rest():
            for file in files[run.name]:
                entries.append(_entry(run, file))
                done += entries[-1].size
                progress(done, total, "hashing")
    manifest = Manifest(
        format=FORMAT,
        version=__version__,
        folder=str(Path.cwd()),
        runs=str(runs.RUNS.resolve()),
        names=tuple(names),
        without_weights=tuple(
            run.name for run in found if not has_its_backbones(run) or (not weights and weights_of(run))
        ),
        files=tuple(entries),
    )
    whole = _length(manifest)
    if split is not None and math.ceil(whole / split) > PARTS:
        raise ConfigError(
            f"{size(whole)} in parts of {size(split)} are {thousands(math.ceil(whole / split))} files, {PARTS} at most",
            f"give a --split of {math.ceil(whole / PARTS / 2**20)}M or more",
        )
    refuse_without_room(out.parent, whole)
    with ExitStack() as stack:
        output = _Output(out, split, stack)
        for name, data in _about(manifest.text()):
            output.write(_header(name, len(data)) + data + _filling(len(data)))
        packed = done = 0
        for run in found:
            with run.at_rest():
                for file in files[run.name]:
                    entry = entries[packed]
                    output.write(_header(entry.path, entry.size))
                    _copy(file, entry, output)
                    output.write(_filling(entry.size))
                    packed, done = packed + 1, done + entry.size
                    progress(done, total, "packing")
        output.write(b"\0" * _end(output.written))
        output.close()
    for stale in _stale(out, 0 if split is None else output.number):
        stale.unlink(missing_ok=True)
    return manifest


def refuse_busy(run: Run) -> None:
    """A Busy error where another machine says that it works on a run; the run's lock tells of this machine alone."""
    status = run.status()
    if status.state == "running" and status.pid != os.getpid():
        with run.working():  # says so itself where a process of this machine holds it
            where = status.host or "another machine"
            raise runs.Busy(f"run '{run.name}' is being worked on by {where}", "wait for it, or stop it first")


def refuse_without_room(folder: Path, bytes: int) -> None:
    """A RunError where a disk has no room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if free < bytes:
        raise RunError(
            f"{size(bytes)} do not fit into {folder.resolve()}, which has {size(free)} left",
            "free some space, or take another disk",
        )


def weights_of(run: Run) -> list[Path]:
    """The files of a run's weights, unread: backbones, a classifier, and the checkpoint that an unfinished one goes on
    from."""
    found = [*run.path.glob("*.safetensors"), *(run.path / kept_backbones.FOLDER).glob("*.safetensors")]
    if run.status().state != "finished":
        folder, name_of = run.path / CHECKPOINTS, step_files.checkpoint_name
        found += [folder / name_of(step) for step in step_files.steps(folder, name_of)[-1:]]
    return found


def files_of(run: Run, without: Collection[str] = (), *, weights: bool = True) -> list[Path]:
    """The files of a run that travel, sorted; of a run that is not finished the newest whole checkpoint is one of its
    weights."""
    found: list[Path] = []
    for place, folders, names in os.walk(run.path):
        folders[:] = [name for name in folders if Path(place) != run.path or name not in {CHECKPOINTS, *without}]
        found += [Path(place) / name for name in names if name != "lock" and not name.endswith((".lock", ".part"))]
    if not weights:
        stay = {*weights_of(run)}
        found = [file for file in found if file not in stay]
    elif run.status().state != "finished":
        found += _checkpoint(run)
    return sorted((file for file in found if file.is_file()), key=lambda file: file.relative_to(run.path).as_posix())


def _checkpoint(run: Run) -> list[Path]:
    if not (run.path / CHECKPOINTS).is_dir():
        return []
    from hpt import checkpoint

    try:
        newest = checkpoint.newest_file(run.path / CHECKPOINTS)
    except RunError:  # all of them are damaged, so that the run cannot go on here either
        return []
    return [newest, checkpoint.seal_of(newest)] if newest is not None else []


def _entry(run: Run, file: Path) -> Entry:
    path = f"{TOP}/{run.name}/{file.relative_to(run.path).as_posix()}"
    try:
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
            return Entry(path=path, size=opened.tell(), sha256=digest)
    except FileNotFoundError:
        raise _changed(run.name, path) from None


def _copy(file: Path, entry: Entry, output: _Output) -> None:
    digest, left = hashlib.sha256(), entry.size
    try:
        with file.open("rb") as opened:
            while left >= 0 and (chunk := opened.read(CHUNK)):
                digest.update(chunk)
                left -= len(chunk)
                output.write(chunk)
    except FileNotFoundError:
        raise _changed(entry.run, entry.path) from None
    if left or digest.hexdigest() != entry.sha256:
        raise _changed(entry.run, entry.path)


def _changed(run: str, path: str) -> RunError:
    return RunError(f"run '{run}' changed while it was exported ({path})", "export it again")


class _Output:
    """The archive's file, or its parts one after the other; they take their places when the stack is left."""

    def __init__(self, out: Path, split: int | None, stack: ExitStack) -> None:
        self.out, self.split, self.stack = out, split, stack
        self.number = 0
        self.written = 0
        self._file: IO[bytes] | None = None
        self._room = 0

    def write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            if self._file is None or not self._room:
                self._file = self._next()
            piece = left[: self._room]
            self._file.write(piece)
            self._room -= len(piece)
            self.written += len(piece)
            left = left[len(piece) :]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _next(self) -> IO[bytes]:
        self.close()
        self.number += 1
        self._room = self.split or sys.maxsize
        path = self.out if self.split is None else _part(self.out, self.number)
        return self.stack.enter_context(self.stack.enter_context(replacing(path)).open("wb"))


def _stale(out: Path, parts: int) -> Iterator[Path]:
    """What an earlier export left there: the whole file where there are `parts` now, and parts beyond those."""
    if parts:
        yield out
    for number, path in _parts_beside(out).items():
        if number > parts:
            yield path


# ---- reading


@dataclass(frozen=True)
class Archive:
    """An archive whose manifest has been read."""

    path: Path
    """The whole file, or what the parts are parts of."""
    parts: tuple[Path, ...]
    manifest: Manifest


def whole_of(path: Path) -> Path:
    """The archive that a file's name means: `F.tar` of its part `F.tar.002`."""
    part = re.fullmatch(r"(.+)\.\d{3}", path.name)
    return path.with_name(part[1]) if part else path


def read(path: Path) -> Archive:
    """An archive by its name or that of one of its parts; all of it is there, by the sizes.

    Raises:
        RunError: there is none; a part is missing or cut short; it is no archive of runs, or of a newer format.
    """
    out = whole_of(path)
    beside = _parts_beside(out)
    if path.is_file() and path == out:
        parts = [path]
    elif beside:
        parts = [_part(out, number) for number in range(1, max(beside) + 1)]
    else:
        raise RunError(f"there is no archive {path}", "check the path; `hptctl runs export` writes one")
    for part in parts:
        if not part.is_file():
            raise _missing(part)
    sizes = [part.stat().st_size for part in parts]
    for part, bytes in zip(parts[:-1], sizes[:-1], strict=True):
        if bytes < max(sizes):
            raise _cut(part)
    ended = _cut(parts[-1])
    if parts != [out] and sizes[-1] == sizes[0]:
        ended = _missing(_part(out, len(parts) + 1))
    with _Input(parts, ended) as source:
        manifest = _manifest(source, out)
    have, whole = sum(sizes), _length(manifest)
    if have < whole:
        raise ended
    if have > whole:
        raise _foreign(out, f"it holds {size(have - whole)} that its manifest does not name")
    return Archive(out, tuple(parts), manifest)


def unpack(archive: Archive, folder: Path, *, progress: Progress = lambda *_: None) -> None:
    """Unpack an archive into an empty folder, `folder/runs/<name>/...`, and check every byte.

    Raises:
        RunError: it is damaged, or is not what its manifest says; the folder then holds what came before.
    """
    done = 0
    with _Input(archive.parts, _cut(archive.parts[-1])) as source:
        _manifest(source, archive.path)
        for entry in archive.manifest.files:
            _expect(source, entry, archive.path)
            target = folder / entry.path
            target.parent.mkdir(parents=True, exist_ok=True)
            digest, left = hashlib.sha256(), entry.size
            with target.open("xb") as file:
                while left:
                    chunk = source.take(min(left, CHUNK))
                    digest.update(chunk)
                    file.write(chunk)
                    left -= len(chunk)
            if digest.hexdigest() != entry.sha256:
                raise _damaged(source.at, f"{entry.path} is not what was packed")
            sync(target)
            if any(source.take(len(_filling(entry.size)))):
                raise _damaged(source.at, f"after {entry.path}")
            done += entry.size
            progress(done, archive.manifest.total, f"unpacking {archive.path.name}")
        if any(source.take(_end(source.taken))):
            raise _damaged(source.at, "after its last file")


class _Input:
    """The parts of an archive as one stream."""

    def __init__(self, parts: Sequence[Path], ended: RunError) -> None:
        self._left = list(parts)
        self._ended = ended
        self._file: IO[bytes] | None = None
        self.at = parts[0]
        """The part that is being read."""
        self.taken = 0

    def __enter__(self) -> _Input:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()

    def take(self, bytes: int) -> bytes:
        """So many bytes.

        Raises:
            RunError: it ends before.
        """
        found = b""
        while len(found) < bytes:
            if self._file is None:
                if not self._left:
                    raise self._ended
                self.at = self._left.pop(0)
                self._file = self.at.open("rb")
            chunk = self._file.read(bytes - len(found))
            if not chunk:
                self._file.close()
                self._file = None
            found += chunk
        self.taken += bytes
        return found


def _manifest(source: _Input, out: Path) -> Manifest:
    """The first member, checked: what it says is safe to unpack."""
    try:
        head = tarfile.TarInfo.frombuf(source.take(tarfile.BLOCKSIZE), "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        raise _foreign(out, "it does not begin as one") from None
    if head.name != MANIFEST or head.tobuf(tarfile.PAX_FORMAT) != _header(MANIFEST, head.size):
        raise _foreign(out, f"it does not begin with {MANIFEST}")
    if head.size > MANIFEST_BYTES:
        raise _foreign(out, f"its {MANIFEST} has {size(head.size)}")
    text = source.take(head.size)
    _, (name, seal) = _about(text)
    rest = _filling(head.size) + _header(name, len(seal)) + seal + _filling(len(seal))
    if source.take(len(rest)) != rest:
        raise _damaged(source.at, f"{MANIFEST} is not what {SEAL} is of")
    try:
        says = _Head.model_validate_json(text)
        if says.format > FORMAT:
            raise RunError(
                f"{out} was written by hptctl {says.version}, in a newer format than {__version__} reads",
                "import it with that version",
            )
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise _damaged(source.at, f"{MANIFEST}: {where} {first['msg']}".replace("  ", " ")) from None
    paths = [entry.path for entry in manifest.files]
    for path in paths:
        if not _is_safe(path):
            raise _foreign(out, f"it holds {path!r}, which is no file of a run")
    known: set[str] = set()
    for path in paths:
        if path in known:
            raise _foreign(out, f"it holds {path} twice")
        known.add(path)
    if odd := known & {parent.as_posix() for path in paths for parent in PurePosixPath(path).parents}:
        raise _foreign(out, f"it holds {min(odd)} as a file and as a folder")
    for name in manifest.run_names:
        if f"{TOP}/{name}/run.json" not in paths:
            raise _foreign(out, f"it holds no run.json of '{name}'")
    return manifest


def _is_safe(path: str) -> bool:
    """Whether a path of a manifest is that of a file inside the folder of a run."""
    top, _, rest = path.partition("/")
    name, _, inside = rest.partition("/")
    plain = all(part not in {"", ".", ".."} for part in inside.split("/")) and path.isprintable() and "\\" not in path
    return top == TOP and re.fullmatch(rf"{NAME}(-\d+)?", name) is not None and name != UNTRAINED and plain


def _expect(source: _Input, entry: Entry, out: Path) -> None:
    """Take the header of a file, which has to be the one that `write` wrote."""
    header = _header(entry.path, entry.size)
    found = source.take(len(header))
    if found == header:
        return
    try:
        other = tarfile.TarInfo.frombuf(found[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        raise _damaged(source.at, f"before {entry.path}") from None
    kind = "a file" if other.isreg() else "a link" if other.islnk() or other.issym() else "no plain file"
    raise _foreign(out, f"it holds {kind} {other.name!r} where its manifest names {entry.path}")


def _missing(part: Path) -> RunError:
    return RunError(f"{part} is missing", "bring it here: an archive is read with all its parts")


def _cut(part: Path) -> RunError:
    return RunError(f"{part} is cut short", "copy it again")


def _damaged(part: Path, what: str) -> RunError:
    return RunError(f"{part} is damaged: {what}", "copy it again, or export the runs again")


def _foreign(out: Path, why: str) -> RunError:
    return RunError(f"{out} is no archive that `hptctl runs export` wrote: {why}", "export the runs again")


# ---- the layout, which writing and reading share


def _header(path: str, bytes: int) -> bytes:
    """A plain file of nobody's, of no time, that everybody may read."""
    info = tarfile.TarInfo(path)
    info.size = bytes
    return info.tobuf(tarfile.PAX_FORMAT)


def _about(manifest: bytes) -> tuple[tuple[str, bytes], tuple[str, bytes]]:
    """The members before the runs' files."""
    return (MANIFEST, manifest), (SEAL, hashlib.sha256(manifest).hexdigest().encode())


def _filling(bytes: int) -> bytes:
    """What fills a file up to whole blocks."""
    return b"\0" * (-bytes % tarfile.BLOCKSIZE)


def _end(written: int) -> int:
    """The zeros at the end: two blocks, then up to a whole record."""
    return 2 * tarfile.BLOCKSIZE + -(written + 2 * tarfile.BLOCKSIZE) % tarfile.RECORDSIZE


def _length(manifest: Manifest) -> int:
    """Bytes of the whole archive."""
    members = [(name, len(data)) for name, data in _about(manifest.text())]
    members += [(entry.path, entry.size) for entry in manifest.files]
    written = sum(len(_header(path, bytes)) + bytes + len(_filling(bytes)) for path, bytes in members)
    return written + _end(written)


def _part(out: Path, number: int) -> Path:
    return out.with_name(f"{out.name}.{number:03d}")


def _parts_beside(out: Path) -> dict[int, Path]:
    """The parts of an archive that are there, by their numbers."""
    found = {path: re.fullmatch(rf"{re.escape(out.name)}\.(\d{{3}})", path.name) for path in out.parent.glob("*")}
    return {int(match[1]): path for path, match in found.items() if match}
