"""A dataset's numbers become pixels by one decision, found from the images that train."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image
from pydicom.data import get_testdata_file

from hpt.config import DataConfig
from hpt.data.check import check
from hpt.data.dataset import Dataset, load
from hpt.errors import ConfigError, DataError

pytestmark = pytest.mark.usefixtures("own_cache")
Values = npt.NDArray[Any]


def save(path: Path, values: Values) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        Image.fromarray(values).save(path)
    elif path.suffix == ".npy":
        np.save(path, values)
    else:
        tifffile.imwrite(
            path, values, photometric="minisblack", **({"planarconfig": "contig"} if values.ndim == 3 else {})
        )


def fill(root: Path, make: Callable[[int], Values], suffix: str = ".png", splits: str = "train val test") -> Path:
    for split in splits.split():
        for number in range(6):
            save(root / split / "ab"[number % 2] / f"{split}{number}{suffix}", make(number))
    return root


def ramp(high: int, shift: int = 0) -> Callable[[int], Values]:
    """Smooth pictures of up to `high`: no noise hides that levels are lost."""

    def make(number: int) -> Values:
        y, x = np.mgrid[:64, :64]
        return (shift + (high * ((64 * x + y + number) % 4096)) // 4095).astype(np.uint16)

    return make


def opened(path: Path, **settings: Any) -> Dataset:
    return load(str(path), DataConfig(**settings), side=64)


def test_twelve_bits_in_a_file_of_sixteen_keep_their_levels(tmp_path: Path) -> None:
    data = opened(fill(tmp_path / "xrays", ramp(4095)))
    form = data.images.form
    assert (form.windows, form.scaling, form.bits) == ({"integer": ((0, 4095),)}, "measured", 16)
    assert any(re.match("18 images of more than 8 bits keep 4,096 of 4,096 grey levels", note) for note in data.notes)
    pixels = data.images.batch([0]).image(0)[0].numpy().astype(float)
    np.testing.assert_allclose(pixels / 65535 * 4095, ramp(4095)(1 if "1" in data.images.names[0] else 0), atol=40)
    report = check(tmp_path / "xrays", DataConfig())
    assert (report.levels, report.form) == ((4096, 4096), form)


def test_noise_that_hides_the_rounding_leaves_eight_bits(tmp_path: Path) -> None:
    random = np.random.default_rng(0)

    def grainy(number: int) -> Values:
        return np.clip(ramp(3000, 500)(number) + random.normal(0, 60, (64, 64)), 0, 4095).astype(np.uint16)

    assert opened(fill(tmp_path / "set", grainy)).images.form.bits == 8
    assert opened(tmp_path / "set", bits="16").images.form.bits == 16


def test_the_window_is_that_of_train_and_no_hot_pixel_moves_it(tmp_path: Path) -> None:
    def hot(number: int) -> Values:
        values = ramp(1000, 200)(number)
        values[5, 5] = 65535
        return values

    fill(tmp_path / "set", hot, splits="train")
    fill(tmp_path / "set", ramp(60000), splits="val test")
    (window,) = opened(tmp_path / "set").images.form.windows["integer"]
    assert 150 <= window[0] <= 200
    assert 1200 <= window[1] <= 1300


def test_the_format_is_kept_and_part_of_the_cache(tmp_path: Path) -> None:
    fill(tmp_path / "set", ramp(3000))
    done: list[set[str]] = []
    for settings in ({}, {}, {"window": "0:9000"}, {"window": [0, 9000]}, {}):
        now = set[str]()
        load(str(tmp_path / "set"), DataConfig(**settings), side=64, progress=lambda *at, now=now: now.add(at[2]))
        done.append(now)
    afresh = {"measuring intensities", "reading images"}
    assert done == [afresh, set(), afresh, set(), set()]


def test_files_of_eight_bits_are_read_as_ever_beside_deeper_ones(tmp_path: Path) -> None:
    fill(tmp_path / "set", ramp(3000))
    eight = np.random.default_rng(1).integers(0, 256, (64, 64), dtype=np.uint8)
    save(tmp_path / "set/train/a/eight.png", eight)
    data = opened(tmp_path / "set")
    row = data.images.names.index("train/a/eight.png")
    assert np.array_equal(data.images.batch([row]).image(0)[0].numpy() // 257, eight)
    assert any(note.startswith("mixed bit depths: 18 images of more than 8 bits and 1 of 8") for note in data.notes)


def test_a_kind_that_only_the_test_images_have_is_read_by_its_full_range(tmp_path: Path) -> None:
    fill(tmp_path / "set", lambda n: np.full((8, 8), 9 * n, np.uint8), splits="train val")
    fill(tmp_path / "set", ramp(65535), splits="test")
    data = opened(tmp_path / "set")
    assert data.images.form.windows["integer"] == ((0, 65535),)
    assert data.images.batch([0]).image(0).dtype == data.images.batch([17]).image(0).dtype


def test_windows_are_of_each_channel_where_channels_are_no_colours(tmp_path: Path) -> None:
    data = opened(fill(tmp_path / "set", lambda n: np.dstack([ramp(1000 * c)(n) for c in (1, 2, 3, 4, 5)]), ".tif"))
    form = data.images.form
    assert (form.channels, form.colours) == (5, "none")
    assert form.windows["integer"] == tuple((0, 1000 * c) for c in (1, 2, 3, 4, 5))
    assert data.images.batch([0, 1]).pixels.shape == (2, 5, 64, 64)
    np.testing.assert_allclose(data.images.mean, data.images.mean[0], atol=1e-3)
    some = opened(tmp_path / "set", channels="4,0").images
    assert (some.form.picks, len(some.mean)) == ((4, 0), 2)
    assert np.array_equal(some.batch([3]).pixels[0, 1], data.images.batch([3]).pixels[0, 0])


def test_sentinels_bands_have_names_and_three_of_them_are_colours(tmp_path: Path) -> None:
    fill(tmp_path / "set", lambda n: np.dstack([ramp(500 + 100 * c)(n) for c in range(13)]), ".tif")
    assert opened(tmp_path / "set").images.form.names[8] == "B8A"
    for named in ("B4,B3,B2", "red,green,blue", ["B04", "B03", "B02"]):
        form = opened(tmp_path / "set", channels=named).images.form
        assert (form.picks, form.colours, form.channels) == ((3, 2, 1), "rgb", 3)
    assert opened(tmp_path / "set", channels="B8,B4,B3").images.form.colours == "none"
    with pytest.raises(ConfigError, match=r"no channel 'B8B' \(did you mean 'B8A?'\?\); choose from B1, B2"):
        opened(tmp_path / "set", channels="B8B")


def test_grey_images_may_have_one_channel_and_colours_become_grey(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    fill(tmp_path / "set", lambda n: random.integers(0, 256, (20, 20, 3), dtype=np.uint8))
    grey, rgb = opened(tmp_path / "set", channels=1).images, opened(tmp_path / "set").images
    assert (grey.form.channels, grey.form.colours, grey.form.bits) == (1, "grey", 8)
    luma = np.tensordot([0.299, 0.587, 0.114], rgb.batch([4]).pixels[0].numpy().astype(float), 1)
    np.testing.assert_allclose(grey.batch([4]).pixels[0, 0].numpy(), luma, atol=1)


def test_images_that_lack_a_channel_are_left_out_or_stop_the_run(tmp_path: Path) -> None:
    fill(tmp_path / "set", lambda n: np.dstack([ramp(1000)(n)] * (3 if n == 5 else 5)), ".tif")
    with pytest.raises(DataError, match=r"differ in their channels: 5 of 5 \(such as .*\), 1 of 3 \(such as train/b/"):
        opened(tmp_path / "set")
    with pytest.raises(DataError, match=r"3 of 18 images of set cannot be read.*has 3 channels, and channel 4"):
        opened(tmp_path / "set", channels="0,4")
    kept = opened(tmp_path / "set", channels="0,4", max_unreadable=0.2)
    assert len(kept.images) == 15
    assert opened(tmp_path / "set", channels="0,2").images.form.channels == 2


def test_one_image_of_other_channels_among_many_is_left_out_and_the_rest_keep_their_colours(tmp_path: Path) -> None:
    y, x = np.mgrid[:16, :16]
    for number in range(180):
        colours = np.dstack([16 * x, 16 * y, 0 * x + number])
        deep = (200 * colours).astype(np.uint16)
        if number == 7:
            save(tmp_path / "set" / "train" / "a" / "odd.tif", np.dstack([deep, deep]))
        else:
            file = tmp_path / "set" / "train" / "ab"[number % 2] / f"{number}.tif"
            file.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(file, deep, photometric="rgb")
    found = opened(tmp_path / "set")
    assert (found.images.form.channels, found.images.form.colours, len(found.images)) == (3, "rgb", 179)
    assert found.quarantined == (("train/a/odd.tif", "has 6 channels that are no colours"),)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2)])
def test_deep_images_of_one_or_two_pixels_are_measured(shape: tuple[int, int], tmp_path: Path) -> None:
    root = fill(tmp_path / "set", lambda number: np.full((20, 20), 300 + 100 * number, dtype=np.uint16))
    save(root / "train" / "a" / "tiny.png", np.full(shape, 600, dtype=np.uint16))
    found = opened(root).images
    assert found.form.windows["integer"][0][0] < 320 and found.form.windows["integer"][0][1] > 780
    row = found.names.index("train/a/tiny.png")
    assert found.batch([row]).pixels[0].shape[1:] == shape


def test_a_picture_with_a_damaged_header_is_left_out(tmp_path: Path) -> None:
    root = fill(tmp_path / "set", lambda number: np.full((20, 20), number, dtype=np.uint8))
    whole = (root / "train" / "a" / "train0.png").read_bytes()
    (root / "train" / "a" / "cut.png").write_bytes(whole[:20])
    assert len(opened(root, max_unreadable=0.1).images) == 18


def test_a_shared_window_of_dicom_files_is_taken_and_differing_ones_are_each_files_own(tmp_path: Path) -> None:
    shared = get_testdata_file("MR_small.dcm", download=False)
    other = get_testdata_file("examples_overlay.dcm", download=False)
    assert isinstance(shared, str) and isinstance(other, str)
    for number in range(6):
        for kind, file in (("same", shared), ("mixed", (shared, other)[number % 2])):
            place = tmp_path / kind / "ab"[number % 2] / f"IM{number}"  # without a suffix, as many are
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place)
    form = opened(tmp_path / "same").images.form
    assert (form.windows, form.scaling) == ({"integer": ((-200, 1399),)}, "measured")
    assert "intensity window -200 to 1,399 (the files' own)" in form.in_words()
    assert opened(tmp_path / "mixed").images.form.scaling == "own"
    assert opened(tmp_path / "mixed", window="0:2000").images.form.scaling == "given"


def test_settings_that_cannot_be_are_one_line(tmp_path: Path) -> None:
    from hpt.config import PretrainConfig, resolve

    fill(tmp_path / "set", ramp(3000))
    for setting, said in (
        ("window=5:5", "window '5:5' is empty"),
        ("window=nan:5", "window 'nan:5' is empty"),
        ("window=wide", "window 'wide' is not LOW:HIGH, nor one of auto"),
        ("channels=17", "17 channels: give 1 to 16"),
        ("channels=0", "0 channels: give 1 to 16"),
        ("channels=1,1", "named twice"),
        ("bits=12", "unknown data.bits '12'"),
    ):
        with pytest.raises(ConfigError, match=said):
            resolve(PretrainConfig, sets=[f"data.{setting}"], flags={"strategy": "target", "dataset": "x"})
    with pytest.raises(ConfigError, match="'own', but no file has a window"):
        opened(tmp_path / "set", window="own")
    with pytest.raises(ConfigError, match="gives 2 windows for 3 channels"):
        opened(tmp_path / "set", window="0:5,0:6")
    with pytest.raises(ConfigError, match=r"data.channels is 4, but .*: 6 of 1 "):
        opened(tmp_path / "set", channels=4)


def test_arrays_are_images_only_where_there_are_no_pictures(tmp_path: Path) -> None:
    fill(tmp_path / "arrays", lambda n: np.random.default_rng(n).random((32, 32, 4)).astype(np.float32), ".npy")
    data = opened(tmp_path / "arrays")
    assert (len(data.images), data.images.form.channels, data.classes) == (18, 4, ("a", "b"))
    fill(tmp_path / "both", lambda n: np.zeros((8, 8), np.uint8))
    save(tmp_path / "both/train/a/embedding.npy", np.zeros((32, 32)))
    both = opened(tmp_path / "both")
    assert len(both.images) == 18
    assert "left out beside pictures: 1 .npy; in a folder of their own they are read" in both.notes


def test_a_file_of_two_gigabytes_is_not_read_into_memory(tmp_path: Path) -> None:
    fill(tmp_path / "set", ramp(3000), ".tif")
    with (tmp_path / "set/train/a/mosaic.tif").open("wb") as file:
        file.write(b"II*\0")
        file.truncate(2 << 30)  # sparse
    with pytest.raises(
        DataError, match=r"1 of 19 .*mosaic.tif \(2.0 GiB, above the limit of 1 GiB: cut it into tiles\)"
    ):
        opened(tmp_path / "set")


def test_an_image_of_one_row_is_kept_as_it_is(tmp_path: Path) -> None:
    fill(tmp_path / "set", lambda n: np.arange(4000, dtype=np.uint16)[None])
    data = opened(tmp_path / "set")
    assert data.images.sizes.tolist() == [[1, 4000]] * 18
    assert data.images.form.bits == 16
