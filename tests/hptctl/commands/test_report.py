"""`hptctl report`, once and watching."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest
from program import command, run_inside
from tracked_store import Store


def test_the_command_writes_each_format_and_standard_output(
    report_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(report_folder)
    hptctl = partial(run_inside, "report")
    out = tmp_path / "aerial.csv"
    done = hptctl("--dataset", "aerial", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert {row["dataset"] for row in csv.DictReader(io.StringIO(out.read_text()))} == {"aerial"}
    done = hptctl("sweep-hpt-flowers-5000-0", "--out", "-", "--format", "json")
    assert [figure["evaluation"] for figure in json.loads(done.stdout)["figures"]] == ["finetuning, 1,000 labels"]
    done = hptctl("--out", "-", "--watch")
    assert done.returncode == 2
    assert "--watch" in done.stderr


@pytest.mark.slow
def test_watching_waits_for_a_first_evaluation_and_writes_again_after_the_next(workplace: Path) -> None:
    store = Store()
    base = store.pretrain("base", "flowers", 0)
    watching = subprocess.Popen(
        command("report", "--watch", "--out", "page.html"),
        cwd=workplace, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1,
    )  # fmt: skip
    assert watching.stdout is not None
    try:
        for line in watching.stdout:
            if "no finished evaluation" in line:
                break
        assert not Path("page.html").exists()
        store.evaluate("linear", base, "flowers", 0.7)
        assert next(line for line in watching.stdout if line.startswith("page.html")) != ""
        assert "70.0" in Path("page.html").read_text()
        first = Path("page.html").stat().st_mtime_ns
        store.evaluate("linear", store.pretrain("hpt", "flowers", 50), "flowers", 0.8)
        deadline = time.monotonic() + 60
        while "80.0" not in Path("page.html").read_text() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert Path("page.html").stat().st_mtime_ns > first
        assert "80.0" in Path("page.html").read_text()
        watching.send_signal(signal.SIGINT)
        assert watching.wait(30) == 0
    finally:
        watching.kill()
        watching.wait()
        watching.stdout.close()
