"""A dataset's pixel format, found from its training images: channels, windows and bits.

An image of 12 bits in a file of 16 fills a sixteenth of the file's range: read by that range it would keep 17 grey
levels as 8 bits. So the range that the training images use becomes the window, the same for every image: an image's own
range would remove what may be the signal. Of each image the highest and lowest 1 in 5,000 values are left aside, which
hot pixels are; of the images one in fifty at either end; and the window reaches a twentieth farther, or to the last
value seen.

A file's own window (DICOM) is taken where files have one, except for Hounsfield units that files show through different
windows: those are comparable as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hpt.callbacks import Progress
from hpt.config import MOST_CHANNELS, DataConfig, parse_window
from hpt.data import cache_store, decode
from hpt.data.file_kinds import kind_of
from hpt.data.left_out import ENOUGH, FEW_LEVELS
from hpt.data.listing import Listing, Unreadable, damage_is_unreadable
from hpt.data.pixel_format import PLAIN, PixelFormat
from hpt.data.raw import Colours, Depth, Range, Raw
from hpt.data.readers import pictures, read
from hpt.data.reading import reading
from hpt.data.splits import Indices
from hpt.errors import ConfigError, DataError, did_you_mean
from hpt.files import write_text

SAMPLE = 128
"""The training images of each suffix that are measured, evenly spaced in the order of their names."""
FEW_OTHERS = 0.01
"""The share of images that may have other channels than the rest, and are left out."""
VALUES = 1 << 15
"""The values of an image, of all channels, that are looked at."""
TAIL, IMAGES_TAIL, MARGIN = 2e-4, 0.02, 0.05
"""The share of an image's values, and of the images, left aside at either end; what the window is widened by."""
ROUNDING = 0.5
"""16 bits are kept where 8 leave less than this share of the grey levels of half of the images, and either fewer than
so many, or steps so wide that an image's noise, by this factor, does not hide them."""
SENTINEL_2 = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")
_KNOWN_NAMES = {
    1: ("grey",),
    3: ("red", "green", "blue"),
    4: ("red", "green", "blue", "nir"),
    12: tuple(name for name in SENTINEL_2 if name != "B10"),
    13: SENTINEL_2,
}
"""The names of channels of files that do not say them: Sentinel-2's bands, of level 1C and 2A."""
_BANDS = {
    "B2": "blue",
    "B3": "green",
    "B4": "red",
    "B8": "nir",
    "B02": "blue",
    "B03": "green",
    "B04": "red",
    "B08": "nir",
}


@dataclass(frozen=True)
class _Sampled:
    """What is kept of a measured image."""

    depth: Depth
    channels: int
    colours: Colours
    names: tuple[str, ...]
    values: npt.NDArray[Any] | None
    """[n, C] some of its values; None of a picture of 8 bits."""
    ends: npt.NDArray[np.float64] | None
    """[C, 4] the lowest value, the quantiles `TAIL` and 1 - `TAIL`, and the highest."""
    own: Range | None
    physical: bool
    noise: float
    """The standard deviation of the first channel's noise, from its second differences along rows."""


def pixel_format(
    listing: Listing, train: Indices, config: DataConfig, progress: Progress | None = None, *, thorough: bool = False
) -> PixelFormat:
    """The format of a dataset, from those of its images that train.

    Args:
        train: the numbers of the training images in the listing.
        thorough: whether all of them are measured; a kind of number that none has then gets its full range.

    Raises:
        DataError: images differ in their channels. ConfigError: a channel that is asked for does not exist.
    """
    chosen = train if thorough else _spread(listing, train)
    some = replace(listing, names=tuple(listing.names[i] for i in chosen.tolist()))
    by_pages = config.channels is not None and config.channels not in (1, 3)

    def look(data: bytes) -> _Sampled:
        return _look(data, config, by_pages)

    with reading(some, look, progress, what="measuring intensities") as looked:
        found = {name: each for name, each in zip(some.names, looked, strict=True) if isinstance(each, _Sampled)}
    if not found:
        return PLAIN
    form = _with_channels(config, found)
    form = form.model_copy(update={"frame": config.frame})
    used = {name: each for name, each in found.items() if _fits(each, form)}
    form = _with_windows(config, list(used.values()) or list(found.values()), form)
    if thorough:
        rest: dict[Depth, tuple[Range, ...]] = {"integer": ((0, 65535),), "float": ((0, 1),)}
        form = form.model_copy(update={"windows": rest | form.windows})
    return _with_bits(config, list(used.values()), form)


def kept_format(listing: Listing, config: DataConfig) -> tuple[Path, PixelFormat | None]:
    """The file that keeps a listing's format, and the format where it is kept already."""
    digest = hashlib.sha256(f"{decode.VERSION} {config.split_seed} {_settings(config)}\n".encode())
    for text in (*listing.names, *listing.source.stamp(listing.names)):
        digest.update(text.encode("utf-8", "surrogateescape") + b"\n")
    digest.update(listing.labels.tobytes() + "".join(split[1] for split in listing.splits).encode())
    if listing.groups is not None:
        digest.update("\0".join(listing.groups).encode("utf-8", "surrogateescape"))
    file = cache_store.formats_folder() / f"{digest.hexdigest()[:32]}.json"
    with suppress(OSError, ValueError):
        return file, PixelFormat.model_validate(json.loads(file.read_bytes()))
    return file, None


def _settings(config: DataConfig) -> str:
    return config.model_dump_json(include={"channels", "window", "bits", "frame"})


def keep(file: Path, form: PixelFormat) -> None:
    """Write a format for the next run, where the cache can be written to."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, form.model_dump_json())


def _spread(listing: Listing, train: Indices) -> Indices:
    """Up to `SAMPLE` training images of each suffix: files of one kind mostly share one."""
    by_suffix: dict[str, list[int]] = {}
    for row in train.tolist():
        name = listing.names[row]
        by_suffix.setdefault(name[name.rfind(".") :].lower() if "." in name[-6:] else "", []).append(row)
    chosen = [rows[(i * len(rows)) // SAMPLE] for rows in by_suffix.values() for i in range(SAMPLE)]
    return np.unique(np.array(chosen, dtype=np.int64))


def _look(data: bytes, config: DataConfig, by_pages: bool) -> _Sampled:
    if not data:
        raise Unreadable("the file is empty")
    kind = kind_of(data)
    if kind == "picture" and config.window in ("auto", "full", "own"):
        with pictures.open_image(data) as image:
            if not pictures.is_deep(data, image):
                grey = image.mode in ("1", "L", "LA")
                return _Sampled("8-bit", 1 if grey else 3, "grey" if grey else "rgb", (), None, None, None, False, 0)
    with damage_is_unreadable():
        raw = read(data, frame=config.frame, pages_are_channels=by_pages)
    return _sampled(raw)


def _sampled(raw: Raw) -> _Sampled:
    height, width, channels = raw.values.shape
    flat = raw.values.reshape(-1, channels)
    some = np.ascontiguousarray(flat[:: max(1, -(-height * width * channels // VALUES))])
    usable = some.astype(np.float64)  # n x C
    if raw.absent is not None:
        absent = raw.absent.reshape(-1, channels)[:: max(1, -(-height * width * channels // VALUES))]
        usable[absent] = np.nan
    ends = None
    if np.isfinite(usable).any(axis=0).all():
        usable[~np.isfinite(usable)] = np.nan
        tail = min(max(TAIL, 1.5 / len(usable)), 0.5)  # a hot pixel of a small image too
        ends = np.nanquantile(usable, (0, tail, 1 - tail, 1), axis=0).T
    return _Sampled(raw.depth, channels, raw.colours, raw.names, some, ends, raw.window, raw.physical, _noise(raw))


def _noise(raw: Raw) -> float:
    """The deviation of a row's middle pixels from their neighbours' mean, robustly: no edge counts, every grain
    does."""
    rows = raw.values[:: max(1, -(-raw.values[:, :, 0].size // VALUES)), :, 0].astype(np.float64)
    if rows.shape[1] < 3:
        return 0.0
    second = np.abs(rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:])
    return float(np.median(second)) / (0.6745 * 6**0.5)


# ---- channels


def _with_channels(config: DataConfig, found: dict[str, _Sampled]) -> PixelFormat:
    wanted = config.channels
    if wanted is None:
        without_colours = sum(each.colours == "none" for each in found.values())
        return PLAIN if without_colours <= FEW_OTHERS * len(found) else _all_channels(found)
    if isinstance(wanted, int):
        return _counted_channels(wanted, found)
    return _named_channels(wanted, found)


def _all_channels(found: dict[str, _Sampled]) -> PixelFormat:
    """Every channel of images whose channels are no colours."""
    counts = Counter(each.channels for each in found.values())
    count, images = counts.most_common(1)[0]
    if len(found) - images > FEW_OTHERS * len(found):
        raise DataError(
            f"its images differ in their channels: {_examples(found)}",
            "sort them, or name channels that all have, for example --set data.channels=0,1,2",
        )
    if count > MOST_CHANNELS:
        raise DataError(
            f"its images have {count} channels, and at most {MOST_CHANNELS} can be used",
            "name those that matter, for example --set data.channels=29,19,9",
        )
    names = _names(found, count)
    return PixelFormat(channels=count, colours="none", picks=tuple(range(count)), names=names)


def _counted_channels(wanted: int, found: dict[str, _Sampled]) -> PixelFormat:
    if wanted == 1 and all(each.colours != "none" for each in found.values()):
        return PixelFormat(channels=1, colours="grey", names=("grey",))
    if wanted == 3 and all(each.colours != "none" for each in found.values()):
        return PLAIN
    other = {name: each for name, each in found.items() if each.channels != wanted}
    if len(other) > FEW_OTHERS * len(found):
        raise ConfigError(
            f"data.channels is {wanted}, but there are images of other numbers of channels: {_examples(found)}",
            "name the channels to take, for example --set data.channels=0,1,2",
        )
    names = _names(found, wanted)
    picks = tuple(range(wanted))
    return PixelFormat(
        channels=wanted, colours=_colours(picks, names, found), picks=picks, names=names, pages_are_channels=True
    )


def _named_channels(wanted: Sequence[int | str], found: dict[str, _Sampled]) -> PixelFormat:
    count = Counter(each.channels for each in found.values()).most_common(1)[0][0]
    names = _names(found, count)
    picks = tuple(each if isinstance(each, int) else _index(each, names, count) for each in wanted)
    most = max(each.channels for each in found.values())
    if max(picks) >= most:
        raise ConfigError(
            f"data.channels asks for channel {max(picks)}, and the images have {most}, counted from 0",
            f"choose from 0 to {most - 1}",
        )
    kept = tuple(names[pick] if pick < len(names) else str(pick) for pick in picks) if names else ()
    colours = _colours(picks, names, found)
    return PixelFormat(channels=len(picks), colours=colours, picks=picks, names=kept, pages_are_channels=True)


def _index(name: str, names: tuple[str, ...], count: int) -> int:
    """The number of a channel by its name, or by that of the colour that it is."""
    wanted = name.casefold()
    for at, known in enumerate(names):
        short = known.casefold()
        if wanted in (short, _BANDS.get(known, short)) or wanted.replace("b0", "b") == short:
            return at
    if not names:
        raise ConfigError(
            f"the images do not say the names of their {count} channels, and '{name}' is none that is known",
            f"give numbers from 0 to {count - 1}",
        )
    raise ConfigError(f"no channel '{name}'{did_you_mean(name, names)}", f"choose from {', '.join(names)}")


def _names(found: dict[str, _Sampled], count: int) -> tuple[str, ...]:
    said = Counter(each.names for each in found.values() if len(each.names) == count)
    if said:
        return said.most_common(1)[0][0]
    return _KNOWN_NAMES.get(count, ())


def _colours(picks: tuple[int, ...], names: tuple[str, ...], found: dict[str, _Sampled]) -> Colours:
    """Whether the channels that are taken are red, green and blue."""
    if len(picks) == 1 and all(each.colours == "grey" for each in found.values()):
        return "grey"
    called = [_BANDS.get(names[pick], names[pick].casefold()) if pick < len(names) else "" for pick in picks]
    if called == ["red", "green", "blue"]:
        return "rgb"
    is_rgb = picks == (0, 1, 2) and all(each.colours == "rgb" for each in found.values())
    return "rgb" if is_rgb else "none"


def _fits(each: _Sampled, form: PixelFormat) -> bool:
    return each.colours != "none" if form.picks is None else max(form.picks) < each.channels


def _examples(found: dict[str, _Sampled]) -> str:
    """`12 of 5 channels (a.tif), 3 of 3 (b.tif)`."""
    counts = Counter(each.channels for each in found.values())
    first = {each.channels: name for name, each in reversed(found.items())}
    return ", ".join(f"{many} of {count} (such as {first[count]})" for count, many in counts.most_common(4))


# ---- windows


def _with_windows(config: DataConfig, found: list[_Sampled], form: PixelFormat) -> PixelFormat:
    if config.window == "full":
        return form
    if config.window == "image":
        return form.model_copy(update={"scaling": "image"})
    if (given := parse_window(config.window)) is not None:
        if len(given) not in (1, form.channels):
            raise ConfigError(
                f"data.window gives {len(given)} windows for {form.channels} channels", "give one, or one for each"
            )
        return form.model_copy(
            update={"scaling": "given", "windows": dict.fromkeys(("8-bit", "integer", "float"), given)}
        )
    deep = [each for each in found if each.depth != "8-bit" and each.ends is not None]
    own = [each for each in deep if each.own is not None]
    scaling = "measured"
    if own and (config.window == "own" or 2 * len(own) > len(deep)):
        windows = {each.own for each in own}
        if config.window == "own":
            scaling = "own"
        elif len(windows) == 1 and len(own) == len(deep):
            shared: tuple[Range, ...] = tuple(window for window in windows if window is not None)
            return form.model_copy(update={"scaling": "measured", "windows": {own[0].depth: shared}, "measured_on": 0})
        elif not all(each.physical for each in deep):
            scaling = "own"
    if config.window == "own" and not own:
        raise ConfigError("data.window is 'own', but no file has a window of its own", "use auto, or give LOW:HIGH")
    measured = [each for each in deep if each.own is None] if scaling == "own" else deep
    update: dict[str, Any] = {"scaling": scaling, "windows": _measured(measured, form), "measured_on": len(measured)}
    return form.model_copy(update=update)


def _measured(deep: list[_Sampled], form: PixelFormat) -> dict[Depth, tuple[Range, ...]]:
    """The window of each kind of number: of all channels together where they are colours, else of each."""
    windows: dict[Depth, tuple[Range, ...]] = {}
    for depth in sorted({each.depth for each in deep}):
        mine = [each for each in deep if each.depth == depth]
        whole = all(each.values is not None and each.values.dtype.kind != "f" for each in mine)
        if form.colours != "none" or form.picks is None:
            ends = [_together(each.ends) for each in mine if each.ends is not None]
            windows[depth] = (_window(np.array(ends), whole),)
        else:
            picks = list(form.picks)
            ends = [each.ends[picks] for each in mine if each.ends is not None]
            windows[depth] = tuple(_window(channel, whole) for channel in np.stack(ends, axis=1))
    return windows


def _together(ends: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.array([*ends[:, :2].min(axis=0), *ends[:, 2:].max(axis=0)])


def _window(ends: npt.NDArray[np.float64], whole: bool) -> Range:
    """The window of images whose lowest, low, high and highest values are given [n, 4]."""
    low = float(np.quantile(ends[:, 1], IMAGES_TAIL, method="lower" if len(ends) < 1 / IMAGES_TAIL else "linear"))
    high = float(np.quantile(ends[:, 2], 1 - IMAGES_TAIL, method="higher" if len(ends) < 1 / IMAGES_TAIL else "linear"))
    margin = MARGIN * (high - low)
    low, high = max(low - margin, float(ends[:, 0].min())), min(high + margin, float(ends[:, 3].max()))
    if whole:
        low, high = float(np.floor(low)), float(np.ceil(high))
    return (low, high) if high > low else (low, low + 1)


# ---- bits


def _with_bits(config: DataConfig, found: list[_Sampled], form: PixelFormat) -> PixelFormat:
    if config.bits != "auto":
        return form.model_copy(update={"bits": int(config.bits)})
    lost, smooth = [], []
    for each in found:
        if each.depth == "8-bit" or each.values is None:
            continue
        raw = Raw(each.values[:, None], each.colours, window=each.own)
        with suppress(Unreadable):
            kept = len(np.unique(np.rint(form.shares(raw)[:, 0, 0] * 255)))
            low, high = form.window(raw, form.select(raw))[0]
            fewer = kept < ENOUGH * len(np.unique(form.select(raw)[:, 0, 0]))
            lost.append(fewer and kept < FEW_LEVELS)
            smooth.append(fewer and each.noise < ROUNDING * (high - low) / 255)
    shown = bool(lost) and (np.median(lost) > 0 or np.median(smooth) > 0)
    return form.model_copy(update={"bits": 16 if shown else 8})
