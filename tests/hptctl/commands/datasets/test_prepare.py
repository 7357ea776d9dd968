"""`hptctl datasets prepare`, on what a person has fetched."""

from __future__ import annotations

import shutil
from pathlib import Path

from miniatures import chexpert
from program import Hptctl


def test_a_dataset_that_a_person_must_fetch_is_said_step_by_step_then_checked(hptctl: Hptctl, place: Path) -> None:
    done = hptctl("datasets", "prepare", "chexpert", "--data-root", "elsewhere", code=2)
    assert done.stdout == ""
    folder = place / "elsewhere" / "chexpert"
    steps = done.stderr.splitlines()
    assert [line[:2] for line in steps[:-1]] == ["1.", "2.", "3.", "4."]
    assert "https://stanfordmlgroup.github.io" in steps[0] and "CheXpert-v1.0-small.zip" in steps[1]
    assert str(folder) in steps[2]
    assert steps[-1].startswith(f"error: chexpert is not here: CheXpert-v1.0*/train.csv is missing in {folder}")

    chexpert(place / "work")  # as its archive comes
    shutil.make_archive(str(folder / "CheXpert-v1.0-small"), "zip", place / "work")
    done = hptctl("--data-root", "elsewhere", "datasets", "prepare", "chexpert")
    assert done.stdout == f"chexpert is ready: 24 images of 5 classes, {folder}\n"
    assert "hptctl datasets check chexpert" in done.stderr
