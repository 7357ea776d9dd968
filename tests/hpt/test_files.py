"""Files that go to the disk while they are made."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from hpt import files


def pieces(path: Path, count: int = 50) -> bytes:
    data = [os.urandom(100 + number) for number in range(count)]
    with files.flushed_meanwhile(path) as write:
        for each in data:
            write(memoryview(each))
    return b"".join(data)


def test_all_bytes_are_on_the_disk_when_the_block_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []

    def fsync(descriptor: int) -> None:
        flushed.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(files, "FLUSHED", 1_000)
    monkeypatch.setattr(os, "fsync", fsync)
    data = pieces(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == data
    assert len(flushed) > 1
    assert flushed == sorted(flushed)
    assert flushed[-1] == len(data)


def test_a_disk_that_does_not_take_the_bytes_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(files, "FLUSHED", 1_000)
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="the disk is broken"):
        pieces(tmp_path / "a")


def test_a_block_that_raises_ends_its_thread(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), files.flushed_meanwhile(tmp_path / "a") as write:
        write(memoryview(b"abc"))
        raise KeyboardInterrupt
    assert (tmp_path / "a").read_bytes() == b"abc"
