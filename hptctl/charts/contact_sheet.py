"""A contact sheet: a row for each image, with its caption below it and what was made of it to the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from hpt.errors import ConfigError
from hpt.files import replacing
from hptctl.charts.style import INK, MUTED, font_file
from hptctl.format import thousands

Pixels = npt.NDArray[np.uint8]
"""[H, W, 3]"""

TILE = 128
"""The least side of a tile as shown; smaller ones are enlarged, each pixel to a square."""
MARGIN, GAP, LINE = 16, 8, 18
TYPE = 13
MOST_PIXELS = 80_000_000
"""Image viewers refuse more."""
EMPTY, PAPER = "#cfcecd", "#e4e3e2"
"""The paper is grey, so that the edges of both white and black tiles are visible."""


@dataclass(frozen=True)
class SheetRow:
    """One image, the tiles that were made of it (all of one side), and two lines of caption."""

    image: Pixels
    tiles: Sequence[Pixels]
    caption: tuple[str, str]
    targets: Sequence[Pixels] = ()
    """Tiles between the image and the others, each as large as it is shown."""


@dataclass(frozen=True)
class SheetLayout:
    """Where the tiles of a sheet lie, in pixels."""

    rows: int
    columns: int
    scale: int
    """The side of the square that a tile's pixel is shown as."""
    side: int
    """The side of a tile as shown."""
    head: int
    """Height of what is above the first row."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the sheet."""
        width, height = self.at(self.rows, self.columns)
        return width - GAP + MARGIN, height - GAP + MARGIN

    def at(self, row: int, column: int) -> tuple[int, int]:
        """Left and top of a tile."""
        return MARGIN + column * (self.side + GAP), self.head + row * (self.side + 2 * LINE + GAP)


def layout(title: str, rows: int, columns: int, side: int) -> SheetLayout:
    """The layout of tiles of `side` pixels below a title.

    Raises:
        ConfigError: the sheet would be too large.
    """
    scale = -(-TILE // side)
    place = SheetLayout(rows, columns, scale, side * scale, 0)
    lines = _wrap(title, place.size[0] - 2 * MARGIN)
    place = SheetLayout(rows, columns, scale, side * scale, MARGIN + (len(lines) + 1) * LINE + GAP)
    width, height = place.size
    if width * height > MOST_PIXELS:
        raise ConfigError(
            f"the sheet would have {thousands(width)} x {thousands(height)} pixels, more than programs show",
            "lower --images, --views or --image-size",
        )
    return place


def draw(title: str, headings: Sequence[str], rows: Sequence[SheetRow], place: SheetLayout) -> Image.Image:
    """The sheet; `headings` are the titles of its columns."""
    sheet = Image.new("RGB", place.size, PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(_wrap(title, place.size[0] - 2 * MARGIN)):
        pen.text((MARGIN, MARGIN + number * LINE), line, INK, _font())
    for column, heading in enumerate(headings):
        left, top = place.at(0, column)
        pen.text((left, top - LINE), _cut(heading, place.side), MUTED, _font())
    for number, row in enumerate(rows):
        left, top = place.at(number, 0)
        pen.rectangle((left, top, left + place.side - 1, top + place.side - 1), EMPTY)
        image = _fit(row.image, place.side)
        sheet.paste(image, (left + (place.side - image.width) // 2, top + (place.side - image.height) // 2))
        for below, text, colour in zip((2, 2 + LINE), row.caption, (INK, MUTED), strict=True):
            pen.text((left, top + place.side + below), _cut(text, place.side), colour, _font())
        shown = [Image.fromarray(tile) for tile in row.targets]
        shown += [_enlarged(tile, place.scale) for tile in row.tiles]
        for column, tile in enumerate(shown, start=1):
            sheet.paste(tile, place.at(number, column))
    return sheet


def check_path(out: Path) -> None:
    """Refuse a file whose name says that it is something else than a PNG.

    Raises:
        ConfigError: it is such a file.
    """
    if out.suffix.lower() != ".png":
        raise ConfigError(f"a contact sheet is a PNG, and '{out.name}' is not", "end --out in .png")


def write(sheet: Image.Image, out: Path) -> None:
    """Write the sheet as a PNG file, atomically.

    Raises:
        ConfigError: `out` cannot be written.
    """
    try:
        with replacing(out) as part:
            made_by = PngInfo()
            made_by.add_text("Software", "hptctl")  # in a dataset's folder it is then known as no image of the set
            sheet.save(part, format="PNG", pnginfo=made_by)
    except OSError as error:
        raise ConfigError(f"the sheet cannot be written to {out}: {error.strerror}", "choose another --out") from None


def _fit(pixels: Pixels, side: int) -> Image.Image:
    """The image, reduced to fit a square, or enlarged in it by whole pixels."""
    longest = max(pixels.shape[:2])
    if longest <= side:
        return _enlarged(pixels, side // longest)
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.BILINEAR)
    return image


def _enlarged(pixels: Pixels, scale: int) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels.repeat(scale, axis=0).repeat(scale, axis=1)))


@cache
def _font() -> ImageFont.FreeTypeFont:
    # Pillow's own font has only ASCII.
    return ImageFont.truetype(font_file(), TYPE)


def _wrap(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if _font().getlength(longer) > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return [_cut(line, width) for line in lines]


def _cut(text: str, width: int) -> str:
    """The text, with its end replaced by dots where it is too wide."""
    font, whole = _font(), text
    while text and font.getlength(whole if text == whole else f"{text}...") > width:
        text = text[:-1]
    return text if text == whole else f"{text}..."
