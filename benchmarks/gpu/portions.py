"""Files cut into portions, folders of at most so many bytes, and joined again where the portions have come to.

    portion-1/manifest.json     what there is: of each file its path, size, sha256 and pieces
    portion-1/wheels/...        files by their paths; a piece of one that was split has a number behind it
    portion-2/...

Only the standard library: it runs before anything is installed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FORMAT = 1
MANIFEST = "manifest.json"
FOR_MANIFEST = 2**18
"""Bytes that are kept free for the manifest."""
CHUNK = 2**20


class PortionError(Exception):
    """What came is not what was sent, in one line."""


def cut(files: Iterable[tuple[str, Path]], out: Path, limit: int, about: dict[str, Any]) -> list[Path]:
    """Lay files, each with the path that it gets, into as few portions as they need; the first ones come first.

    A file goes whole into the first portion that has room; one that is larger than a portion is split.
    """
    room: list[int] = []

    def place(bytes: int) -> int:
        """The number, from 1, of the portion with room for so many bytes."""
        for number, free in enumerate(room):
            if bytes <= free:
                room[number] -= bytes
                return number + 1
        room.append(limit - (0 if room else FOR_MANIFEST) - bytes)
        return len(room)

    listed = []
    for path, file in files:
        size = file.stat().st_size
        most = limit - FOR_MANIFEST
        sizes = [most] * (size // most) + [size % most] * bool(size % most or not size)
        pieces = []
        with file.open("rb") as source:
            for number, bytes in enumerate(sizes, 1):
                portion = place(bytes)
                name = path if len(sizes) == 1 else f"{path}.{number:03d}"
                target = out / f"portion-{portion}" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                _copy(source, target, bytes)
                pieces.append({"portion": portion, "file": name})
        listed.append({"path": path, "size": size, "sha256": sha256(file), "pieces": pieces})
    manifest = {"format": FORMAT, "portions": len(room), **about, "files": listed}
    (out / "portion-1" / MANIFEST).write_text(json.dumps(manifest, indent=1))
    return [out / f"portion-{number}" for number in range(1, len(room) + 1)]


def read_manifest(folders: Iterable[Path]) -> dict[str, Any]:
    """The manifest of the portions that have come.

    Raises:
        PortionError: none of them has one that this program reads, or they have several.
    """
    found = [folder / MANIFEST for folder in _portions(folders) if (folder / MANIFEST).is_file()]
    if len(found) != 1:
        raise PortionError(f"{len(found)} of the folders have a {MANIFEST}; give the portions of one preparation")
    manifest: dict[str, Any] = json.loads(found[0].read_text())
    if manifest.get("format") != FORMAT:
        raise PortionError(f"{found[0]} has another format; prepare and run of one version go together")
    return manifest


def join(manifest: dict[str, Any], folders: Iterable[Path], into: Path) -> list[str]:
    """Join the files of a manifest, each checked; returns the paths of those whose pieces have not all come.

    Raises:
        PortionError: a file is not what was sent.
    """
    portions, lacking = _portions(folders), []
    for entry in manifest["files"]:
        pieces = [_find(portions, piece["portion"], piece["file"]) for piece in entry["pieces"]]
        if None in pieces:
            lacking.append(entry["path"])
            continue
        target = into / entry["path"]
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            for piece in filter(None, pieces):
                with piece.open("rb") as source:
                    shutil.copyfileobj(source, file, CHUNK)
        if sha256(target) != entry["sha256"]:
            raise PortionError(f"{entry['path']} is not what was sent; carry it again")
    return lacking


def sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _portions(folders: Iterable[Path]) -> list[Path]:
    """Portions are given themselves, or as the folder that they lie in."""
    found: list[Path] = []
    for folder in folders:
        inside = sorted(folder.glob("portion-*"))
        found += inside or [folder]
    return found


def _find(portions: Iterable[Path], number: int, file: str) -> Path | None:
    """A piece; a portion that was renamed on its way is known by what it holds."""
    named = sorted(portions, key=lambda folder: folder.name != f"portion-{number}")
    return next((folder / file for folder in named if (folder / file).is_file()), None)


def _copy(source: Any, target: Path, bytes: int) -> None:
    with target.open("wb") as file:
        while bytes:
            chunk = source.read(min(CHUNK, bytes))
            file.write(chunk)
            bytes -= len(chunk)
