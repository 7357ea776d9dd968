"""A dataset from its publisher's host to its images: a real server on 127.0.0.1, real archives."""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from miniatures import FOLDERS
from publisher_host import Quiet, offer_ucmerced, serving

from hpt.config import DataConfig
from hpt.data.catalog import CATALOG
from hpt.data.dataset import load
from hpt.data.row import Absence, CatalogRow
from hpt.data.unpack import unfinished
from hpt.errors import DataError


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """A publisher's host: its address, and the folder that it serves."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HPTCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HPTCTL_DATA", str(tmp_path / "data"))
    folder = tmp_path / "host"
    folder.mkdir()
    with serving(folder) as address:
        yield address, folder


@pytest.fixture
def ucmerced(host: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CatalogRow:
    """UC Merced's row with a miniature of its archive behind its address."""
    return offer_ucmerced(*host, tmp_path / "work", monkeypatch)


def test_a_dataset_is_downloaded_checked_unpacked_and_read(ucmerced: CatalogRow, tmp_path: Path) -> None:
    assert not ucmerced.ready()
    seen: set[str] = set()
    ucmerced.prepare(lambda done, total, what: seen.add(what))
    assert ucmerced.ready()
    assert seen == {"UCMerced_LandUse.zip", "unpacking UCMerced_LandUse.zip"}
    assert len(load("ucmerced", DataConfig(), side=32).images) == 20
    ucmerced.prepare()
    assert len(Quiet.asked) == 1
    assert sorted(path.name for path in (tmp_path / "data" / "ucmerced").iterdir()) == [
        ".preparing.lock",
        "UCMerced_LandUse",
        "UCMerced_LandUse.zip",
        "UCMerced_LandUse.zip.lock",
    ]


def test_a_small_dataset_is_downloaded_by_the_run_that_needs_it(ucmerced: CatalogRow) -> None:
    assert len(load("ucmerced", DataConfig(), side=32).images) == 20
    assert Quiet.asked == ["/UCMerced_LandUse.zip"]


def test_processes_that_need_it_at_once_download_and_unpack_it_once(ucmerced: CatalogRow) -> None:
    read: list[int] = []
    threads = [threading.Thread(target=lambda: read.append(len(ucmerced.listing().names))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read == [20] * 4
    assert Quiet.asked == ["/UCMerced_LandUse.zip"]


def test_a_data_root_that_cannot_be_made_is_one_line(
    ucmerced: CatalogRow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("HPTCTL_DATA", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot be created \(Not a directory\); choose another --data-root"):
        ucmerced.prepare()


def test_a_large_dataset_is_not_downloaded_unasked(host: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"coco-2014 is not here: .*; hptctl datasets prepare coco-2014 gets it"):
        load("coco-2014", DataConfig(), side=32)
    with pytest.raises(DataError, match=r"bdd is not here: .*; hptctl datasets prepare bdd says how to get it"):
        load("bdd", DataConfig(), side=32)
    assert Quiet.asked == []


def test_what_it_takes_to_get_a_dataset_is_told_by_names_alone(ucmerced: CatalogRow, host: tuple[str, Path]) -> None:
    assert ucmerced.absence() == Absence("ucmerced", "UCMerced_LandUse/Images/*/*.tif", by="run", megabytes=332)
    assert CATALOG["coco-2014"].absence() == Absence(
        "coco-2014", "annotations/instances_train2014.json", by="prepare", megabytes=253 + 13_511 + 6_645
    )
    assert CATALOG["bdd"].absence() == Absence(
        "bdd", "bdd100k/labels/bdd100k_labels_images_train.json", by="person", megabytes=0
    )
    assert CATALOG["digits"].absence() is None
    assert not ucmerced.place.exists()
    ucmerced.place.mkdir(parents=True)
    (ucmerced.place / "UCMerced_LandUse.zip").write_bytes((host[1] / "UCMerced_LandUse.zip").read_bytes())
    assert ucmerced.absence() == Absence("ucmerced", "UCMerced_LandUse/Images/*/*.tif", by="run", megabytes=0)
    ucmerced.fetch()
    assert ucmerced.absence() is None
    assert Quiet.asked == []


def test_unpacking_that_was_killed_is_not_ready_and_goes_on(ucmerced: CatalogRow) -> None:
    ucmerced.prepare()
    unfinished(ucmerced.place / "UCMerced_LandUse.zip").mkdir()
    assert not ucmerced.ready()
    with pytest.raises(DataError, match="whose unpacking was interrupted, is missing"):
        raise ucmerced.not_here(str(ucmerced.missing()))
    ucmerced.prepare()
    assert ucmerced.ready()
    assert len(Quiet.asked) == 1


def test_an_archive_put_there_by_hand_is_checked_and_unpacked(ucmerced: CatalogRow, tmp_path: Path) -> None:
    ucmerced.place.mkdir(parents=True)
    (ucmerced.place / "UCMerced_LandUse.zip").write_bytes(b"not the file")
    with pytest.raises(DataError, match=r"is not the file that was published: its sha256 differs; delete it"):
        ucmerced.prepare()
    source = tmp_path / "host" / "UCMerced_LandUse.zip"
    (ucmerced.place / "UCMerced_LandUse.zip").write_bytes(source.read_bytes())
    ucmerced.prepare()
    assert ucmerced.ready()
    assert Quiet.asked == []


def test_an_archive_in_several_parts_is_ready_when_all_are_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPTCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HPTCTL_DATA", str(tmp_path / "data"))
    row = CATALOG["viper"]
    FOLDERS["viper"](tmp_path / "work")
    row.place.mkdir(parents=True)
    for archive, pattern in {
        "train_cls_00-77_0.zip": "train/cls/*/*",
        "train_img_00-77_0_jpg.zip": "train/img/00[123]/*",
        "train_img_00-77_1_jpg.zip": "train/img/00[456]/*",
        "val_cls_00-47_0.zip": "val/cls/*/*",
        "val_img_00-47_0_jpg.zip": "val/img/*/*",
    }.items():
        with zipfile.ZipFile(row.place / archive, "w") as packed:
            for path in (tmp_path / "work").glob(pattern):
                packed.write(path, path.relative_to(tmp_path / "work"))
    whole = (row.place / "train_img_00-77_1_jpg.zip").read_bytes()
    (row.place / "train_img_00-77_1_jpg.zip").write_bytes(whole[:900])
    with pytest.raises(DataError, match=r"train_img_00-77_1_jpg\.zip is not a whole zip file"):
        row.prepare()
    assert "train_img_*_jpg.zip, whose unpacking was interrupted" in str(row.missing())
    (row.place / "train_img_00-77_1_jpg.zip").write_bytes(whole)
    row.prepare()
    assert row.ready()
    dataset = load("viper", DataConfig(), side=32)
    assert (len(dataset.images), dataset.quarantined) == (14, ())


def test_what_the_host_does_not_have_is_one_line_that_says_what_to_do(
    ucmerced: CatalogRow, host: tuple[str, Path]
) -> None:
    (host[1] / "UCMerced_LandUse.zip").unlink()
    with pytest.raises(DataError) as caught:
        ucmerced.prepare()
    message = str(caught.value)
    assert "ucmerced is not here and its download failed: 127.0.0.1 answered 404" in message
    assert f"put UCMerced_LandUse.zip into {ucmerced.place} (http://weegee" in message
    assert "\n" not in message
