"""Layouts of folders and zip files, and what is refused."""

from __future__ import annotations

import io
import logging
import os
import stat
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hpt.data.folder import list_folder, list_zip
from hpt.data.listing import Listing, Unreadable
from hpt.data.zip_file import BOMB_SIZE
from hpt.errors import DataError

PNG = io.BytesIO()
Image.new("RGB", (4, 4), "red").save(PNG, "PNG")


def fill(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PNG.getvalue())
    return root


def zipped(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, PNG.getvalue())
    return path


def table(listing: Listing) -> dict[str, tuple[str, str | None]]:
    """Split and class of each name."""
    labels = [listing.classes[i] if i >= 0 else None for i in listing.labels]
    return dict(zip(listing.names, zip(listing.splits, labels, strict=True), strict=True))


SPLITS_AND_CLASSES = [
    "train/cat/1.png",
    "train/dog/2.png",
    "val/cat/3.png",
    "val/dog/4.png",
    "test/cat/5.png",
]


def test_an_image_beside_folders_that_hold_splits_is_refused_and_makes_no_training_images_of_them(
    tmp_path: Path,
) -> None:
    for number, place in enumerate(("cat", "my set/v2")):
        root = fill(tmp_path / str(number), f"{place}/train/1.png", f"{place}/test/2.png", "loose.png")
        with pytest.raises(DataError, match=r"holds test, train below .* and, directly, loose.png, whose split is"):
            list_folder(root)


def test_split_folders_with_class_folders_are_read_as_such(tmp_path: Path) -> None:
    listing = list_folder(fill(tmp_path, *SPLITS_AND_CLASSES))
    assert listing.classes == ("cat", "dog")
    assert table(listing) == {name: (name.split("/")[0], name.split("/")[1]) for name in SPLITS_AND_CLASSES}


@pytest.mark.parametrize("folder", ["val", "valid", "validation", "Valid", "VAL"])
def test_the_validation_folder_has_several_names(tmp_path: Path, folder: str) -> None:
    listing = list_folder(fill(tmp_path, "Train/cat/1.png", f"{folder}/cat/2.png"))
    assert sorted(listing.splits) == ["train", "val"]


def test_class_folders_may_hold_folders(tmp_path: Path) -> None:
    listing = list_folder(fill(tmp_path, "cat/1.png", "cat/2020/may/2.png", "dog/3.png"))
    assert table(listing)["cat/2020/may/2.png"] == ("train", "cat")


def test_a_flat_folder_is_unlabelled(tmp_path: Path) -> None:
    listing = list_folder(fill(tmp_path, "1.png", "2.png"))
    assert table(listing) == {"1.png": ("train", None), "2.png": ("train", None)}
    assert listing.classes == ()


def test_images_directly_in_a_folder_make_all_unlabelled_and_a_note_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    listing = list_folder(fill(tmp_path, "1.png", "more/2.png"))
    assert set(table(listing).values()) == {("train", None)}
    assert "unlabelled" in caplog.text


def test_split_folders_without_classes_are_unlabelled(tmp_path: Path) -> None:
    listing = list_folder(fill(tmp_path, "train/1.png", "test/2.png"))
    assert table(listing) == {"train/1.png": ("train", None), "test/2.png": ("test", None)}


def test_an_unlabelled_test_folder_may_stand_beside_a_labelled_train(tmp_path: Path) -> None:
    listing = list_folder(fill(tmp_path, "train/cat/1.png", "train/dog/2.png", "test/3.png"))
    assert table(listing)["test/3.png"] == ("test", None)
    assert table(listing)["train/dog/2.png"] == ("train", "dog")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    listing = list_folder(fill(tmp_path, "bus/1.png", "train/2.png", "tram/3.png"))
    assert listing.classes == ("bus", "train", "tram")


def test_a_wrapping_folder_is_seen_through(tmp_path: Path) -> None:
    wrapped = list_folder(fill(tmp_path / "outer", *(f"inner/{name}" for name in SPLITS_AND_CLASSES)))
    plain = list_folder(fill(tmp_path / "plain", *SPLITS_AND_CLASSES))
    assert table(wrapped) == table(plain)
    with wrapped.source.open() as read:
        assert read(wrapped.names[0]) == PNG.getvalue()


def test_one_class_folder_is_a_dataset_of_one_class(tmp_path: Path) -> None:
    assert list_folder(fill(tmp_path, "cat/1.png", "cat/2.png")).classes == ("cat",)


def test_extensions_in_any_case_spaces_and_other_alphabets_are_fine(tmp_path: Path) -> None:
    names = ["große katze/bild 1.PNG", "große katze/猫.Jpeg", "собака/x.TIFF"]
    assert set(list_folder(fill(tmp_path, *names)).names) == set(names)


def test_hidden_files_and_what_systems_leave_are_ignored(tmp_path: Path) -> None:
    fill(
        tmp_path,
        "cat/1.png",
        ".git/2.png",
        "__MACOSX/cat/._1.png",
        "cat/._1.png",
        "cat/Thumbs.db",
        ".DS_Store",
    )
    fill(tmp_path, "readme.txt", "cat/notes.csv")
    assert list_folder(tmp_path).names == ("cat/1.png",)


def test_a_folder_without_images_is_an_error_that_names_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images \\(it is empty\\)"):
        list_folder(tmp_path)
    fill(tmp_path, "a.csv", "b.csv", "sub/c.txt")
    with pytest.raises(DataError, match=r"no images \(found 2 \.csv, 1 \.txt\)"):
        list_folder(tmp_path)


def test_an_empty_class_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    (fill(tmp_path, "cat/1.png") / "dog").mkdir()
    with pytest.raises(DataError, match="class 'dog' has no images"):
        list_folder(tmp_path)


def test_an_empty_class_of_train_is_an_error_that_names_it(tmp_path: Path) -> None:
    (fill(tmp_path, "train/cat/1.png", "test/cat/2.png") / "train" / "dog").mkdir()
    with pytest.raises(DataError, match=r"class 'dog' has no images in .*train"):
        list_folder(tmp_path)


def test_a_class_that_only_test_has_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"class 'dog' has no images in .*train"):
        list_folder(fill(tmp_path, "train/cat/1.png", "test/cat/2.png", "test/dog/3.png"))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/a/1.png", "test/a/2.png", "cover.png"], "directly, cover.png"),
        (["train/a/1.png", "test/a/2.png", "extra/3.png"], "'extra' beside test, train"),
        (["val/a/1.png", "test/a/2.png"], "no train"),
        (["train/a/1.png", "train/2.png"], "directly, train/2.png"),
    ],
)
def test_a_layout_that_can_be_read_in_two_ways_is_refused(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        list_folder(fill(tmp_path, *names))
    assert caught.value.fix


def test_links_are_followed_and_a_loop_ends(tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", "1.png")
    root = fill(tmp_path / "root", "dog/2.png")
    (root / "cat").symlink_to(tmp_path / "elsewhere")
    (root / "dog" / "up").symlink_to(root)
    assert list_folder(root).names == ("cat/1.png", "dog/2.png")


def test_a_broken_link_is_an_unreadable_image(tmp_path: Path) -> None:
    (fill(tmp_path, "cat/1.png") / "cat" / "2.png").symlink_to(tmp_path / "gone.png")
    listing = list_folder(tmp_path)
    assert len(listing.names) == 2
    with listing.source.open() as read, pytest.raises(Unreadable, match="No such file"):
        read("cat/2.png")


def test_a_zip_reads_as_the_folder_that_it_was_made_from(tmp_path: Path) -> None:
    folder = list_folder(fill(tmp_path / "folder", *SPLITS_AND_CLASSES))
    for number, prefix in enumerate(("", "my data/", "./")):
        listing = list_zip(zipped(tmp_path / f"{number}.zip", *(prefix + name for name in SPLITS_AND_CLASSES)))
        assert table(listing) == table(folder)
        with listing.source.open() as read:
            assert read("train/cat/1.png") == PNG.getvalue()


def test_a_zipped_flat_folder_is_unlabelled(tmp_path: Path) -> None:
    listing = list_zip(zipped(tmp_path / "photos.zip", "photos/1.png", "photos/2.png", "__MACOSX/photos/._1.png"))
    assert table(listing) == {"1.png": ("train", None), "2.png": ("train", None)}


def test_an_empty_class_folder_in_a_zip_is_named(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", "cat/1.png")
    with zipfile.ZipFile(path, "a") as archive:
        archive.mkdir("dog")
    with pytest.raises(DataError, match="class 'dog'"):
        list_zip(path)


@pytest.mark.parametrize("name", ["../evil.png", "cat/../../evil.png", "/etc/evil.png", "C:/evil.png", "..\\evil.png"])
def test_a_zip_with_a_path_that_leads_out_of_it_is_refused_by_name(tmp_path: Path, name: str) -> None:
    path = zipped(tmp_path / "evil.zip", "cat/1.png", name)
    with pytest.raises(DataError) as caught:
        list_zip(path)
    assert name in str(caught.value)


@pytest.mark.parametrize("keep", [0, 10, -10, -40])
def test_a_truncated_zip_is_refused(tmp_path: Path, keep: int) -> None:
    path = zipped(tmp_path / "cut.zip", *SPLITS_AND_CLASSES)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"cut.zip is not a whole zip file"):
        list_zip(path)


def patch_directory(path: Path, offset: int, value: bytes) -> None:
    """Overwrite a field of the only member's record in the archive's directory."""
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02") + offset
    data[at : at + len(value)] = value
    path.write_bytes(data)


def test_an_encrypted_member_is_refused_by_name(tmp_path: Path) -> None:
    path = zipped(tmp_path / "secret.zip", "cat/1.png")
    patch_directory(path, 8, struct.pack("<H", 1))
    with pytest.raises(DataError, match=r"'cat/1.png' is encrypted"):
        list_zip(path)


def test_a_member_that_claims_an_absurd_size_is_refused_by_name(tmp_path: Path) -> None:
    path = zipped(tmp_path / "huge.zip", "cat/1.png")
    patch_directory(path, 24, struct.pack("<I", 300 << 20))
    with pytest.raises(DataError, match=r"'cat/1.png' claims 300 MiB"):
        list_zip(path)


def test_a_zip_bomb_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/bomb.png", bytes(BOMB_SIZE + 1))
    with pytest.raises(DataError, match=r"'cat/bomb.png' claims"):
        list_zip(path)


def test_a_damaged_member_is_one_unreadable_image(tmp_path: Path) -> None:
    path = zipped(tmp_path / "damaged.zip", "cat/1.png", "cat/2.png")
    data = bytearray(path.read_bytes())
    data[data.index(b"IHDR")] ^= 0xFF
    path.write_bytes(data)
    listing = list_zip(path)
    with listing.source.open() as read:
        assert read("2.png") == PNG.getvalue()
        with pytest.raises(Unreadable, match="CRC"):
            read("1.png")


def test_a_folder_that_may_not_be_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    locked = fill(tmp_path, "cat/1.png", "dog/1.png") / "dog"
    locked.chmod(0)
    try:
        if next(locked.iterdir(), None) is not None:
            pytest.skip("this user reads every folder")
    except PermissionError:
        with pytest.raises(DataError, match="dog cannot be read: Permission denied"):
            list_folder(tmp_path)
    finally:
        locked.chmod(stat.S_IRWXU)


@pytest.mark.skipif(sys.platform == "darwin", reason="its file system takes no such name")
def test_names_that_are_no_utf8_are_an_error_that_names_the_first_and_counts_the_others(tmp_path: Path) -> None:
    fill(tmp_path, "cat/1.png", "caf\u00e9/1.png")
    list_folder(tmp_path)
    for name in (b"cat/\xe9.png", b"dog\xff"):
        (tmp_path / os.fsdecode(name)).mkdir()
    with pytest.raises(DataError, match=r"cat/\\xe9.png is not UTF-8 .nor of 1 more.; rename"):
        list_folder(tmp_path)


def test_a_zip_is_read_by_several_threads_at_once(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    random = np.random.default_rng(0)
    contents = {f"{i}.png": random.bytes(20_000) for i in range(40)}
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    with list_zip(path).source.open() as read, ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            assert dict(zip(contents, pool.map(read, contents), strict=True)) == contents


def test_listing_says_nothing_where_nothing_is_doubtful(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        list_folder(fill(tmp_path, *SPLITS_AND_CLASSES))
    assert not caplog.records


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_bytes_that_are_damaged_in_any_way_of_packing_are_one_unreadable_image(tmp_path: Path, method: int) -> None:
    path = tmp_path / "damaged.zip"
    random = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in ("cat/1.png", "cat/2.png"):
            archive.writestr(name, random.bytes(3000))
        start = archive.getinfo("cat/1.png").header_offset + 39
    whole, damaged = path.read_bytes(), 0
    with list_zip(path).source.open() as read:
        right = read("1.png")
    for place in (start, start + 4, start + 9, start + 500):
        for length in (1, 5, 900):
            data = bytearray(whole)
            for at in range(place, place + length):
                data[at] ^= 0x5A
            path.write_bytes(data)
            with list_zip(path).source.open() as read:
                assert len(read("2.png")) == 3000
                try:
                    assert read("1.png") == right  # not every byte of LZMA's head matters
                except Unreadable as error:
                    assert str(error).startswith("damaged in the archive: ")
                    damaged += 1
    assert damaged >= 10


@pytest.mark.parametrize(("method", "called"), [(9, "deflate64"), (93, "zstd"), (98, "PPMd"), (77, "method 77")])
def test_a_way_of_packing_that_python_does_not_read_is_named(tmp_path: Path, method: int, called: str) -> None:
    path = zipped(tmp_path / "a.zip", "cat/1.png")
    patch_directory(path, 10, struct.pack("<H", method))
    with pytest.raises(DataError, match=f"member 'cat/1.png' is packed by {called}; zip the folder again with deflate"):
        list_zip(path)


def test_a_part_of_a_zip_is_refused_with_the_way_to_join_them(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", "cat/1.png")
    patch_directory(path, 34, struct.pack("<H", 1))
    with pytest.raises(DataError, match=r"a.zip is the last part of a zip file .*; join them: zip -s 0 a.zip --out"):
        list_zip(path)
    path.write_bytes(path.read_bytes()[-30:])
    (tmp_path / "a.z01").touch()
    with pytest.raises(DataError, match="the last part"):
        list_zip(path)


def test_names_of_other_systems_archivers_are_read(tmp_path: Path) -> None:
    """Backslashes, as Windows has written them, and UTF-8 that is not said to be so, as macOS has."""
    path = zipped(tmp_path / "a.zip", "set\\xaf\\1.png", "set\\dog\\2.png")
    path.write_bytes(path.read_bytes().replace(b"xaf", "\u00e9f".encode()))
    listing = list_zip(path)
    assert table(listing) == {"dog/2.png": ("train", "dog"), "\u00e9f/1.png": ("train", "\u00e9f")}
    with listing.source.open() as read:
        assert read("\u00e9f/1.png") == PNG.getvalue()
    assert len(list(listing.source.stamp(listing.names))) == 2


@pytest.mark.skipif(sys.platform == "darwin", reason="its file system has one form")
def test_a_class_is_one_in_both_of_unicodes_forms(tmp_path: Path) -> None:
    fill(tmp_path, "train/caf\u00e9/1.png", "train/tea/2.png", "test/cafe\u0301/3.png")
    assert table(list_folder(tmp_path))["test/cafe\u0301/3.png"] == ("test", "caf\u00e9")
