"""The studies that a page sets apart: variants of the method, and chains of pretrainings."""

from __future__ import annotations

from hptctl.report import panels
from hptctl.report.findings import Findings


def test_a_variant_stands_beside_the_whole_method_and_never_for_it(findings: Findings) -> None:
    assert not {c.arm for c in findings.rivals("aerial")} & {"hpt crop-only", "hpt 10 % of images"}
    (study,) = panels.policies(findings)
    assert (study.target, study.columns) == ("aerial", ("baseline", "crop-only"))
    (row,) = study.rows
    assert row[0] == "hpt, 5,000 steps"
    whole, cut = row[2]
    assert whole is not None and cut is not None
    assert (whole.figure.text, whole.lost) == ("76.0\u00a0%", "the whole")
    assert cut.figure.text == "65.0\u00a0%"
    assert cut.lost.startswith("−11.0 (")
    (shares,) = panels.shares(findings)
    assert shares.columns == ("10 %", "100 %")
    assert "tie" in shares.rows[0][2][0].lost  # type: ignore[union-attr]  # it was run


def test_a_chain_is_compared_with_the_direct_way(findings: Findings) -> None:
    (found,) = panels.chains(findings)
    ways = {row.datasets: row.against_direct for row in found.rows}
    assert ways["base → flowers → aerial"].startswith("+6.5 (")
    assert ways["base → aerial"] == ways["random → aerial"] == ways["base"] == ""
