"""TOML files as people's programs write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpt import toml_file
from hpt.errors import ConfigError, DataError


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_is_read_whatever_editor_wrote_it(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('title = "Zürich"\r\n[set]\r\nsteps = 3\r\n', encoding=encoding)
    assert toml_file.read(tmp_path / "a.toml", "the study") == {"title": "Zürich", "set": {"steps": 3}}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a = ", r"the study .*a\.toml cannot be read as TOML: Invalid value"),
        (b"a = " + b"[" * 100_000, r"the study .*a\.toml cannot be read as TOML: "),
        (b"a = '\xff'", r"the study .*a\.toml is not text in UTF-8; save it as UTF-8"),
        (None, r"the study .*a\.toml does not exist; check the path"),
    ],
)
def test_what_is_no_toml_is_one_line(content: bytes | None, says: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "a.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=says) as refused:
        toml_file.read(tmp_path / "a.toml", "the study", "check the path")
    assert "\n" not in str(refused.value)


def test_a_folder_is_no_file_and_the_caller_says_whose_fault_it_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: Is a directory; check the path"):
        toml_file.read(tmp_path, "the file", error=DataError)
    assert toml_file.read(tmp_path / "none.toml", "the file", absent={}) == {}
