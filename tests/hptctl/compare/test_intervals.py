"""Intervals of differences, of a report and of `hptctl compare`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tracked_store import IMAGES, LABELS, predictions_of, result

from hpt.statistics import Model, difference, resample
from hptctl.compare.arms import arms
from hptctl.compare.comparison import compare
from hptctl.compare.differences import RESAMPLES
from hptctl.report import selection
from hptctl.report.findings import Findings
from hptctl.report.selection import Selection

TEST = Selection(experiment="test")
pytestmark = pytest.mark.usefixtures("folder")


def test_an_interval_is_that_of_the_predictions_with_seeds_as_seeds(findings: Findings) -> None:
    hpt, base = result(findings, "hpt from moco-v2-800ep", 5000), result(findings, "base", 0)
    found = findings.difference(hpt, base)
    seeds = [predictions_of(right).scores for right in ((300, 304), (302, 306), (304, 308))]
    models = Model(seeds), Model([predictions_of((240, 240)).scores], trained=False)
    expected = difference(*resample("top1", models, LABELS, resamples=RESAMPLES))
    assert found.points == pytest.approx(expected.difference) == pytest.approx((304 - 240) / IMAGES)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.verdict == "win"
    assert findings.difference(base, hpt) == -found == replace(-found, verdict="loss")


def test_compare_gives_the_same_interval(findings: Findings) -> None:
    hpt, bn = result(findings, "hpt from moco-v2-800ep", 5000), result(findings, "hpt-bn", 5000)
    names = [",".join(findings.frame.loc[list(c.run_ids), "name"]) for c in (hpt, bn)]
    (pair,) = compare(arms(names, "test"), "top1", "test", resamples=RESAMPLES, seed=0, level=0.95).pairs
    found = findings.difference(hpt, bn)
    assert (found.low, found.high) == pytest.approx((pair.interval.low, pair.interval.high))
    assert found.verdict == pair.verdict


def test_an_interval_is_kept_and_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPTCTL_CACHE", str(tmp_path))
    first = selection.read(TEST)
    hpt, base = result(first, "hpt from moco-v2-800ep", 5000), result(first, "base", 0)
    (file,) = (tmp_path / "intervals").glob("*.json")  # of the only dataset with predictions
    kept = json.loads(file.read_text())
    assert kept["images"] == IMAGES
    assert {tuple(ids) for ids, _ in kept["units"]} >= {hpt.run_ids, base.run_ids}
    kept["variances"] = [[a, b, 100 * variance] for a, b, variance in kept["variances"]]
    file.write_text(json.dumps(kept))
    assert selection.read(TEST).difference(hpt, base).high > first.difference(hpt, base).high + 0.1
    file.write_text("damaged")
    assert selection.read(TEST).difference(hpt, base) == first.difference(hpt, base)
