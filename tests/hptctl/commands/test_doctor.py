"""`hptctl doctor`."""

from __future__ import annotations

import json


def test_doctor_finds_this_machine_well(hptctl) -> None:
    checks = {row["check"]: row for row in json.loads(hptctl("doctor", "--json").stdout)}
    assert checks["tracking"]["ok"]
    assert "torch" in checks["packages"]["found"]
