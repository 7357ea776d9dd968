"""The page in a browser: Chromium without a network, light and dark, on a desk and on a phone.

Skipped where the group `browser` (`uv sync --group browser`) or a Chromium is not installed.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="the group 'browser' is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # Containers run as root, where Chromium's own sandbox does not start.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Opened:
    """The report in a browser of its own, and what it asked for and complained of."""

    def __init__(self, browser: Any, report: Path, **context: Any) -> None:
        self.context = browser.new_context(offline=True, **context)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(report.as_uri())


@pytest.fixture
def opened(browser: Any, report_folder: Path, request: pytest.FixtureRequest) -> Iterator[Opened]:
    opened = Opened(browser, report_folder / "report.html", **getattr(request, "param", {}))
    yield opened
    opened.context.close()


PHONE = {"viewport": {"width": 390, "height": 844}}
DARK = {"color_scheme": "dark"}


def test_the_page_asks_for_nothing_and_has_nothing_to_complain_of(opened: Opened, report_folder: Path) -> None:
    assert opened.requests == [(report_folder / "report.html").as_uri()]
    assert opened.complaints == []


def test_tables_are_sorted_by_their_heads_and_come_back_to_the_order_they_had(opened: Opened) -> None:
    def column() -> list[str]:
        found: list[str] = opened.page.evaluate("[...document.querySelectorAll('table.runs tbody td:nth-child(5)')]"
                                                ".map(cell => cell.textContent)")  # fmt: skip
        return found

    given, head = column(), opened.page.locator("table.runs thead th", has_text="steps")
    numbers = [int(text.replace(",", "")) for text in given if text[0].isdigit()]
    assert sorted(numbers, reverse=True) != numbers
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert [int(t.replace(",", "")) for t in column() if t[0].isdigit()] == sorted(numbers, reverse=True)
    opened.page.keyboard.press("Enter")  # the button has the focus
    assert [int(t.replace(",", "")) for t in column() if t[0].isdigit()] == sorted(numbers)
    opened.page.keyboard.press("Enter")
    assert column() == given


@pytest.mark.parametrize("opened", [{"java_script_enabled": False}], indirect=True)
def test_without_scripts_the_tables_are_there_without_buttons(opened: Opened) -> None:
    assert opened.page.locator("table.runs tbody tr").count() > 5
    assert opened.page.locator("button").count() == 0


def test_every_link_leads_somewhere_on_the_page(opened: Opened) -> None:
    found = opened.page.evaluate(
        "[...document.links].map(a => a.getAttribute('href')).map(href => [href, !!document.querySelector(href)])"
    )
    assert len(found) > 50
    assert [href for href, there in found if not there] == []
    opened.page.click('nav >> text="Runs"')
    assert opened.page.url.endswith("#provenance")


@pytest.mark.parametrize(
    "opened", [{}, DARK, PHONE, PHONE | DARK], indirect=True, ids=["desk", "dark", "phone", "both"]
)
def test_axe_finds_no_fault(opened: Opened) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed")
    results = axe.Axe().run(opened.page)
    faults = [(f["id"], f["help"], f["nodes"][0]["html"][:200]) for f in results.response["violations"]]
    assert faults == []
    passed = {rule["id"] for rule in results.response["passes"]}
    assert {"color-contrast", "link-name", "svg-img-alt", "scrollable-region-focusable"} <= passed


@pytest.mark.parametrize("opened", [{}, PHONE, {"viewport": {"width": 320, "height": 600}}], indirect=True)
def test_only_tables_scroll_sideways(opened: Opened) -> None:
    width, window = opened.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width <= window


def test_the_keyboard_reaches_the_content_first_and_then_its_links(opened: Opened) -> None:
    opened.page.keyboard.press("Tab")
    assert opened.page.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert opened.page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    opened.page.keyboard.press("Enter")
    assert opened.page.evaluate("document.activeElement.id") == "main"


@pytest.mark.parametrize("opened", [DARK], indirect=True)
def test_print_is_on_white_and_every_cell_stays_on_the_paper(opened: Opened) -> None:
    opened.page.emulate_media(media="print", color_scheme="dark")
    opened.page.set_viewport_size({"width": 718, "height": 1000})  # A4 less its margins
    assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    cut = opened.page.evaluate(
        "[...document.querySelectorAll('table:not(.runs)')].filter(t => t.getBoundingClientRect().right > innerWidth)"
        ".map(t => t.caption.textContent)"
    )
    assert cut == []


@pytest.mark.parametrize("opened", [{}, DARK], indirect=True)
def test_what_charts_say_is_drawn_inside_them(opened: Opened) -> None:
    outside = opened.page.evaluate(
        """[...document.querySelectorAll('svg[role=img]')].flatMap(svg => {
            const box = svg.getBoundingClientRect();
            return [...svg.querySelectorAll('text')].filter(text => {
                const at = text.getBoundingClientRect();
                return at.left < box.left - 1 || at.right > box.right + 1 || at.bottom > box.bottom + 1;
            }).map(text => text.textContent + ' | ' + svg.getAttribute('aria-label').slice(0, 60));
        })"""
    )
    assert outside == []
