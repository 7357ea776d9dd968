from __future__ import annotations

import os
from pathlib import Path

import pytest

from hpt import user_folders
from hpt.errors import DataError
from hpt.user_folders import cache_folder, data_folder, give_home, setting_of


@pytest.mark.parametrize(("variable", "folder"), [("HPTCTL_CACHE", cache_folder), ("HPTCTL_DATA", data_folder)])
def test_a_folder_is_the_users_choice(variable: str, folder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(variable, str(tmp_path))
    assert folder() == tmp_path
    monkeypatch.setenv(variable, "")
    assert "hptctl" in str(folder())


def test_a_user_without_a_home_folder_lives_in_the_cache_or_is_told_which_setting_says_where_that_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(user_folders, "_of_system", lambda folder: None)  # as where nobody has such a user's number
    monkeypatch.delenv("HPTCTL_DATA", raising=False)
    monkeypatch.delenv("HPTCTL_CACHE", raising=False)
    with pytest.raises(DataError, match="set HPTCTL_CACHE to a folder that can be written"):
        cache_folder()
    monkeypatch.setenv("HOME", "/as/it/was")
    monkeypatch.setenv("HPTCTL_CACHE", str(tmp_path))
    assert data_folder() == tmp_path / "datasets"
    give_home()
    assert os.environ["HOME"] == str(tmp_path)


def test_a_file_that_may_not_be_written_is_known_by_the_setting_of_its_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HPTCTL_CACHE", str(tmp_path / "c" / "hptctl"))
    monkeypatch.setenv("HPTCTL_DATA", str(tmp_path / "d"))
    places = ("c", "c/hptctl/images/x", "d/flowers", "runs/x")
    found = [setting_of(str(tmp_path / place)) for place in places]
    assert found == ["HPTCTL_CACHE", "HPTCTL_CACHE", "HPTCTL_DATA", None]
