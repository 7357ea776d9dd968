"""Charts as SVG: matplotlib draws, and the style sheet of the page colours.

Every neutral and every strategy has a fixed colour (`hptctl.charts.style`) that becomes a CSS variable here, so that
one picture serves light, dark and print. Text stays text: it can be searched, and takes the page's font. The same
figures give the same bytes: no date, no random ids.
"""

from __future__ import annotations

import io
import re
import warnings
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from hpt.errors import ConfigError
from hpt.files import replacing
from hptctl.charts.style import COLOURS, GRID, INK, MUTED, SURFACE

SUFFIXES = (".svg", ".png", ".pdf")
"""Formats that a chart can be saved in."""
_VARIABLES = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    GRID: "var(--rule)",
    SURFACE: "var(--surface)",
    **{colour: f"var(--{name})" for name, colour in COLOURS.items()},
}


def as_svg(figure: Figure, alt: str, key: str) -> Markup:
    """The figure as one `<svg role="img">` for a page of many: it has no ids but those that it refers to."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": key}), warnings.catch_warnings():
        # Glyphs that matplotlib's font lacks are drawn by the reader's fonts: the text stays text.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for superfluous in _SUPERFLUOUS:
        text = re.sub(superfluous, "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    while "<g/>" in text or re.search(r"<g>\s*</g>", text):
        text = re.sub(r"<g/>\s*|<g>\s*</g>\s*", "", text)
    # A hundredth of a unit is less than a screen shows.
    text = re.sub(r'( (?:d|x|y|transform)="[^"]*")', lambda found: _rounded(found.group()), text)
    text = re.sub(r"^<svg [^>]*>", _opening(text, alt), text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    return Markup(re.sub(r"\n\s*", "\n", text))


_SUPERFLUOUS = (
    r"<metadata>.*?</metadata>\s*",
    r"<!--.*?-->\s*",  # each label again
    r"font-family: [^;\"]*;? ?",  # the page's
    r' transform="rotate\(-0 [^)]*\)"',
    r'<path d="[^"]*" style="fill: none"/>\s*',
)
"""What a page does not need: two thirds of what matplotlib writes."""


def _rounded(attribute: str) -> str:
    attribute = " ".join(attribute.split("\n")).replace(' "', '"')
    return re.sub(r"\d+\.\d{3,}", lambda found: f"{float(found.group()):.2f}".rstrip("0").rstrip("."), attribute)


def _opening(text: str, alt: str) -> str:
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    return f'<svg {box.group()} role="img" aria-label="{escape(alt)}">'.replace("\\", r"\\")


def save(figure: Figure, path: Path, salt: str = "hptctl") -> None:
    """Write a figure, the same bytes each time, by its suffix, atomically; the ids in an SVG depend on `salt`.

    Raises:
        ConfigError: the suffix is not one of `SUFFIXES`, or the folder does not exist.
    """
    check_figure(path)
    quiet: dict[str, Any] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {"Software": "hptctl"}}
    with (
        replacing(path) as part,
        part.open("wb") as file,
        matplotlib.rc_context({"svg.hashsalt": salt, "svg.fonttype": "none"}),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure.savefig(file, format=path.suffix[1:], metadata=quiet[path.suffix], dpi=150)


def check_figure(path: Path) -> None:
    """Check that a figure can be written there.

    Raises:
        ConfigError: the suffix is not one of `SUFFIXES`, or the folder does not exist.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"a figure cannot be written as '{path.name}'", f"end it in {', '.join(SUFFIXES)}")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"the folder {path.parent} does not exist", "make it, or choose another file")


def standalone(svg: Markup) -> str:
    """A chart as a separate file: with the colours and the ground of a light page."""
    text = str(svg)
    for colour, variable in _VARIABLES.items():
        text = text.replace(variable, colour)
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    style = "<style>text { font-family: system-ui, 'DejaVu Sans', sans-serif }</style>"
    page = f'{style}<rect width="100%" height="100%" fill="{SURFACE}"/>'
    head, rest = text.split(">", 1)
    return f"{head.replace('<svg', f'<svg {names}', 1)}>{page}{rest}\n"
