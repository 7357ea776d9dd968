"""Raw batches: read ahead in the order of the plan, the same from wherever the pixels lie."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hpt.config import DataConfig
from hpt.data.dataset import load
from hpt.data.images import Images
from hpt.data.loader import AHEAD, Feed, Order

CPU = torch.device("cpu")


@pytest.fixture(params=[((16, 20),), ((16, 20), (24, 18), (9, 40))], ids=["one size", "several sizes"])
def images(request: pytest.FixtureRequest, tmp_path: Path, own_cache: Path) -> Images:
    random = np.random.default_rng(0)
    (tmp_path / "set").mkdir()
    for number in range(12):
        height, width = request.param[number % len(request.param)]
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "set" / f"{number:02d}.png")
    return load(str(tmp_path / "set"), DataConfig(), side=64).pretraining_images()


def test_images_on_a_device_give_the_batches_of_the_map(images: Images) -> None:
    subset = images.subset([7, 2, 5, 1])
    resident = subset.on(CPU)
    for indices in ([0, 1, 2, 3], [2, 2], [3]):
        ours, theirs = resident.batch(indices), subset.batch(indices)
        assert torch.equal(ours.sizes, theirs.sizes)
        assert torch.equal(ours.pixels, theirs.pixels)
        in_place = subset.in_place(np.array(indices))
        assert all(torch.equal(in_place.image(row), theirs.image(row)) for row in range(len(indices)))
    assert subset.bytes == sum(3 * int(h) * int(w) for h, w in subset.batch([0, 1, 2, 3]).sizes)


def test_a_feed_gives_the_planned_batches_and_reads_only_a_few_ahead(images: Images) -> None:
    plan = [torch.tensor([i, (i + 1) % len(images)]) for i in range(len(images))]
    drawn = []

    def planned() -> object:
        for indices in plan:
            drawn.append(indices)
            yield indices

    with Feed(images, CPU, planned()) as feed:
        for number, indices in enumerate(plan):
            assert len(drawn) == min(number + AHEAD, len(plan))
            ours, theirs = feed(indices), images.batch(indices.numpy())
            assert all(torch.equal(ours.image(row), theirs.image(row)) for row in range(2))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("feed")]


def test_a_batch_that_was_not_planned_is_refused(images: Images) -> None:
    with Feed(images, CPU, iter([torch.tensor([0]), torch.tensor([1])])) as feed:
        feed(torch.tensor([0]))
        with pytest.raises(ValueError, match="not the next of the plan"):
            feed(torch.tensor([0]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_gpu_gets_the_batches_of_the_map(images: Images, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpt.data.loader.RESIDENT_SHARE", share)
    plan = [torch.tensor([i]) for i in range(len(images))]
    with Feed(images, torch.device("cuda", 0), iter(plan)) as feed:
        for indices in plan:
            raw = feed(indices)
            assert raw.pixels.is_cuda
            assert torch.equal(raw.image(0).cpu(), images.batch(indices.numpy()).image(0))


def test_every_image_is_seen_once_a_pass_and_no_process_needs_another_ones_state() -> None:
    order = Order(50, 16, seed=3)
    seen = torch.cat([order.batch(step) for step in range(3)])
    assert len(set(seen.tolist())) == 48
    assert not torch.equal(order.batch(0), order.batch(3))
    assert torch.equal(Order(50, 16, seed=3).batch(7), order.batch(7))


def test_fewer_images_than_a_batch_are_refused_with_a_batch_size_that_works() -> None:
    from hpt.errors import DataError

    with pytest.raises(DataError, match="50 images do not fill one batch of 256; use --batch-size 32"):
        Order(50, 256, seed=0)
