"""A sweep's plots."""

from __future__ import annotations

from pathlib import Path

from hptctl.charts.sweep import DrawnTrial, write


def test_plots_show_what_there_is_and_are_the_same_each_time(tmp_path: Path) -> None:
    points = [
        DrawnTrial(
            n, "complete", {"lr": 10 ** -(1 + n / 4), "schedule": f"{60 + n % 2}-steps"}, 0.5 + n / 100, "a/1", n, n + 1
        )
        for n in range(12)
    ]
    points += [DrawnTrial(12, "pruned", {"lr": 0.5, "schedule": "60-steps"}, None, "a/2", 3.0, 5.0)]
    points += [DrawnTrial(13, "waiting", {}, None, "", None, None)]
    shares = {"lr": 0.9, "schedule": 0.1}
    first, again = (
        write(tmp_path / name, points, ["lr", "schedule"], shares, log=["lr"]) for name in _folders(tmp_path)
    )
    names = ["history", "parallel", "heat-map", "importance", "timeline"]
    assert [path.name for path in first] == [f"sweep-{name}.svg" for name in names]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    assert "12" in first[-1].read_text()
    assert write(tmp_path / "a", points[13:], ["lr"], {}) == []


def _folders(root: Path) -> list[str]:
    for name in ("a", "b"):
        (root / name).mkdir()
    return ["a", "b"]
