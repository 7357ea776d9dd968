"""Every kind of image file becomes the right 8-bit RGB."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize

from hpt.data.decode import Loss, decode, decode_counting, quiet
from hpt.data.listing import Unreadable


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet():
        yield


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def colours(image: Image.Image, kind: str, **options: Any) -> set[tuple[int, int, int]]:
    """The distinct RGB values of the decoded image."""
    pixels = decode(encoded(image, kind, **options), side=64)
    return {tuple(int(v) for v in pixel) for pixel in pixels.reshape(3, -1).T}


def test_rgb_pixels_come_channels_first_and_unchanged() -> None:
    expected = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    for kind in ("PNG", "BMP", "TIFF", "PPM"):
        assert np.array_equal(decode(encoded(Image.fromarray(expected), kind), side=64), expected.transpose(2, 0, 1))
    lossless = encoded(Image.fromarray(expected), "WEBP", lossless=True)
    assert np.array_equal(decode(lossless, side=64), expected.transpose(2, 0, 1))


def test_greyscale_and_bilevel_images_have_three_equal_channels() -> None:
    assert colours(Image.new("L", (4, 4), 77), "PNG") == {(77, 77, 77)}
    assert colours(Image.new("L", (4, 4), 77), "PPM") == {(77, 77, 77)}
    assert colours(Image.new("1", (4, 4), 1), "PNG") == {(255, 255, 255)}


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_not_clipped(kind: str) -> None:
    grey = np.array([[0, 32768], [257, 65535]], dtype=np.uint16)
    pixels = decode(encoded(Image.fromarray(grey), kind), side=64)
    assert pixels[0].tolist() == [[0, 128], [1, 255]]
    assert np.array_equal(pixels[0], pixels[2])


def test_big_endian_sixteen_bits_mean_the_same() -> None:
    image = Image.frombytes("I;16B", (2, 1), bytes([0x80, 0x00, 0xFF, 0xFF]))
    assert decode(encoded(image, "TIFF"), side=64)[1].tolist() == [[128, 255]]


def test_integers_beyond_sixteen_bits_are_stretched_from_lowest_to_highest() -> None:
    grey = np.array([[-1000, 0], [1000, 0]], dtype=np.int32)
    assert decode(encoded(Image.fromarray(grey), "TIFF"), side=64)[0].tolist() == [[0, 128], [255, 128]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 200.0], [0, 100, 200]),
        ([-2.0, 0.0, 6.0], [0, 64, 255]),
    ],
)
def test_floats_are_read_by_their_range(values: list[float], expected: list[int]) -> None:
    image = Image.fromarray(np.array([values], dtype=np.float32))
    assert decode(encoded(image, "TIFF"), side=64)[0].tolist() == [expected]


def test_floats_that_are_not_numbers_are_unreadable() -> None:
    image = Image.fromarray(np.array([[0.0, np.nan]], dtype=np.float32))
    with pytest.raises(Unreadable, match="not finite"):
        decode(encoded(image, "TIFF"), side=64)


def test_palettes_become_their_colours() -> None:
    image = Image.new("RGB", (4, 4), (10, 200, 30)).quantize(4)
    assert image.mode == "P"
    assert colours(image, "PNG") == {(10, 200, 30)}
    assert colours(image, "GIF") == {(10, 200, 30)}


def test_transparent_pixels_become_white() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    assert colours(palette, "PNG", transparency=0) == {(255, 255, 255), (0, 0, 255)}
    assert colours(palette, "PNG", transparency=bytes([0, 255])) == {(255, 255, 255), (0, 0, 255)}
    assert colours(palette, "GIF", transparency=0) == {(255, 255, 255), (0, 0, 255)}
    assert colours(Image.new("RGBA", (2, 2), (255, 0, 0, 0)), "PNG") == {(255, 255, 255)}
    assert colours(Image.new("LA", (2, 2), (0, 0)), "PNG") == {(255, 255, 255)}
    assert colours(Image.new("RGB", (2, 2), (1, 2, 3)), "PNG", transparency=(1, 2, 3)) == {(255, 255, 255)}


def test_half_transparent_pixels_mix_with_white() -> None:
    assert colours(Image.new("RGBA", (2, 2), (255, 0, 0, 128)), "PNG") == {(255, 127, 127)}


def test_cmyk_red_is_red_in_jpeg_and_tiff() -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    for kind in ("JPEG", "TIFF"):
        pixels = decode(encoded(red, kind), side=64).reshape(3, -1).mean(axis=1)
        assert np.abs(pixels - [255, 0, 0]).max() <= 2


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        (1, lambda upright: upright),
        (2, np.fliplr),
        (3, lambda upright: np.rot90(upright, 2)),
        (4, np.flipud),
        (5, lambda upright: upright.transpose(1, 0, 2)),
        (6, np.rot90),
        (7, lambda upright: np.rot90(upright, 2).transpose(1, 0, 2)),
        (8, lambda upright: np.rot90(upright, -1)),
    ],
)
def test_the_top_of_a_rotated_photograph_is_at_the_top(kind: str, orientation: int, stored: Any) -> None:
    upright = np.zeros((32, 48, 3), dtype=np.uint8)
    upright[:16, :, 0] = 250
    upright[:, :16, 2] = 250
    as_stored = Image.fromarray(np.ascontiguousarray(stored(upright)))
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    pixels = decode(encoded(as_stored, kind, exif=exif(orientation), **options), side=64)
    assert np.abs(pixels.astype(int) - upright.transpose(2, 0, 1)).mean() < 3


def test_an_animation_is_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    assert colours(frames[0], "GIF", save_all=True, append_images=frames[1:]) == {(255, 0, 0)}


@pytest.mark.parametrize("size", [(100, 60), (60, 100), (61, 61)])
def test_the_shorter_side_is_reduced_as_torchvision_resizes(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    expected = np.asarray(resize(image, [24], InterpolationMode.BILINEAR, antialias=True)).transpose(2, 0, 1)
    assert np.array_equal(decode(encoded(image, "PNG"), side=24), expected)


def test_a_smaller_image_is_never_enlarged() -> None:
    assert decode(encoded(Image.new("RGB", (9, 50)), "PNG"), side=24).shape == (3, 50, 9)


def test_a_big_jpeg_is_decoded_in_part_and_looks_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    smooth = resize(torch.rand(3, 12, 16, generator=generator), [600, 800], InterpolationMode.BICUBIC).clamp(0, 1)
    image = Image.fromarray((smooth * 255).byte().permute(1, 2, 0).numpy())
    data = encoded(image, "JPEG", quality=95)
    whole = np.asarray(resize(Image.open(io.BytesIO(data)), [100], InterpolationMode.BILINEAR))
    drafted = decode(data, side=100)
    assert drafted.shape[1] == 100
    assert np.abs(drafted[:, :, : whole.shape[1]].astype(int) - whole.transpose(2, 0, 1)).mean() < 1.5


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP"])
def test_a_truncated_image_is_unreadable(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(Unreadable, match=r".+"):
        decode(data[: len(data) * 2 // 3], side=64)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"just text", "known format"),
        (b"\x89PNG\r\n\x1a\n garbage", "known format|Truncated"),
    ],
)
def test_what_is_no_image_is_unreadable_and_says_so(data: bytes, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason) as caught:
        decode(data, side=64)
    assert "BytesIO" not in str(caught.value)


@pytest.mark.parametrize("width", [100_000, 500_000])
def test_an_image_of_absurdly_many_pixels_is_unreadable(width: int) -> None:
    header = b"P6 %d 1000 255\n" % width
    with pytest.raises(Unreadable, match=r"pixels"):
        decode(header, side=64)


def test_postscript_is_not_an_image() -> None:
    with pytest.raises(Unreadable, match="known format"):
        decode(encoded(Image.new("RGB", (4, 4)), "EPS"), side=64)


def loss(image: Image.Image, kind: str, **options: Any) -> Loss:
    return decode_counting(encoded(image, kind, **options), side=64)[1]


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG", "AVIF"])
def test_pages_and_frames_after_the_first_are_counted(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "green")]
    assert loss(frames[0], kind, save_all=True, append_images=frames[1:]) == Loss(pages=2)
    assert loss(frames[0], kind) == Loss()


def test_grey_levels_that_eight_bits_do_not_hold_are_counted() -> None:
    dim = np.arange(140, 240, dtype=np.uint16).reshape(10, 10)
    for kind in ("TIFF", "PNG"):
        assert loss(Image.fromarray(dim), kind) == Loss(levels=100, kept=1)
    assert loss(Image.fromarray(dim.astype(np.uint8)), "PNG") == Loss()


def test_a_jpeg_2000_and_an_avif_are_read() -> None:
    assert colours(Image.new("RGB", (32, 32), (10, 200, 30)), "JPEG2000", irreversible=False) == {(10, 200, 30)}
    assert decode(encoded(Image.new("RGB", (32, 24), "red"), "AVIF"), side=64).shape == (3, 24, 32)
