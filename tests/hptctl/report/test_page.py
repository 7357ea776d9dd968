"""The report, from a real SQLite store that holds every situation that a page must tell apart."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tracked_store import ODD, Store

from hpt.errors import ConfigError, RunError
from hptctl import tracking
from hptctl.format import when
from hptctl.report import page
from hptctl.report.findings import Findings, gather
from hptctl.report.frame import tidy
from hptctl.report.selection import Selection

ROOT = Path(__file__).parents[3]

TEST = Selection(experiment="test")
pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture(scope="module")
def html(report_folder: Path) -> str:
    return (report_folder / "report.html").read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Every start tag with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def words(fragment: str) -> str:
    """A fragment of HTML as the reader reads it."""
    return " ".join(unescape(re.sub(r"<[^>]+>", "", re.sub(r"<svg.*?</svg>", "", fragment, flags=re.S))).split())


def table(html: str, caption: str) -> list[list[str]]:
    """The cells of a table, as words."""
    found = re.search(rf"<table[^>]*>\s*<caption>{re.escape(caption)}</caption>.*?</table>", html, re.S)
    assert found, f"no table '{caption}'"
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", found.group(), re.S)
    return [[words(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)] for row in rows]


def answer(html: str, dataset: str) -> str:
    articles = [words(a) for a in re.findall(r"<article.*?</article>", html, re.S)]
    return next(a for a in articles if a.startswith(dataset))


def test_the_linear_table_shows_mean_and_deviation_over_the_newest_run_of_each_seed(html: str) -> None:
    newest = {
        r.tags.pretrain_seed: r.metrics["test/top1"]
        for r in tracking.read_runs("test")
        if r.kind == "linear" and r.tags.dataset == "flowers" and r.tags.strategy == "hpt"
        and r.tags.steps == 5000
    }  # fmt: skip
    assert len(newest) == 3
    mean, std = statistics.mean(newest.values()), statistics.stdev(newest.values())
    header, *rows = table(html, "Test, linear probe")
    row = next(row for row in rows if row[0] == "hpt")
    column = next(i for i, cell in enumerate(header) if cell.startswith("flowers"))
    assert row[column].startswith(f"{100 * mean:.1f} % ± {100 * std:.1f} val's choice")
    assert "5,000 steps · 3 seeds: 0, 1, 2" in row[column]


def test_a_strategy_nobody_ran_shows_as_missing(html: str) -> None:
    header, *rows = table(html, "Test, linear probe")
    chest = next(i for i, cell in enumerate(header) if cell.startswith("chest"))
    assert {row[0]: row[chest] == "missing" for row in rows} == {
        "base": False,
        "target": True,
        "target on tiny_imagenet": True,
        "hpt": False,
        "hpt from hpt-flowers-5000-0": True,
        "hpt from moco-v2-800ep": True,
        "hpt-bn": True,
    }
    assert {row[0] for row in table(html, "Test, kNN")[1:]} == {"base", "target", "hpt", "hpt-bn"}


def test_the_answer_names_what_val_chose_and_its_distance_to_the_others(html: str) -> None:
    said = answer(html, "flowers")
    assert "flowers Gain" in said
    assert "Val chose hpt after 5,000 steps: 84.6 % top-1 accuracy on test (linear probe)" in said
    assert "13.4 points above base (" in said
    assert re.search(r"10.5 points above target \(.* to .*; one seed cannot tell\)", said)
    assert re.search(r"not told apart from hpt-bn \(.* to .*; .* would have been seen\)", said)
    assert "Single seed: target, hpt-bn." in said


def test_without_predictions_what_is_no_share_of_images_is_not_judged_and_what_is_missing_is_named(html: str) -> None:
    said = answer(html, "chest")
    assert "chest Not to be judged" in said
    assert "0.8 points above base (chance unknown)" in said
    assert "Missing: target, untrained. For the floor: hptctl evaluate linear untrained -d chest --preset small" in said
    assert "--backbone resnet18 --image-size 64" in said


def test_the_command_for_the_floor_has_no_option_that_was_not_given(html: str) -> None:
    commands = re.findall(r"For the floor: <code>(.*?)</code>", html)
    assert len(commands) == 4
    assert not any(word in command for command in commands for word in ("None", "nan"))


def test_a_single_seed_is_said_to_look_worse(html: str) -> None:
    said = answer(html, ODD)
    assert "Looks worse, one seed Val chose base: 93.0 %" in said
    assert "27.0 points above target (" in said
    assert "To know, run more seeds: 2 of hpt." in said
    assert (
        f"Yes on flowers; it looks better on aerial, but one seed cannot tell; it looks worse on {ODD}, "
        "but one seed cannot tell; not to be judged on chest."
    ) in words(html)


def test_a_strategy_without_rivals_is_not_called_the_best(folder: Path) -> None:
    alone = [r for r in tracking.read_runs("test") if r.tags.dataset == "chest" and r.tags.strategy == "hpt"]
    made = page.build(gather(tidy(alone)))
    assert made.lead == "Not answered on chest, which lacks base or a further pretraining."
    figures = [figure for table in made.tables for row in table.rows for figure in row.figures if figure]
    assert [(figure.value.split()[0], figure.mark) for figure in figures] == [("92.1", "")]


def test_a_sweep_shows_its_trials_by_val_and_the_test_of_the_winner_alone(html: str) -> None:
    header, *rows = table(html, "Trials by val top-1 accuracy; test is computed once, for the winner")
    assert header == ["trial", "learning rate", "schedule", "val", "test", "state"]
    assert [row[1:5] for row in rows] == [
        ["0.01", "90-epochs", "64.4 %", "63.9 %"],
        ["0.01", "2500-steps", "62.0 %", "–"],
        ["0.001", "2500-steps", "58.0 %", "–"],
        ["0.001", "90-epochs", "57.1 %", "–"],
    ]
    assert [row[0].endswith("won") for row in rows] == [True, False, False, False]
    hpt = next(row for row in table(html, "Test, finetuning, 1,000 labels")[1:] if row[0] == "hpt")
    assert hpt[1].startswith("63.9 % val's choice")


def test_every_run_is_in_the_provenance_table_with_its_state(html: str) -> None:
    header, *rows = table(html, "Every run in the store")
    by_name = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    assert set(by_name) == {record.name for record in tracking.read_runs("test")}
    states = ("gave-up", "stopped", "on-its-way", "linear-of-an-older-day", "linear-all-hpt-flowers-5000-0")
    assert [by_name[name]["state"] for name in states] == [
        "failed",
        "killed",
        "running",
        "superseded",
        "counts",
    ]
    assert by_name["gave-up"]["made again by"] == "hptctl finetune --name 'gave-up'"
    assert by_name["hpt-flowers-5000-2"]["config · data · split · weights"].endswith(
        "feedc0ffee · 5ca1ab1e00 · a1b2c3d4e5"
    )
    assert "99.0 %" not in words(html.split('id="provenance"')[0])


def test_the_newest_run_dates_the_page(html: str) -> None:
    last = max(record.end or 0 for record in tracking.read_runs("test"))
    assert f"newest run ended {when(last)}" in words(html)


def test_odd_names_show_as_text(html: str) -> None:
    assert html.count("<script") == 1  # the page's own
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert ODD in words(html)


def test_the_page_needs_no_network_and_its_only_script_is_the_one_that_sorts(html: str) -> None:
    sorts = (ROOT / "templates/sort.js").read_text(encoding="utf-8").strip()
    assert re.findall(r"<script>(.*?)</script>", html, re.DOTALL)[0].strip() == sorts
    for tag, attributes in Elements(html).found:
        assert tag not in {"link", "img", "iframe", "object", "embed"}
        for name in ("href", "xlink:href", "src", "srcset", "action", "data"):
            assert (attributes.get(name) or "#").startswith("#"), f"<{tag} {name}={attributes[name]!r}>"
        assert not [name for name in attributes if name.startswith("on")]
    assert re.findall(r"url\((?!#)[^)]*\)", html) == []
    assert "@import" not in html


def test_every_link_leads_to_the_one_element_with_that_id(html: str) -> None:
    elements = Elements(html).found
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {a.get("href") or a.get("xlink:href") for _, a in elements} - {None}
    assert targets <= {f"#{id}" for id in ids}
    assert set(re.findall(r"url\(#([^)]*)\)", html)) <= set(ids)


def test_a_page_of_many_datasets_has_their_figures_alone_and_the_runs_behind_them(
    findings: Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "WHOLE", 1)
    built = page.build(findings)
    assert not any(section.charts or section.sweeps or section.confusion for section in built.sections)
    assert all(section.details for section in built.sections)
    listed = {row.run_id for row in built.provenance}
    assert built.unlisted == len(findings.frame) - len(listed) > 0
    html = page.render(findings, "html")
    elements = Elements(html).found
    linked = {a["href"] for _, a in elements if (a.get("href") or "").startswith("#")}
    assert linked <= {f"#{a['id']}" for _, a in elements if "id" in a}
    assert f"rests on {built.unlisted} other runs" in words(html)
    assert "hptctl report --dataset NAME" in words(html)


def test_every_chart_says_in_words_what_it_shows_and_every_header_cell_what_it_heads(html: str) -> None:
    elements = Elements(html).found
    charts = [attributes for tag, attributes in elements if tag == "svg"]
    assert len(charts) >= 10
    assert all(chart["role"] == "img" and len(chart["aria-label"] or "") > 30 for chart in charts)
    assert all(attributes.get("scope") in {"row", "col"} for tag, attributes in elements if tag == "th")
    tables = len([tag for tag, _ in elements if tag == "table"])
    assert tables == len([tag for tag, _ in elements if tag == "caption"])


def test_the_same_runs_give_the_same_bytes(folder: Path, tmp_path: Path, html: str) -> None:
    again = tmp_path / "again.html"
    summary = page.write(again, TEST)
    assert again.read_bytes() == (folder / "report.html").read_bytes()
    assert summary == page.Summary(4, len(tracking.read_runs("test")), len(html.encode()), again)


def test_a_store_without_finished_evaluations_says_what_to_do_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Store().pretrain("hpt", "flowers", 100)
    with pytest.raises(RunError, match=r"no finished evaluation runs in .*evaluate linear"):
        page.write(tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_place_that_cannot_be_written_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be written to .*nowhere.*another --out"):
        page.write(tmp_path / "nowhere" / "report.html", TEST)


def test_the_report_never_imports_torch() -> None:
    code = "import sys, hptctl.report.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
