"""Maps of features."""

from __future__ import annotations

from pathlib import Path

from hptctl.charts import maps, svg


def test_a_map_tells_twelve_kinds_apart_and_says_what_is_grey(tmp_path: Path) -> None:
    clouds = [maps.Cloud(f"kind {i}", [(i, j) for j in range(3)]) for i in range(12)]
    figure = maps.plane([*clouds, maps.Cloud("5 other classes", [(0, 0)], muted=True)], "title", ("x", "y"))
    svg.save(figure, tmp_path / "map.svg")
    text = (tmp_path / "map.svg").read_text()
    assert all(f">kind {i}<" in text for i in range(12))
    assert ">5 other classes<" in text
    looks = {(colour, marker) for marker in maps.CLOUD_MARKERS for colour in maps.CLOUD_COLOURS}
    assert len(looks) >= maps.MOST_CLOUDS
