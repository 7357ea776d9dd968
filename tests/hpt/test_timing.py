"""What a loop says of its pace to whoever may stop it."""

from __future__ import annotations

import pytest

from hpt.timing import FIRST_SAVE_SECONDS, RECENT, Pace


def test_a_loop_is_asked_with_the_time_of_a_slow_round_a_look_and_a_save(monkeypatch: pytest.MonkeyPatch) -> None:
    now, asked = 100.0, list[float]()
    monkeypatch.setattr("time.perf_counter", lambda: now)

    def stop(seconds: float) -> int:
        asked.append(seconds)
        return 10 if seconds > 9 else 0

    pace = Pace(stop)
    now += 3.0  # the first round warms up
    assert pace() == 0
    now += 1.0
    pace()
    assert asked == pytest.approx([3 + FIRST_SAVE_SECONDS] * 2)  # no save has been measured yet
    for took in (0.5, 0.25):
        with pace.apart("save"):
            now += took
    with pace.apart("look"):
        now += 4.0
    now += 1.0
    pace()
    assert asked[-1] == pytest.approx(3 + 0.5 + 4)  # not one of them counts as part of the round
    for _ in range(RECENT):
        now += 1.0
        assert pace() == 0
    assert asked[-1] == pytest.approx(1 + 0.5 + 4)  # the first round is no longer recent
    now += 5.0
    assert pace() == 10
