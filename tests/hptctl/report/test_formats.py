"""The report for papers and scripts, and the command that writes it."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import command
from PIL import Image
from tracked_store import ODD, Store

from hpt.errors import ConfigError
from hptctl import tracking
from hptctl.report import formats, page
from hptctl.report.findings import Findings
from hptctl.report.page import Selection


@pytest.fixture(scope="module")
def findings(report_folder: Path) -> Iterator[Findings]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(report_folder)
        yield page.read(Selection(experiment="test"))


def test_csv_has_a_row_a_figure_that_reads_back(findings: Findings) -> None:
    rows = list(csv.DictReader(io.StringIO(formats.as_csv(findings))))
    assert len(rows) == len(findings.every)
    for row, cell in zip(rows, findings.every, strict=True):
        assert (row["dataset"], row["arm"], int(row["steps"])) == (cell.target, cell.arm, cell.steps)
        assert float(row["test"]) == cell.mean
        assert row["run_ids"].split() == list(cell.run_ids)
    assert ODD in {row["dataset"] for row in rows}
    assert {row["test_std"] for row in rows if row["seeds"] == "1"} == {""}


def test_what_a_spreadsheet_would_compute_is_text_in_csv() -> None:
    assert formats._csv_cell('=HYPERLINK("x")') == '\'=HYPERLINK("x")'
    assert formats._csv_cell(-0.5) == "-0.5"


def test_json_holds_what_the_page_rests_on_and_no_nan(findings: Findings) -> None:
    text = formats.as_json(findings)
    assert not re.search(r"\bNaN\b|Infinity", text)
    document = json.loads(text)
    assert document["answers"]["aerial"] == "gain"
    assert {pair["by"] for pair in document["differences"]} == {"interval", "spread"}
    assert {each["bound"] for each in document["speed_ups"]} >= {"", "more than"}
    ids = {run["run_id"] for run in document["runs"]}
    assert {id for figure in document["figures"] for id in figure["run_ids"]} <= ids
    command = next(run["command"] for run in document["runs"] if run["name"] == "hpt-aerial-5000-0")
    assert command == "hptctl pretrain --name 'hpt-aerial-5000-0'"


def test_markdown_shows_names_as_text(findings: Findings) -> None:
    text = formats.as_markdown(findings)
    assert "<script" not in text
    assert r"&lt;script&gt;alert\(1\)&lt;/script&gt; \$x^ &amp; 图" in text
    assert "**76.0\u00a0% ± 0.5**" not in text  # the way over flowers is the best there
    assert "**82.5\u00a0%**" in text
    assert "*missing*" in text
    widths = {
        len(re.findall(r"(?<!\\)\|", line))
        for line in text.split("## Test, linear probe")[1].split("Wins")[0].splitlines()
        if line.startswith("|")
    }
    assert len(widths) == 1, "rows of other widths than the header"


def test_latex_escapes_what_latex_would_read(findings: Findings) -> None:
    text = formats.as_latex(findings)
    assert (
        r"\textless{}script\textgreater{}alert(1)\textless{}/script\textgreater{} \$x\textasciicircum{} \& 图" in text
    )
    assert r"target on tiny\_imagenet" in text
    assert r"\textbf{82.5}" in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    for table in text.split(r"\begin{table}")[1:]:
        columns = re.search(r"begin{tabular}{(\w+)}", table)
        assert columns is not None
        body = [line for line in table.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in body} == {len(columns.group(1))}
    assert len(rows) > 10
    assert not re.search(r"(?<!\\)[_#%](?! linear| fine| kNN)", re.sub(r"^% .*$", "", text, flags=re.M))


@pytest.mark.parametrize(
    ("out", "given", "expected"),
    [
        ("a.html", None, "html"),
        ("a.md", None, "md"),
        ("a.TEX", None, "latex"),
        ("a.txt", None, "html"),
        ("a", "csv", "csv"),
    ],
)
def test_the_suffix_says_the_format_where_nothing_else_does(out: str, given: str | None, expected: str) -> None:
    assert formats.of(Path(out), given) == expected


def test_an_unknown_format_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown --format 'latx' \(did you mean 'latex'\?\)"):
        formats.of(Path("a"), "latx")


def test_the_command_writes_each_format_and_standard_output(report_folder: Path, tmp_path: Path) -> None:
    def hptctl(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command("report", *arguments), cwd=report_folder, capture_output=True, text=True, check=False
        )

    out = tmp_path / "aerial.csv"
    done = hptctl("--dataset", "aerial", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert {row["dataset"] for row in csv.DictReader(io.StringIO(out.read_text()))} == {"aerial"}
    done = hptctl("sweep-hpt-flowers-5000-0", "--out", "-", "--format", "json")
    assert [figure["evaluation"] for figure in json.loads(done.stdout)["figures"]] == ["finetuning, 1,000 labels"]
    done = hptctl("--out", "-", "--watch")
    assert done.returncode == 2
    assert "--watch" in done.stderr


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


def test_what_a_run_under_way_logs_is_no_change(workplace: Path) -> None:
    store = Store()
    source = store.pretrain("hpt", "flowers", 50)
    watch = tracking.Watch()
    assert watch.changed()
    assert not watch.changed()
    running = store.evaluate("linear", source, "flowers", None, state="running")
    assert watch.changed()
    from hptctl import runs

    run = runs.get(running)
    run.append_metrics({"val/top1": 0.5}, 7)
    tracking.sync(run)
    assert not watch.changed()
    run.write_status(state="finished", ended=1_770_000_000.0)
    tracking.sync(run)
    assert watch.changed()


def test_a_copied_store_is_reported_on_without_its_folders(report_folder: Path, workplace: Path) -> None:
    shutil.copy(report_folder / "mlflow.db", workplace / "mlflow.db")
    assert page.write(workplace / "x.tex").bytes > 1000


def test_images_of_a_dataset_are_in_the_page_only_where_they_are_asked_for(
    tmp_path: Path, digits_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store()
    for dataset in (str(digits_folder), "flowers"):
        store.evaluate("linear", store.pretrain("hpt", dataset, 100), dataset, None, right=[300])
    page.write(Path("plain.html"))
    assert "data:image" not in Path("plain.html").read_text()
    page.write(Path("shown.html"), images=4)
    html = Path("shown.html").read_text()
    assert re.findall(r'alt="An image of (\w+)"', html) == ["0", "0", "1", "2"]
    assert html.count("Its images are not on the machine") == 1
    (first, *_) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    assert Image.open(io.BytesIO(base64.b64decode(first))).size == (16, 16)
