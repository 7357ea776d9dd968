"""How figures are written."""

from __future__ import annotations

import math

import pytest

from hptctl import format as written


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (written.percent(0.8432), "84.3 %"),
        (written.percent(0.5, 0), "50 %"),
        (written.unbroken(written.percent(0.8432)), "84.3\u00a0%"),
        (written.round_percent(0.999), "99.9 %"),
        (written.with_spread(0.8432, 0.004), "84.3 % ± 0.4"),
        (written.with_spread(0.8432, None), "84.3 %"),
        (written.signed(-0.031), "−3.1"),
        (written.signed(0.0004), "0.0"),
        (written.interval(-0.012, 0.049), "−1.2 to +4.9"),
        (written.above_or_below(0.031), "3.1 points above"),
        (written.above_or_below(-0.0004), "level with"),
        (written.times(80), "80 ×"),
        (written.times(0.5, "at most"), "at most 0.5 ×"),
        (written.count(1, "dataset"), "1 dataset"),
        (written.count(2000, "entry", "entries"), "2,000 entries"),
        (written.roughly(1_280_000), "1.28 million"),
        (written.roughly(6420), "6,420"),
        (written.compact(400_000), "400k"),
        (written.duration(42), "42 s"),
        (written.duration(5 * 3600), "5 h"),
        (written.hours(0.31), "19 min"),
        (written.hours(1.9999), "120 min"),
        (written.hours(12.34), "12.3 h"),
        (written.hours(3412), "3,412 h"),
        (written.size(512), "512 B"),
        (written.size(1.5 * 2**30), "1.5 GiB"),
        (written.gigabytes(20_409), "20.4 GB"),
        (written.energy(1530), "1.53 kWh"),
        (written.reading(1420.4), "1,420"),
        (written.listed(["a", "b", "c"]), "a, b and c"),
    ],
)
def test_each_kind_of_figure_is_written_in_one_way(text: str, expected: str) -> None:
    assert text == expected


def test_what_is_missing_is_written_as_nothing() -> None:
    nan = math.nan
    assert [written.percent(None), written.percent(nan), written.with_spread(None, None)] == ["", "", ""]
    assert [written.interval(nan, nan), written.hours(nan), written.energy(nan), written.roughly(nan)] == [""] * 4
    assert [written.spread(None), written.spread(nan), written.when(nan)] == ["", "", ""]
