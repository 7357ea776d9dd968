from __future__ import annotations

from pathlib import Path

import pytest

from hpt.user_folders import cache_folder, data_folder


@pytest.mark.parametrize(("variable", "folder"), [("HPTCTL_CACHE", cache_folder), ("HPTCTL_DATA", data_folder)])
def test_a_folder_is_the_users_choice(variable: str, folder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(variable, str(tmp_path))
    assert folder() == tmp_path
    monkeypatch.setenv(variable, "")
    assert "hptctl" in str(folder())
