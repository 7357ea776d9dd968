"""The numbers in files of each kind, as the libraries that write them wrote them."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pi_heif
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom.data import get_testdata_file

from hpt.data.decode import decode, decode_counting
from hpt.data.file_kinds import kind_of
from hpt.data.listing import Unreadable
from hpt.data.pixel_format import PixelFormat
from hpt.data.raw import Raw
from hpt.data.readers import pictures, read

RANDOM = np.random.default_rng(5)
DEEP = RANDOM.integers(0, 4096, (40, 50), dtype=np.uint16)
FIVE = RANDOM.integers(0, 3000, (40, 50, 5), dtype=np.uint16)
COLOURS = RANDOM.integers(0, 256, (40, 50, 3), dtype=np.uint8)


def tiff(values: npt.NDArray[Any], **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def npy(values: npt.NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def dicom(name: str) -> bytes:
    found = get_testdata_file(name, download=False)
    assert isinstance(found, str)
    return Path(found).read_bytes()


def test_a_tiff_of_one_channel_is_read_whatever_its_type_tiles_and_compression() -> None:
    for options in ({}, {"bigtiff": True}, {"tile": (16, 16)}, {"compression": "lzw"}, {"compression": "zlib"}):
        raw = read(tiff(DEEP, **options))
        assert np.array_equal(raw.values[:, :, 0], DEEP)
        assert (raw.colours, raw.pages) == ("grey", 1)
    for dtype in ("i2", "u4", "i4", "f4", "f8", "f2"):
        raw = read(tiff(DEEP.astype(dtype), photometric="minisblack"))
        np.testing.assert_allclose(raw.values[:, :, 0], DEEP.astype(dtype), rtol=1e-3)


@pytest.mark.parametrize(
    ("values", "options"),
    [
        (FIVE, {"photometric": "minisblack", "planarconfig": "contig"}),
        (FIVE.transpose(2, 0, 1), {"photometric": "minisblack", "planarconfig": "separate"}),
        (FIVE, {}),
        (FIVE.transpose(2, 0, 1), {"imagej": True, "metadata": {"axes": "CYX"}}),
        (FIVE.transpose(2, 0, 1), {"ome": True, "metadata": {"axes": "CYX"}}),
    ],
    ids=["interleaved", "planes", "without a word", "ImageJ", "OME"],
)
def test_a_tiff_of_five_channels_is_read_however_they_lie(values: npt.NDArray[Any], options: dict[str, Any]) -> None:
    raw = read(tiff(np.ascontiguousarray(values), **options))
    assert np.array_equal(raw.values, FIVE)
    assert raw.colours == "none"


def test_pages_are_channels_only_where_that_is_asked_for() -> None:
    data = tiff(np.ascontiguousarray(FIVE.transpose(2, 0, 1)), photometric="minisblack")
    raw = read(data)
    assert (raw.values.shape, raw.pages) == ((40, 50, 1), 5)
    assert np.array_equal(read(data, frame=3).values[:, :, 0], FIVE[:, :, 3])
    assert np.array_equal(read(data, frame="middle").values[:, :, 0], FIVE[:, :, 2])
    assert np.array_equal(read(data, pages_are_channels=True).values, FIVE)
    with pytest.raises(Unreadable, match="has 5 pages or frames, and number 5"):
        read(data, frame=5)


def test_a_fourth_channel_of_a_tiff_is_kept_unless_it_is_transparency() -> None:
    four = np.dstack([COLOURS, np.full((40, 50), 255, dtype=np.uint8)])
    near_infrared = tiff(four, photometric="rgb", extrasamples=["unspecified"])
    assert read(near_infrared).values.shape == (40, 50, 4)
    assert np.array_equal(decode(tiff(four, photometric="rgb"), side=64), COLOURS.transpose(2, 0, 1))
    with pytest.raises(Unreadable, match="has 4 channels that are no colours"):
        decode(near_infrared, side=64)


def test_a_geotiff_says_its_scale_its_bands_and_what_is_no_data() -> None:
    items = '<Item name="SCALE" sample="1" role="scale">0.5</Item><Item name="DESCRIPTION" sample="0">B4</Item>'
    tags = [(42112, "s", 0, f"<GDALMetadata>{items}</GDALMetadata>", True), (42113, "s", 0, "7", True)]
    two = FIVE[:, :, :2].copy()
    two[3, 4] = 7
    raw = read(tiff(two, photometric="minisblack", planarconfig="contig", extratags=tags))
    np.testing.assert_allclose(raw.values, two * np.array([1, 0.5]))
    assert raw.names == ("B4", "")
    assert raw.absent is not None and raw.absent[3, 4].all() and not raw.absent[two != 7].any()


def test_sixteen_bits_of_a_coloured_png_are_kept() -> None:
    import imagecodecs

    deep = RANDOM.integers(0, 1 << 16, (20, 30, 3), dtype=np.uint16)
    raw = read(imagecodecs.png_encode(deep))
    assert np.array_equal(raw.values, deep)
    assert raw.colours == "rgb"
    kept = decode(imagecodecs.png_encode(deep), 64, PixelFormat(bits=16))
    assert np.array_equal(kept, deep.transpose(2, 0, 1))


def test_arrays_are_read_with_their_channels_first_or_last_and_not_what_is_no_image() -> None:
    assert np.array_equal(read(npy(FIVE)).values, FIVE)
    assert np.array_equal(read(npy(FIVE.transpose(2, 0, 1))).values, FIVE)
    assert read(npy(DEEP.astype(np.float16))).values.dtype == np.float32
    file = io.BytesIO()
    np.savez(file, image=DEEP, label=np.array(3))
    assert np.array_equal(read(file.getvalue()).values[:, :, 0], DEEP)
    for wrong in (np.arange(9), np.array(["a"]), np.zeros((0, 4))):
        with pytest.raises(Unreadable, match="is no image"):
            read(npy(wrong))
    file = io.BytesIO()
    np.savez(file, a=DEEP, b=DEEP)
    with pytest.raises(Unreadable, match=r"holds 2 arrays \(a, b\), none of them called image"):
        read(file.getvalue())
    with pytest.raises(Unreadable, match="not an array of numbers"):
        read(b"\x93NUMPY\x01\x00")


def test_a_nifti_volume_gives_one_slice_packed_or_not() -> None:
    volume = RANDOM.integers(-1000, 3000, (20, 30, 7)).astype(np.int16)
    data = nibabel.Nifti1Image(volume, np.eye(4)).to_bytes()
    for packed in (data, gzip.compress(data)):
        raw = read(packed, frame="middle")
        assert np.array_equal(raw.values[:, :, 0], np.rot90(volume[:, :, 3]))
        assert raw.pages == 7
    with pytest.raises(Unreadable, match="not a NIfTI volume"):
        read(gzip.compress(b"text"))


def test_heic_is_read_as_colours() -> None:
    image = pi_heif.HeifFile  # the decoder alone is installed: its own picture is a file of the package's tests
    assert image
    assert kind_of(b"\0\0\0\x18ftypheic") == "picture"
    with pytest.raises(Unreadable):
        read(b"\0\0\0\x18ftypheic" + bytes(40))


@pytest.mark.parametrize(
    ("name", "shape", "colours", "window"),
    [
        ("CT_small.dcm", (128, 128, 1), "grey", None),
        ("MR_small.dcm", (64, 64, 1), "grey", (-200, 1399)),
        ("MR_small_bigendian.dcm", (64, 64, 1), "grey", (-200, 1399)),
        ("MR_small_RLE.dcm", (64, 64, 1), "grey", (-200, 1399)),
        ("MR_small_jp2klossless.dcm", (64, 64, 1), "grey", (-200, 1399)),
        ("MR_small_jpeg_ls_lossless.dcm", (64, 64, 1), "grey", (-200, 1399)),
        ("SC_rgb_jpeg_dcmtk.dcm", (100, 100, 3), "rgb", (0, 255)),
        ("examples_ybr_color.dcm", (240, 320, 3), "rgb", (0, 255)),
        ("examples_palette.dcm", (350, 800, 3), "rgb", None),
    ],
)
def test_pydicoms_own_files_are_read(name: str, shape: Any, colours: str, window: Any) -> None:
    raw = read(dicom(name))
    assert (raw.values.shape, raw.colours, raw.window) == (shape, colours, window)


def test_dicom_is_in_its_own_units_and_as_dark_as_it_says() -> None:
    raw = read(dicom("CT_small.dcm"))
    stored = pydicom.dcmread(io.BytesIO(dicom("CT_small.dcm")))
    hounsfield = stored.pixel_array.astype(int) * int(stored.RescaleSlope) + int(stored.RescaleIntercept)
    assert np.array_equal(raw.values[:, :, 0], hounsfield)
    assert raw.physical
    frames = read(dicom("examples_ybr_color.dcm"), frame=29)
    assert frames.pages == 30
    assert not np.array_equal(frames.values, read(dicom("examples_ybr_color.dcm")).values)

    stored.PhotometricInterpretation = "MONOCHROME1"
    file = io.BytesIO()
    stored.save_as(file)
    form = PixelFormat(scaling="measured", windows={"integer": ((-900, 1200),)})
    bright, dark = (decode(data, 128, form).astype(int) for data in (dicom("CT_small.dcm"), file.getvalue()))
    assert np.abs(bright + dark - 255).max() <= 1


def test_dicom_without_pixels_or_with_damaged_ones_is_unreadable_in_one_line() -> None:
    for name, said in (
        ("rtplan.dcm", r"holds no pixels \(RT Plan Storage\)"),
        ("MR_truncated.dcm", "less than expected"),
        ("badVR.dcm", "a damaged DICOM file"),
    ):
        with pytest.raises(Unreadable, match=said) as raised:
            read(dicom(name))
        assert "\n" not in str(raised.value)


def test_what_is_too_large_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    huge = tiff(np.zeros((16, 16), np.uint16))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    for data in (huge, npy(np.zeros((16, 16))), dicom("MR_small.dcm")):
        with pytest.raises(Unreadable, match="above the limit of 0 million"):
            read(data)
    file = io.BytesIO()
    Image.fromarray(COLOURS).save(file, "PNG")
    with pytest.raises(Unreadable, match="more than twice the limit of 0 million"):
        pictures.open_image(file.getvalue())


def test_any_cut_of_a_file_is_read_whole_or_unreadable() -> None:
    padded = dicom("MR_small.dcm")[:-400]  # its pixels are followed by padding
    for data in (tiff(FIVE, photometric="minisblack", planarconfig="contig"), npy(DEEP), padded):
        for length in (*range(0, 200, 7), len(data) // 2, len(data) - 1):
            with pytest.raises(Unreadable):
                decode_counting(data[:length], 32, PixelFormat(scaling="image", channels=1, colours="grey"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "JPEG2000", "TIFF"])
def test_a_picture_with_a_damaged_header_is_opened_or_unreadable(kind: str) -> None:
    file = io.BytesIO()
    Image.fromarray(COLOURS).save(file, kind)
    whole, refused = file.getvalue(), 0
    cut = [whole[:length] for length in range(0, min(len(whole), 300), 3)]
    garbled = [whole[:place] + b"\xa0\xff\0\1" + whole[place + 4 :] for place in range(0, min(len(whole), 300), 2)]
    for data in (*cut, *garbled):
        try:
            pictures.open_image(data)
        except Unreadable as error:
            refused += "\n" not in str(error)
    assert refused >= 10


def test_a_window_makes_black_and_white_and_clips_the_rest() -> None:
    form = PixelFormat(scaling="given", windows={"integer": ((100, 300),)}, bits=16)
    pixels = decode(tiff(np.array([[0, 100, 200], [300, 4000, 101]], dtype=np.uint16)), 64, form)
    assert pixels[0].tolist() == [[0, 0, 32768], [65535, 65535, 328]]
    absent = np.array([[[True], [False]]])
    raw = Raw(np.array([[[9], [3]]], dtype=np.int16), "grey", absent=absent)
    assert PixelFormat(scaling="given", windows={"integer": ((2, 4),)}).shares(raw).ravel().tolist() == [0, 0.5]
