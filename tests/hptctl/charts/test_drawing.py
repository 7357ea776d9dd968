"""Charts that other processes draw beside a report's own."""

from __future__ import annotations

import os

import psutil
import pytest

from hptctl.charts import drawing
from hptctl.charts.curves import losses
from hptctl.charts.drawing import draw

CURVES = [{(f"hpt {n}", "hpt"): [(1, 7.0), (50, 6.0 + n / 10), (100, 5.5)]} for n in range(6)]


def ordered() -> list[drawing.Drawing]:
    return [draw(losses, curves, f"Loss {n}", f"key-{n}") for n, curves in enumerate(CURVES)]


def others() -> list[psutil.Process]:
    """The processes that draw; Python's own tracker of resources stays."""
    return [each for each in psutil.Process().children() if any("spawn_main" in word for word in each.cmdline())]


@pytest.fixture
def two_cores() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core: nothing is drawn beside")


def test_charts_are_the_same_whoever_draws_them(two_cores: None) -> None:
    alone = [each.__html__() for each in ordered()]
    with drawing.beside(2 * drawing.WORTHWHILE):
        assert others() == []  # it begins with the first order
        found = ordered()
        assert others()
        found[0]._beside.result()  # type: ignore[union-attr]  # the other has one, at least
        assert [each.__html__() for each in found] == alone
    assert all("<svg" in text for text in alone)


def test_a_process_that_is_killed_costs_no_chart(two_cores: None) -> None:
    with drawing.beside(2 * drawing.WORTHWHILE):
        found = ordered()
        for process in others():
            process.kill()
        assert [each.__html__() for each in found] == [each.__html__() for each in ordered()]


def test_few_charts_start_no_process() -> None:
    with drawing.beside(drawing.WORTHWHILE - 1):
        ordered()
        assert others() == []
