"""`hptctl report --reproducible`: equal results give equal bytes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from program import Hptctl, checked, run_inside, signal_when
from small_study import STUDY
from tracked_store import T0, Store

from hptctl import runs, tracking
from hptctl.report import formats, page
from hptctl.report.selection import Selection, read


def filled(store: Store, seeds: Sequence[int], name: str) -> None:
    base = store.pretrain("base", "aerial", 0)
    store.evaluate("linear", base, "aerial", None, right=(240, 240))
    for seed in seeds:
        hpt = store.pretrain("hpt", "aerial", 500, seed, looks=True)
        store.evaluate("linear", hpt, "aerial", None, right=(300 + seed, 304), name=f"{name}-{seed}")


def test_equal_results_give_equal_bytes_whenever_and_wherever_they_ran(
    tmp_path: Path, new_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, reproducible = [], []
    hardware = ("1 x 2-core x86_64 (cpu)", "8 x H100 (cuda)")
    for place, seeds, clock, machine in zip("ab", ((0, 1), (1, 0)), (T0, T0 + 9e6), hardware, strict=True):
        (tmp_path / place).mkdir()
        shutil.copy(new_store, tmp_path / place)
        monkeypatch.chdir(tmp_path / place)
        filled(Store(clock, machine), seeds, f"linear-{place}")
        records = tracking.read_runs()
        plain.append({format: render(read(Selection())) for format, render in formats.FORMATS.items()})
        findings = read(Selection(), reproducible=True)
        reproducible.append({format: page.render(findings, format) for format in ("html", *formats.FORMATS)})
        said = [*(r.run_id for r in records), *(r.name for r in records), machine, str(tmp_path), "hptctl linear"]
        for text in reproducible[-1].values():
            assert not [each for each in said if each in text]
    assert reproducible[0] == reproducible[1]
    assert {format for format, text in plain[0].items() if text != plain[1][format]} == {"csv", "json"}
    assert "This page is reproducible" in reproducible[0]["html"]
    named = {record.name for record in records}
    for digest in set(re.findall(r'id="run-([0-9a-f]{32})"', reproducible[0]["html"])):
        assert set(read(Selection(names=(digest[:10],))).frame["name"]) <= named


@pytest.mark.slow
def test_a_study_that_was_stopped_and_gone_on_with_gives_the_bytes_of_an_unbroken_one(
    workplace: Path, new_store: Path, digits_folder: Path, hptctl: Hptctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = STUDY.format(dataset=digits_folder).replace("target = [4]", "target = [40]")
    written = []
    for place in ("unbroken", "stopped"):
        (workplace / place).mkdir()
        shutil.copy(new_store, workplace / place)
        monkeypatch.chdir(workplace / place)
        Path("mine.toml").write_text(text.replace("[set]", "[set]\ncheckpoint_every = 5"))
        if place == "stopped":
            with signal_when(Path("runs/target-my-digits-s0-40/checkpoints/step-00000005.sha256")):
                checked(run_inside, "study", "run", "mine.toml", code=143)
        hptctl("study", "run", "mine.toml")
        names = [f"report.{suffix}" for suffix in ("html", "csv", "json", "md", "tex")]
        for name in names:
            hptctl("report", "--study", "mine", "--reproducible", "--out", name)
        written.append({name: Path(name).read_bytes() for name in names})
        logged = [line["step"] for line in runs.get("target-my-digits-s0-40").metrics() if "loss" in line]
        assert logged == [1, *range(5, 41, 5)]
    assert written[0] == written[1]
