"""The report for papers and scripts, and the command that writes it."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from pathlib import Path

import pytest
from tracked_store import ODD

from hpt.errors import ConfigError
from hptctl.report import formats, page
from hptctl.report.findings import Findings


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
    assert document["answers"]["flowers"] == "gain"
    assert document["answers"]["aerial"] == "ahead"  # val chose what has a single seed
    assert {pair["by"] for pair in document["differences"]} == {"predictions", "figures"}
    assert {pair["verdict"] for pair in document["differences"]} >= {"loss", "ahead", "tie", "open"}
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
        ("a.txt", "html", "html"),
        ("a", "csv", "csv"),
    ],
)
def test_the_suffix_says_the_format_where_nothing_else_does(out: str, given: str | None, expected: str) -> None:
    assert formats.of(Path(out), given) == expected


def test_an_unknown_format_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown --format 'latx' \(did you mean 'latex'\?\)"):
        formats.of(Path("a"), "latx")


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("a.xlsx", "end it in .html, .htm, .md, .csv, .json, .tex, or say what it is with --format"),
        ("a.pdf", "a browser prints the .html as PDF"),
        ("a.jsn", r"(did you mean '.json'?)"),
        ("page", "'page'; end it in"),
    ],
)
def test_a_suffix_that_says_no_format_is_refused(out: str, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        formats.of(Path(out), None)


def test_a_copied_store_is_reported_on_without_its_folders(report_folder: Path, workplace: Path) -> None:
    shutil.copy(report_folder / "mlflow.db", workplace / "mlflow.db")
    assert page.write(workplace / "x.tex").bytes > 1000
