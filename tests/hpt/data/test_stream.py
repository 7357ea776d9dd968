"""Streamed images: the same pixels as the cache's, in an order of their own, whoever reads and whenever it was cut."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_pretraining
import torch
from PIL import Image
from small_images import noise_images
from small_pretraining import B

from hpt.config import DataConfig, PretrainConfig
from hpt.data import remote, shards
from hpt.data.dataset import Dataset, load, load_streamed
from hpt.data.loader import Feed, Order
from hpt.data.names import find
from hpt.data.pack import pack
from hpt.data.shards import Shards
from hpt.data.stream import StreamedImages
from hpt.errors import DataError, Interrupted
from hpt.processes import Processes
from hpt.views import Views

STREAM = DataConfig(stream=True)
CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return noise_images(tmp_path / "noise", 90)


@pytest.fixture
def packed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Shards of some thirty images, which are read some eight images at a time."""
    monkeypatch.setattr(shards, "CHUNK", 16 << 10)
    pack(find(str(folder)), tmp_path / "pack", DataConfig(), shard_bytes=1 << 16)
    return tmp_path / "pack"


def streamed(dataset: Path, config: DataConfig = STREAM, pool: int | None = None) -> Dataset:
    found = load_streamed(str(dataset), config, side=64)
    if pool is not None:
        object.__setattr__(images_of(found).store, "buffer", 2 * pool)
    return found


def images_of(dataset: Dataset) -> StreamedImages:
    assert isinstance(dataset.images, StreamedImages)
    return dataset.images


def tables(folder: Path, out: Path) -> Path:
    out.mkdir()
    names = sorted(folder.rglob("*.png"))
    rows = {"image": [path.read_bytes() for path in names], "label": [path.parent.name for path in names]}
    pq.write_table(pa.table(rows), out / "train.parquet", row_group_size=13)
    return out


@pytest.mark.parametrize("kind", ["folder", "pack", "tables"])
def test_streamed_images_have_the_pixels_of_the_cache(kind: str, folder: Path, packed: Path, tmp_path: Path) -> None:
    dataset = {"folder": folder, "pack": packed}.get(kind) or tables(folder, tmp_path / "tables")
    theirs, ours = load(str(dataset), DataConfig(), side=64), streamed(dataset)
    assert ours.images.names == theirs.images.names
    assert ours.split_fingerprint == theirs.split_fingerprint
    assert np.array_equal(ours.labels, theirs.labels)
    rows = [5, 0, 89, 5, 44]
    for row in range(len(rows)):
        assert torch.equal(ours.images.batch(rows).image(row), theirs.images.batch(rows).image(row))
    assert ours.images.mean == pytest.approx(theirs.pretraining_images().statistics()[0], abs=1e-6)
    assert ours.images.std == pytest.approx(theirs.pretraining_images().statistics()[1], abs=1e-6)
    assert (ours.fingerprint == theirs.fingerprint) is (kind == "pack")


def test_a_pass_shows_each_image_once_chunk_by_chunk_and_no_two_passes_alike(packed: Path) -> None:
    images = images_of(streamed(packed, pool=30 << 10))
    first, second = images.shuffled(3, 0), images.shuffled(3, 1)
    assert sorted(first.tolist()) == list(range(90))
    assert not torch.equal(first, second)
    assert torch.equal(first, images.shuffled(3, 0))
    assert not torch.equal(first, images.shuffled(4, 0))
    chunks = images.chunk_of[first.numpy()]
    assert len(np.unique(chunks)) > 8
    for chunk in np.unique(chunks):  # lies within one pool, in any order
        at = np.flatnonzero(chunks == chunk)
        assert at.max() - at.min() < 2 * images.pool_images


def planned(config: PretrainConfig, images: StreamedImages, steps: range) -> list[torch.Tensor]:
    order = Order(len(images), config.batch_size, config.seed, images.shuffled)
    return [
        indices for step in steps for draw in [order.draw(step)] for indices in (draw.images[draw.shuffle], draw.images)
    ]


def test_a_feed_of_streamed_images_gives_the_plans_batches_and_leaves_no_thread(packed: Path) -> None:
    found = streamed(packed, pool=20 << 10)
    images, theirs = found.pretraining_images(), load(str(packed), DataConfig(), side=64).pretraining_images()
    assert isinstance(images, StreamedImages)
    plan = planned(small_pretraining.config(), images, range(2, 12))  # three passes
    with Feed(images, CPU, iter(plan), ahead=4 * B) as feed:
        for number, indices in enumerate(plan):
            if number % 2 == 0:
                assert feed.lost(2 * B) is None
            ours, expected = feed(indices), theirs.batch(indices.numpy())
            assert all(torch.equal(ours.image(row), expected.image(row)) for row in range(len(indices)))
        stream = feed._decoding
        assert stream is not None
        assert not stream._files and not stream._decoded and not stream._uses
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith(("feed", "stream", "decode"))]


def test_each_chunk_is_read_about_once_in_a_pass(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = images_of(streamed(packed, pool=30 << 10))
    asked: list[str] = []
    whole = Shards._read_many
    monkeypatch.setattr(Shards, "_read_many", lambda self, names: (asked.extend(names), whole(self, names))[1])
    plan = planned(small_pretraining.config(), images, range(5))
    with Feed(images, CPU, iter(plan), ahead=4 * B) as feed:
        for indices in plan:
            feed(indices)
    assert Counter(asked).most_common(1)[0][1] == 1
    assert len(asked) == 5 * B


def test_a_process_reads_the_images_of_its_own_rows_alone(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = images_of(streamed(packed))
    asked: set[str] = set()
    whole = Shards._read_many
    monkeypatch.setattr(Shards, "_read_many", lambda self, names: (asked.update(names), whole(self, names))[1])
    config = small_pretraining.config(batch_size=16, moco={"queue_size": 32, "bn_group": 4}, processes=2)
    second = object.__new__(Processes)
    second.count, second.device, second.rank = 2, CPU, 1  # type: ignore[misc]
    with Views(config, images, range(1), second) as views:
        step = views(0)
        keys, queries = list(step.key), list(step.query)
    assert sum(map(len, keys)) == sum(map(len, queries)) == 8
    draw = Order(len(images), 16, config.seed, images.shuffled).draw(0)
    own = {images.names[i] for part in (draw.images[draw.shuffle], draw.images) for i in second.share(part).tolist()}
    assert asked == own


def sha256(outcome: object, folder: Path) -> str:
    return hashlib.sha256((folder / "backbone.safetensors").read_bytes()).hexdigest()


@pytest.mark.slow
def test_a_run_that_was_cut_goes_on_with_the_same_batches(packed: Path, tmp_path: Path) -> None:
    images = streamed(packed, pool=20 << 10).pretraining_images()
    settings = small_pretraining.config(steps=6)
    whole, logged = small_pretraining.run(settings, images, tmp_path / "whole")
    with pytest.raises(Interrupted):
        small_pretraining.run(settings, images, tmp_path / "cut", stop_after=3)
    again, rest = small_pretraining.run(settings, images, tmp_path / "cut")
    assert again.sha256 == whole.sha256
    losses = {line["step"]: line["loss"] for line in logged if "loss" in line}
    assert {line["step"]: line["loss"] for line in rest if "loss" in line}.items() <= losses.items()


def test_an_unreadable_image_is_named_and_the_next_one_seen_in_its_place(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "a" / "04.png").write_bytes(b"no image")
    allowing = DataConfig(stream=True, max_unreadable=0.05)
    images = streamed(folder, allowing).images
    row = images.names.index("a/04.png")
    assert torch.equal(images.batch([row]).image(0), images.batch([row + 1]).image(0))
    assert caplog.text.count("a/04.png cannot be read") == 1
    with pytest.raises(DataError, match=r"1 of 90 images cannot be read so far, over the limit of 0\.01: a/04\.png"):
        streamed(folder)


def test_a_shard_that_goes_away_costs_no_step_that_was_made(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    images = streamed(packed, pool=1).pretraining_images()
    settings = small_pretraining.config(steps=5)
    whole, _ = small_pretraining.run(settings, images, tmp_path / "whole")
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0))
    gone = packed / "images-000002.tar"
    moved = gone.rename(tmp_path / "moved.tar")
    said = r"images-000002\.tar cannot be read .*3 times\); the checkpoint of step \d+ is saved; bring it back"
    with pytest.raises(DataError, match=said) as error:
        small_pretraining.run(settings, images, tmp_path / "cut")
    assert "trying again in 0 s" in caplog.text
    assert "\n" not in str(error.value)
    moved.rename(gone)
    again, _ = small_pretraining.run(settings, images, tmp_path / "cut")
    assert again.sha256 == whole.sha256


def test_images_that_would_fill_the_disk_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hpt.data import cache

    monkeypatch.setattr(cache, "MANY", 10)
    usage = cache.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    Image.new("RGB", (40, 40)).save(noise_images(tmp_path / "noise", 20) / "a" / "big.png")
    with pytest.raises(
        DataError, match=r"would take 0 GiB, and the cache's disk has 0 GiB free .*--set data\.stream=true"
    ):
        load(str(tmp_path / "noise"), DataConfig(), side=64)
