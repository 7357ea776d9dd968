"""What lies in the cache: listed as it is, and pruned without anybody noticing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small_images import noise_images

from hpt.config import DataConfig
from hpt.data.cache_store import entries, prune
from hpt.data.dataset import Dataset, load

IMAGES = 30
DAY = 86_400.0
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return noise_images(tmp_path / "noise", IMAGES)


def opened(path: Path) -> Dataset:
    return load(str(path), DataConfig(), side=64)


def pixels(dataset: Dataset) -> torch.Tensor:
    return dataset.images.batch(range(len(dataset.images))).pixels


def last_used(path: Path, days_ago: float) -> None:
    then = time.time() - days_ago * DAY
    os.utime(path / "index.json", (then, then))


LOAD = """
import sys, time
from hpt.config import DataConfig
from hpt.data.dataset import load
built = []

def progress(done, total, what):
    built.append(done)
    {during}

dataset = load(sys.argv[1], DataConfig(), side=64, progress=progress)
print(bool(built), flush=True)
sys.stdin.readline()
print(int(dataset.images.batch(range(len(dataset.images))).pixels.sum(dtype=__import__("torch").int64)))
"""


def loading(folder: Path, during: str = "None") -> subprocess.Popen[str]:
    """A process that loads the folder, says whether it decoded it, and at a line of input the sum of its pixels."""
    return subprocess.Popen(
        [sys.executable, "-c", LOAD.format(during=during), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_for(what: str) -> None:
    """Until something in the cache is in that state."""
    deadline = time.monotonic() + 30
    while what not in [stored.state for stored in entries()]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_entry_is_listed_with_what_it_was_read_for_its_size_and_its_last_use(folder: Path, tmp_path: Path) -> None:
    assert entries() == []
    opened(folder)
    opened(shutil.copytree(folder, tmp_path / "copy"))
    (stored,) = entries()
    assert (stored.state, stored.in_use) == ("whole", False)
    assert stored.datasets == (str(tmp_path / "copy"), str(folder))
    assert (stored.images, stored.side) == (IMAGES, 64)
    assert stored.bytes == sum(file.stat().st_size for file in stored.path.iterdir()) > IMAGES * 3 * 20 * 16
    last_used(stored.path, days_ago=3)
    assert time.time() - entries()[0].used == pytest.approx(3 * DAY, abs=60)
    opened(folder)
    assert time.time() - entries()[0].used < 60


def test_an_archive_that_moved_is_listed_where_it_was_last_read(folder: Path, tmp_path: Path) -> None:
    path = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", folder))
    opened(path)
    opened(path.rename(tmp_path / "moved.zip"))
    assert entries()[0].datasets == (str(tmp_path / "moved.zip"),)


def test_an_entry_from_before_notes_were_taken_is_listed_and_opened(folder: Path, own_cache: Path) -> None:
    opened(folder)
    (stored,) = entries()
    (stored.path / "about.json").unlink()
    (stamp,) = own_cache.glob("*.json")
    stamp.write_text(json.dumps({"entry": stored.path.name}))
    (old,) = entries()
    assert (old.state, old.datasets, old.images, old.side) == ("whole", (), IMAGES, None)
    for image in folder.rglob("*.png"):  # what is not decoded need not be readable
        facts = image.stat()
        image.write_bytes(bytes(facts.st_size))
        os.utime(image, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert len(opened(folder).images) == IMAGES
    assert entries()[0].datasets == (str(folder),)


def test_the_longest_unused_go_first_until_the_rest_fits_and_a_dry_run_leaves_all(tmp_path: Path) -> None:
    for age in (1, 20, 5):
        root = noise_images(tmp_path / f"{age} days", IMAGES, seed=age)
        opened(root)
        last_used(entries()[0].path, days_ago=age)
    sizes = [stored.bytes for stored in entries()]

    def ages(kept: dict[str, float]) -> list[str]:
        planned = prune(**kept, dry_run=True)
        assert len(entries()) == 3
        return [Path(stored.datasets[0]).name for stored in planned.removed]

    assert ages({}) == []
    assert ages({"unused_for": 4 * DAY}) == ["20 days", "5 days"]
    assert ages({"max_bytes": sum(sizes)}) == []
    assert ages({"max_bytes": sum(sizes) - 1}) == ["20 days"]
    assert ages({"max_bytes": sizes[0]}) == ["20 days", "5 days"]
    assert ages({"unused_for": 10 * DAY, "max_bytes": sizes[0]}) == ["20 days", "5 days"]
    done = prune(max_bytes=2 * max(sizes))
    assert [Path(stored.datasets[0]).name for stored in done.removed] == ["20 days"]
    assert done.stamps == 1
    assert [Path(stored.datasets[0]).name for stored in entries()] == ["1 days", "5 days"]


def test_what_is_damaged_or_points_nowhere_goes_and_what_is_whole_stays(tmp_path: Path, own_cache: Path) -> None:
    whole, cut, gone = (
        noise_images(tmp_path / name, IMAGES, seed) for seed, name in enumerate(("whole", "cut", "gone"))
    )
    for root in (whole, cut, gone):
        opened(root)
    place = {Path(stored.datasets[0]).name: stored.path for stored in entries()}
    os.truncate(place["cut"] / "images.bin", 100)
    shutil.rmtree(place["gone"])
    (own_cache / ("0" * 32 + ".json")).write_text('{"entry"')
    (own_cache / "notes").mkdir()  # not ours
    states = {stored.path: (stored.state, stored.reason) for stored in entries()}
    assert states.keys() == {place["whole"], place["cut"]}
    assert states[place["cut"]] == ("damaged", "images.bin has 100 bytes instead of 28,800")
    planned, done = prune(dry_run=True), prune()
    assert planned == done
    assert ([stored.path for stored in done.removed], done.stamps) == ([place["cut"]], 3)
    assert [stored.path for stored in entries()] == [place["whole"]]
    assert len(list(own_cache.glob("*.json"))) == 1
    assert (own_cache / "notes").exists()


@pytest.mark.slow
def test_two_builds_at_once_are_left_alone_and_what_they_have_open_stays_until_both_close_it(
    folder: Path, own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    there = loading(folder, during="time.sleep(0.2)")
    wait_for("being built")
    (stored,) = entries()
    assert (stored.datasets, stored.side, stored.images, stored.in_use) == ((str(folder),), 64, None, True)
    assert prune(everything=True).removed == ()
    with caplog.at_level("INFO", "hpt.data"):
        here = opened(folder)
    assert "another process is decoding these images" in caplog.text
    expected = int(pixels(here).sum(dtype=torch.int64))

    del here
    assert [(stored.state, stored.in_use) for stored in entries()] == [("whole", True)]
    for done in (prune(everything=True, dry_run=True), prune(everything=True), prune(max_bytes=0)):
        assert (done.removed, len(done.in_use)) == ((), 1)
    here = opened(folder)
    assert there.communicate("\n", timeout=60)[0].split() == ["True", str(expected)]
    assert prune(everything=True).removed == ()
    del here
    assert len(prune(everything=True).removed) == 1
    assert {path.suffix for path in own_cache.iterdir()} == {".lock"}
    assert int(pixels(opened(folder)).sum(dtype=torch.int64)) == expected


@pytest.mark.slow
def test_a_build_that_was_killed_is_abandoned_and_swept_away(folder: Path, own_cache: Path) -> None:
    builder = loading(folder, during="done > 20 and __import__('os').kill(__import__('os').getpid(), 9)")
    builder.communicate(timeout=60)
    assert builder.returncode == -9
    (stored,) = entries()
    assert (stored.state, stored.in_use, stored.datasets, stored.side) == ("abandoned", False, (str(folder),), 64)
    assert prune(dry_run=True).removed == (stored,)
    assert prune().removed == (stored,)
    assert list(own_cache.glob(".building*")) == []
    assert len(opened(folder).images) == IMAGES


def test_loading_beside_endless_pruning_always_gives_the_images(folder: Path, own_cache: Path) -> None:
    endless = "from hpt.data.cache_store import prune\nwhile True: prune(everything=True)"
    expected = pixels(opened(folder))
    pruner = subprocess.Popen([sys.executable, "-c", endless])
    try:
        deadline = time.monotonic() + 30
        while entries():  # until it is at work
            assert time.monotonic() < deadline
        for _ in range(40):
            assert torch.equal(pixels(opened(folder)), expected)
        assert pruner.poll() is None
    finally:
        pruner.kill()
        pruner.wait()
    prune(everything=True)
    assert {path.suffix for path in own_cache.iterdir()} == {".lock"}


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_cache_that_cannot_be_written_is_read_and_listed(folder: Path, own_cache: Path) -> None:
    opened(folder)
    (stored,) = entries()
    last_used(stored.path, days_ago=3)
    files = [own_cache, *own_cache.rglob("*")]
    try:
        for file in files:
            file.chmod(0o555 if file.is_dir() else 0o444)
        assert len(opened(folder).images) == IMAGES
        (listed,) = entries()
        assert (listed.state, listed.in_use) == ("whole", False)
        with pytest.raises(PermissionError):
            prune(everything=True)
    finally:
        for file in files:
            file.chmod(0o755)
