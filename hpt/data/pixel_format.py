"""How the numbers in a dataset's files become its pixels: decided once, the same for all images and strategies."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from hpt.config import Config
from hpt.data.file_kinds import Frame
from hpt.data.listing import Unreadable
from hpt.data.raw import Colours, Depth, Range, Raw

LUMA = np.array([0.299, 0.587, 0.114])
"""The weights of red, green and blue in the luma of ITU-R 601-2."""

Scaling = Literal["measured", "given", "own", "image", "full"]


class Unmeasured(Exception):
    """An image of a kind of which the measured ones held none; this exception never leaves the package."""


class PixelFormat(Config):
    """The channels, windows and bits of a dataset's pixels."""

    channels: int = 3
    """The number of channels of a pixel."""
    colours: Colours = "rgb"
    """What they are."""
    picks: tuple[int, ...] | None = None
    """The channels of the files that are taken, from 0; None: all of an RGB or grey image, as `colours` says."""
    names: tuple[str, ...] = ()
    """The names of the channels, where they are known."""
    pages_are_channels: bool = False
    """Whether the pages of a TIFF are its channels."""
    frame: Frame = "first"
    """The page, frame or slice of a file that is its image."""
    bits: Literal[8, 16] = 8
    """The bits of a channel of a pixel."""
    scaling: Scaling = "full"
    """Where the windows come from: `measured` over the training images, `given` by the configuration, each file's `own`
    (`windows` serve those that have none), the lowest and highest value of each `image`, or the `full` range of the
    type."""
    windows: dict[Depth, tuple[Range, ...]] = Field(default={})
    """The values that become black and white, by kind of number: for all channels, or for each."""
    classes_by: Literal["", "index", "colour", "either"] = ""
    """What a pixel is where it is the number of a class, which no reduction mixes: the `index` that the file has, or
    that of its `colour`, or by its colour in files of colours and its index in others; empty for images."""
    class_colours: tuple[tuple[int, int], ...] = ()
    """The colours of classes as 0xRRGGBB, and their numbers."""
    measured_on: int = 0
    """The number of training images that the windows were measured on."""

    @property
    def plain(self) -> bool:
        """Whether pixels are 8-bit RGB, and files of 8 bits keep their values."""
        return self.model_copy(update={"scaling": "full", "measured_on": 0}) == PixelFormat()

    @property
    def white(self) -> int:
        """The highest value of a channel."""
        return (1 << self.bits) - 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of a channel."""
        return np.dtype(np.uint8 if self.bits == 8 else np.uint16)

    def keeps_eight(self) -> bool:
        """Whether a picture of 8 bits needs no window and no choice of channels."""
        return self.picks is None and self.colours != "none" and self.scaling != "image" and "8-bit" not in self.windows

    def select(self, raw: Raw) -> npt.NDArray[Any]:
        """The channels [H, W, C or 1] of an image; one that is the same in all of them comes once.

        Raises:
            Unreadable: the image lacks a channel.
        """
        values, count = raw.values, raw.values.shape[2]
        if self.picks is not None:
            if max(self.picks) >= count:
                lacking = min(pick for pick in self.picks if pick >= count)
                name = f" ({self.names[self.picks.index(lacking)]})" if self.names else ""
                said = f"{count} channel{'' if count == 1 else 's'}"
                raise Unreadable(f"has {said}, and channel {lacking}{name}, counted from 0, is asked for")
            return values if self.picks == tuple(range(count)) else values[:, :, list(self.picks)]
        if raw.colours == "none":
            raise Unreadable(f"has {count} channels that are no colours")
        if self.channels == 1 and count == 3:
            return (values.astype(np.float32) @ LUMA.astype(np.float32))[:, :, None]
        return values

    def window(self, raw: Raw, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """[C or 1, 2] the values of an image that become black and white.

        Raises:
            Unreadable: it holds values that are not finite. Unmeasured: no window is known for such an image.
        """
        if self.scaling == "image":
            return np.array([_extremes(values)])
        if self.scaling == "own" and raw.window is not None:
            return np.array([raw.window])
        if raw.depth in self.windows:
            return np.array(self.windows[raw.depth])
        if raw.depth == "8-bit":
            return np.array([(0.0, 255.0)])
        if self.scaling == "full":
            return np.array([full_range(values)])
        raise Unmeasured

    def shares(self, raw: Raw) -> npt.NDArray[np.float32]:
        """[H, W, C or 1] an image from 0, black, to 1, white.

        Raises:
            Unreadable: it lacks a channel, or holds values that are not finite. Unmeasured: as `window`.
        """
        values = self.select(raw)
        absent = None if raw.absent is None else (raw.absent if raw.absent.shape == values.shape else None)
        if raw.absent is not None and self.picks is not None:
            absent = raw.absent[:, :, list(self.picks)]
        if values.dtype.kind == "f" and not np.isfinite(values if absent is None else values[~absent]).all():
            raise Unreadable("holds values that are not finite")
        low, high = self.window(raw, values).T
        shares = (values - low.astype(np.float32)) if values.dtype.itemsize < 4 else values - low
        shares = (shares * (1 / np.maximum(high - low, np.finfo(np.float32).tiny)).astype(shares.dtype)).clip(0, 1)
        if raw.inverted:
            shares = 1 - shares
        if absent is not None:
            shares[absent] = 0
        found: npt.NDArray[np.float32] = shares.astype(np.float32, copy=False)
        return found

    def in_words(self) -> str:
        """What became of the files' numbers: `intensities 0 to 3,000 (measured on 84 train images), 16 bits`; empty for
        plain pixels."""
        if self.plain:
            return ""
        parts = []
        if self.channels != 3 or self.picks is not None:
            parts.append(self._channels_in_words())
        for depth, windows in list(self.windows.items())[: 1 if self.scaling == "given" else None]:
            what = f"intensity window{'' if len(windows) == 1 else 's'}"
            of = " of floating-point images" if depth == "float" else ""
            parts.append(f"{what}{of} {', '.join(map(_range, windows))}{self._source(depth)}")
        if self.scaling == "own":
            parts.append("each file's own intensity window, where it has one")
        if self.scaling == "image":
            parts.append("each image's lowest to highest value")
        parts.append(f"{self.bits} bits")
        return "; ".join(parts)

    def _channels_in_words(self) -> str:
        if self.colours == "grey":
            return "one grey channel"
        names = [name or str(pick) for name, pick in zip(self.names, self.picks or (), strict=False)]
        if not any(self.names) and self.picks != tuple(range(self.channels)):
            names = [f"{pick} of the files" for pick in self.picks or ()]
        named = f" ({', '.join(names)})" if names and any(names) else ""
        colours = "" if self.colours == "rgb" else ", which are no colours"
        return f"{self.channels} channel{'' if self.channels == 1 else 's'}{named}{colours}"

    def _source(self, depth: Depth) -> str:
        if self.scaling == "given":
            return " (as given)"
        many = f"{self.measured_on:,} train image{'' if self.measured_on == 1 else 's'}"
        return f" (measured on {many})" if self.measured_on else " (the files' own)"


PLAIN = PixelFormat()
"""8-bit RGB, each type of number by its full range."""


def full_range(values: npt.NDArray[Any]) -> Range:
    """The range of a type as far as a file tells it: 0 to 65535 for integers that fit it; 0 to 1, or to 255, for
    floating point that does; else the lowest and highest value.

    Raises:
        Unreadable: values are not finite.
    """
    low, high = _extremes(values)
    if values.dtype.kind == "f" and low >= 0 and high <= 255:
        return 0.0, 1.0 if high <= 1 else 255.0
    if values.dtype.kind != "f" and low >= 0 and high <= 65535:
        return 0.0, 65535.0
    return low, high


def eight_bits(pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Pixels of 8 or 16 bits as 8, for a person to look at and for thumbnails."""
    return pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)


def first_shown(channels: int) -> tuple[int, int, int]:
    """The channels that stand for red, green and blue where an image is shown."""
    if channels < 3:
        return 0, channels - 1, channels - 1
    return 0, 1, 2


def _extremes(values: npt.NDArray[Any]) -> Range:
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise Unreadable("holds values that are not finite")
    return low, high


def _range(window: Range) -> str:
    return f"{_number(window[0])} to {_number(window[1])}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:.4g}"
