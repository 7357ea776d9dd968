"""What a figure cost."""

from __future__ import annotations

import pytest
from tracked_store import result

from hptctl.report.findings import Findings


def test_a_cost_is_steps_times_batch_at_the_measured_speed(findings: Findings) -> None:
    place = result(findings, "hpt from moco-v2-800ep", 5000).place
    found = findings.costs[place]
    assert found.images == 5000 * 256
    assert found.hours == pytest.approx(5000 * 256 / 128 / 3600)
    assert found.hardware == "1 x 2-core x86_64 (cpu)"
    assert findings.costs[result(findings, "base", 0).place].images == 2240
