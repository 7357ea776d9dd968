"""A pack is the dataset again: the same images, labels, splits and digests, and the same bytes each time."""

from __future__ import annotations

import csv
import json
import shutil
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from small_images import noise_images
from webdataset.tariterators import group_by_keys, tar_file_expander

from hpt.config import DataConfig
from hpt.data import quarantine
from hpt.data.dataset import Dataset, load
from hpt.data.names import find
from hpt.data.pack import FACTS, Packed, pack
from hpt.data.tar_index import index_name
from hpt.errors import DataError

CONFIG = DataConfig()
SIZE = 1 << 16
"""Bytes of a shard: some thirty of the images."""
pytestmark = pytest.mark.usefixtures("own_cache")


def packed(dataset: Path, out: Path, config: DataConfig = CONFIG, size: int = SIZE) -> Packed:
    return pack(find(str(dataset)), out, config, shard_bytes=size)


def read(dataset: Path) -> Dataset:
    return load(str(dataset), CONFIG, side=64)


def same(a: Dataset, b: Dataset) -> None:
    assert a.images.names == b.images.names
    assert a.classes == b.classes
    assert np.array_equal(a.labels, b.labels, equal_nan=a.labels.ndim == 2)
    assert np.array_equal(a.images.digests, b.images.digests)
    assert a.fingerprint == b.fingerprint
    assert a.split_fingerprint == b.split_fingerprint
    assert (a.images.mean, a.images.std) == (b.images.mean, b.images.std)


def test_class_folders_come_back_as_they_were_and_are_cut_alike(tmp_path: Path) -> None:
    folder = noise_images(tmp_path / "noise", 90)
    done = packed(folder, tmp_path / "pack")
    assert done.images == {"images": 90}
    assert len(done.shards) > 2
    assert all((tmp_path / "pack" / name).stat().st_size <= SIZE for name in done.shards)
    same(read(folder), read(tmp_path / "pack"))
    other = DataConfig(split_seed=3)
    assert (
        load(str(folder), other, side=64).split_fingerprint
        == load(str(tmp_path / "pack"), other, side=64).split_fingerprint
    )


def test_splits_that_the_folder_has_are_those_of_the_shards(tmp_path: Path) -> None:
    for split, count in (("train", 20), ("val", 8), ("test", 10)):
        noise_images(tmp_path / "set" / split, count, seed=count)
    done = packed(tmp_path / "set", tmp_path / "pack")
    assert done.images == {"train": 20, "val": 8, "test": 10}
    same(read(tmp_path / "set"), read(tmp_path / "pack"))


def test_the_webdataset_library_reads_a_pack(tmp_path: Path) -> None:
    folder = noise_images(tmp_path / "noise", 40)
    packed(folder, tmp_path / "pack")
    with ExitStack() as opened:  # the library itself leaves its files open
        shards = sorted((tmp_path / "pack").glob("*.tar"))
        streams = [{"url": str(path), "stream": opened.enter_context(path.open("rb"))} for path in shards]
        found = list(group_by_keys(tar_file_expander(streams)))
    samples = {f"{sample['__key__']}.png": sample for sample in found}
    assert len(samples) == 40
    for name, sample in samples.items():
        assert sample["png"] == (folder / name).read_bytes()
        assert sample["cls"] == str("ab".index(name[0])).encode()


def test_the_same_files_come_to_the_same_bytes_wherever_they_lie(tmp_path: Path) -> None:
    folder = noise_images(tmp_path / "noise", 40)
    shutil.copytree(folder, tmp_path / "copy")
    contents = []
    for number, source in enumerate((folder, tmp_path / "copy")):
        packed(source, tmp_path / f"pack{number}")
        files = sorted((tmp_path / f"pack{number}").glob("[!.]*"))
        contents.append({path.name: path.read_bytes() for path in files})
    assert contents[0] == contents[1]


def test_dots_in_names_and_names_without_endings_come_back(tmp_path: Path) -> None:
    folder = noise_images(tmp_path / "noise", 6)
    for old, new in (("a/00.png", "a/v1.2.png"), ("a/02.png", "a/v1.3.PNG"), ("b/01.png", "b/without")):
        (folder / old).rename(folder / new)
    shutil.copy(folder / "a/04.png", folder / "a/04.bmp")  # of the same key
    done = packed(folder, tmp_path / "pack")
    assert done.renamed == 4
    same(read(folder), read(tmp_path / "pack"))


def test_several_labels_and_unlabelled_images_come_back(tmp_path: Path) -> None:
    folder = noise_images(tmp_path / "noise", 30)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    with (folder / "set.csv").open("w", newline="") as file:
        rows = [[name, "train" if n % 3 else "test", "x|y" if n % 2 else "y"] for n, name in enumerate(names)]
        csv.writer(file).writerows([["path", "split", "label"], *rows])
    packed(folder / "set.csv", tmp_path / "several")
    same(read(folder / "set.csv"), read(tmp_path / "several"))
    shutil.move(folder / "a", tmp_path / "flat")
    packed(tmp_path / "flat", tmp_path / "unlabelled")
    same(read(tmp_path / "flat"), read(tmp_path / "unlabelled"))


def test_a_pack_that_was_stopped_is_refused_and_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = noise_images(tmp_path / "noise", 90)
    packed(folder, tmp_path / "whole")

    def stops(done: int, total: int, what: str) -> None:
        if done > 60:
            raise KeyboardInterrupt

    out = tmp_path / "pack"
    with pytest.raises(KeyboardInterrupt):
        pack(find(str(folder)), out, CONFIG, shard_bytes=SIZE, progress=stops)
    written = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert written
    with pytest.raises(DataError, match="was not packed to its end; give the same hptctl datasets pack again"):
        read(out)
    assert packed(folder, out).kept == len(written)
    assert {name: (out / name).stat().st_mtime_ns for name in written} == written
    assert not list(out.glob(".*.part"))
    for path in (tmp_path / "whole").glob("[!.]*"):
        assert (out / path.name).read_bytes() == path.read_bytes()
    assert packed(folder, out).kept == len(list(out.glob("*.tar")))


def test_what_has_changed_since_is_packed_anew(tmp_path: Path) -> None:
    folder = noise_images(tmp_path / "noise", 90)
    packed(folder, tmp_path / "pack")
    noise_images(tmp_path / "other", 91, seed=1)
    shutil.copy(tmp_path / "other/a/88.png", folder / "b/89.png")
    done = packed(folder, tmp_path / "pack")
    assert 0 < done.kept < len(done.shards)
    same(read(folder), read(tmp_path / "pack"))
    larger = packed(folder, tmp_path / "pack", size=1 << 20)
    assert (larger.kept, len(larger.shards)) == (0, 1)
    assert sorted(path.name for path in (tmp_path / "pack").glob("*.tar")) == ["images-000000.tar"]
    same(read(folder), read(tmp_path / "pack"))


def test_a_shard_that_is_missing_or_an_index_of_another_is_noticed(tmp_path: Path) -> None:
    folder = noise_images(tmp_path / "noise", 90)
    done = packed(folder, tmp_path / "pack")
    (tmp_path / "pack" / index_name(done.shards[0])).write_text("{}")
    same(read(folder), read(tmp_path / "pack"))
    (tmp_path / "pack" / done.shards[1]).unlink()
    with pytest.raises(DataError, match=r"images-000001\.tar cannot be read: No such file"):
        read(tmp_path / "pack")


def test_nothing_that_is_no_pack_of_the_same_is_written_over(tmp_path: Path) -> None:
    folder = noise_images(tmp_path / "noise", 6)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years")
    with pytest.raises(DataError, match=r"holds other files, such as thesis\.tex; name a new or an empty folder"):
        packed(folder, tmp_path / "full")
    packed(folder, tmp_path / "pack")
    facts = json.loads((tmp_path / "pack" / FACTS).read_text())
    (tmp_path / "pack" / FACTS).write_text(json.dumps(facts | {"classes": ["other"]}))
    with pytest.raises(DataError, match="holds another pack"):
        packed(folder, tmp_path / "pack")


def test_unreadable_files_are_left_out_and_the_quarantine_list_goes_along(tmp_path: Path) -> None:
    folder = noise_images(tmp_path / "noise", 30)
    (folder / "a/28.png").unlink()
    (folder / "a/28.png").symlink_to(tmp_path / "gone.png")
    quarantine.write(tmp_path / "noise.quarantine.csv", {"a/00.png": "a copy"})
    done = packed(folder, tmp_path / "pack", DataConfig(max_unreadable=0.1))
    assert [name for name, _ in done.left_out] == ["a/28.png"]
    found = read(tmp_path / "pack")
    assert found.quarantined == (("a/00.png", "a copy"),)
    with pytest.raises(DataError, match=r"1 of 30 images cannot be read, over the limit of 0\.01"):
        packed(folder, tmp_path / "strict")


def test_groups_of_a_dataset_are_cut_when_it_is_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPTCTL_DATA", str(tmp_path))
    noise_images(tmp_path / "noise", 60)
    (tmp_path / "catalog.toml").write_text('[patients]\npath = "noise"\ngroup = "/[0-9]"\n')
    done = pack(find("patients"), tmp_path / "pack", CONFIG, shard_bytes=SIZE)
    assert set(done.images) == {"train", "val", "test"}
    found = read(tmp_path / "pack")
    groups = {split: {found.images.names[i][2] for i in rows} for split, rows in found.splits.items()}
    assert not groups["train"] & groups["test"]
    assert found.split_fingerprint == load("patients", CONFIG, side=64).split_fingerprint
