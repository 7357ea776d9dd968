"""Run folders of a few kilobytes, as the program makes them, and archives of them as nobody should make them."""

from __future__ import annotations

import hashlib
import io
import tarfile
import time
from pathlib import Path
from typing import Any

from hptctl import runs
from hptctl.runs import Kind, Run, archive
from hptctl.runs.archive import Entry, Manifest
from hptctl.runs.record import Facts, Tags


def made(name: str, kind: Kind = "knn", *, steps: int = 3, state: str = "finished", **spec: Any) -> Run:
    """A run of so many logged steps."""
    facts = Facts(fingerprint=spec.pop("fingerprint", f"of {name}"), metric="top1")
    about: dict[str, Any] = {"experiment": "hptctl", "command": f"hptctl evaluate {kind}", "config": {"seed": 0}}
    run = runs.create(kind, name, name, **about | {"tags": Tags(strategy="target")} | spec)
    run.start()
    (run.path / "artifacts").mkdir()
    (run.path / "artifacts" / "a table of many words.csv").write_text("word\n" * 3_000)
    (run.path / "artifacts" / "empty.csv").touch()
    grown(run, steps, state, facts)
    return run


def grown(run: Run, steps: int, state: str = "finished", facts: Facts | None = None) -> None:
    """The run after so many steps."""
    for step in range(len(list(run.metrics())) + 1, steps + 1):
        run.append_metrics({"val/top1": step / 10, "test/top1": step / 10}, step)
    facts = facts or run.status().facts
    results = {"val/top1": steps / 10, "test/top1": steps / 10} if state == "finished" else {}
    run.write_status(state=state, ended=time.time(), results=results, facts=facts)


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, locks aside."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock" and path.name != "lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def crafted(
    out: Path, members: list[tuple[tarfile.TarInfo, bytes]], listed: list[tuple[str, bytes]], **head: Any
) -> None:
    """An archive of any members, whose manifest lists any files."""
    entries = [Entry(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest()) for path, data in listed]
    values: dict[str, Any] = {"format": archive.FORMAT, "version": "9.9", "folder": "/there", "runs": "/there/runs"}
    text = Manifest(**values | {"names": (), "files": tuple(entries)} | head).text()
    with tarfile.open(out, "w", format=tarfile.PAX_FORMAT) as tar:
        seal = hashlib.sha256(text).hexdigest().encode()
        about = [(member("manifest.json", text), text), (member("manifest.sha256", seal), seal)]
        for info, data in [*about, *members]:
            tar.addfile(info, io.BytesIO(data))


def member(path: str, data: bytes = b"", **changes: Any) -> tarfile.TarInfo:
    """The header of a file in a tar."""
    info = tarfile.TarInfo(path)
    info.size = len(data)
    for key, value in changes.items():
        setattr(info, key, value)
    return info
