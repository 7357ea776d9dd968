"""`hptctl datasets stats`, on miniatures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from miniatures import chexpert

from hptctl.commands.datasets import stats


def test_statistics_are_those_of_the_pixels(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chexpert(place / "data" / "chexpert")
    stats.stats("chexpert", image_size=32, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["runs_use"]["mean"] == [0.5028] * 3  # the published ones
    assert [row["split"] for row in found["splits"]] == ["train", "val", "test", "train+val"]
    both = found["splits"][-1]
    assert both["images"] == 20
    assert both["mean"] != found["runs_use"]["mean"] and all(0 < value < 1 for value in both["mean"])
    assert (both["height"], both["width"]) == ([16, 16, 16], [20, 20, 20])
    assert 0 < both["classes_per_image"] < 5
    stats.stats("digits", image_size=32)
    assert "runs normalise with mean" in capsys.readouterr().out
