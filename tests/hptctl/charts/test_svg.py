"""Charts as SVG."""

from __future__ import annotations

from pathlib import Path

from hptctl.charts import svg as charts


def test_a_map_tells_twelve_kinds_apart_and_says_what_is_grey(tmp_path: Path) -> None:
    clouds = [charts.Cloud(f"kind {i}", [(i, j) for j in range(3)]) for i in range(12)]
    figure = charts.plane([*clouds, charts.Cloud("5 other classes", [(0, 0)], muted=True)], "title", ("x", "y"))
    charts.save(figure, tmp_path / "map.svg")
    text = (tmp_path / "map.svg").read_text()
    assert all(f">kind {i}<" in text for i in range(12))
    assert ">5 other classes<" in text
    looks = {(colour, marker) for marker in charts.CLOUD_MARKERS for colour in charts.CLOUD_COLOURS}
    assert len(looks) >= charts.MOST_CLOUDS
