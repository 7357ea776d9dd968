"""Archives: whole, safely, or not at all."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from hpt.data.unpack import is_packed, unfinished, unpack
from hpt.errors import DataError

CONTENT = {"VOCdevkit/VOC2007/a.txt": b"one", "VOCdevkit/VOC2007/JPEGImages/1.jpg": os.urandom(5000)}


def make(path: Path, content: dict[str, bytes]) -> Path:
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as packed:
            for name, data in content.items():
                packed.writestr(name, data)
        return path
    with tarfile.open(path, "w:gz" if path.suffix in (".tgz", ".gz") else "w") as packed:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            packed.addfile(member, io.BytesIO(data))
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz", "a.tar.gz"])
def test_what_an_archive_holds_is_beside_it(tmp_path: Path, name: str) -> None:
    assert is_packed(name)
    archive = make(tmp_path / "set" / name, CONTENT)
    (tmp_path / "set" / "VOCdevkit" / "VOC2012").mkdir(parents=True)  # of an archive unpacked before
    (tmp_path / "set" / "VOCdevkit" / "VOC2012" / "b.txt").write_bytes(b"other")
    seen: list[tuple[int, int, str]] = []
    unpack(archive, lambda done, total, what: seen.append((done, total, what)))
    found = files(tmp_path / "set")
    assert {key: value for key, value in found.items() if not key.startswith("a.")} == {
        **CONTENT,
        "VOCdevkit/VOC2012/b.txt": b"other",
    }
    assert not unfinished(archive).exists()
    assert seen[-1][2] == f"unpacking {name}"


def test_unpacking_that_was_broken_off_is_begun_anew(tmp_path: Path) -> None:
    archive = make(tmp_path / "set" / "a.zip", CONTENT)
    unfinished(archive).mkdir()
    (unfinished(archive) / "half").write_bytes(b"half")
    unpack(archive)
    assert not unfinished(archive).exists()
    assert "half" not in files(tmp_path / "set")


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
@pytest.mark.parametrize("path", ["../outside.txt", "/tmp/hptctl-outside.txt", "x/../../outside.txt"])
def test_a_path_that_leads_out_is_refused(tmp_path: Path, name: str, path: str) -> None:
    archive = make(tmp_path / "set" / name, {path: b"hostile"})
    if name == "a.tar" and path.startswith("/"):
        unpack(archive)  # tarfile's filter takes the slash away
        assert (tmp_path / "set" / "tmp" / "hptctl-outside.txt").exists()
    else:
        with pytest.raises(DataError, match="refused"):
            unpack(archive)
    assert not (tmp_path / "outside.txt").exists()
    assert not Path("/tmp/hptctl-outside.txt").exists()


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as packed:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        packed.addfile(link)
    with pytest.raises(DataError, match="refused"):
        unpack(archive)


@pytest.mark.parametrize("name", ["a.zip", "a.tgz"])
def test_a_truncated_archive_is_one_line_and_counts_as_not_unpacked(tmp_path: Path, name: str) -> None:
    archive = make(tmp_path / "set" / name, CONTENT)
    archive.write_bytes(archive.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"is damaged|is not a whole zip file") as caught:
        unpack(archive)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "set" / "VOCdevkit").exists()


def test_a_member_that_claims_an_absurd_size_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", compression=zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("zeros", bytes(20 << 20))
    with pytest.raises(DataError, match="claims to hold 20,971,520 bytes"):
        unpack(archive)
    assert list(tmp_path.glob("zeros")) == []
