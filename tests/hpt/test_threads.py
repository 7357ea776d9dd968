from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from hpt import augment
from hpt.config import AugmentConfig
from hpt.data.images import PackedPixels
from hpt.randomness import generator
from hpt.threads import in_parts

NORM = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_rows_are_divided_among_threads_that_compute_alone_and_each_row_is_made_once() -> None:
    made = torch.zeros(100, dtype=torch.int64)
    seen: list[tuple[int, str, int]] = []

    def work(rows: slice) -> None:
        made[rows] += 1
        in_parts(
            lambda again: seen.append((again.stop, threading.current_thread().name, torch.get_num_threads())), 5, 5
        )

    in_parts(work, 100, 20)
    assert made.tolist() == [1] * 100
    assert len(seen) == 5  # a part is not divided again
    assert {threads for _, _, threads in seen} == {1}
    assert threading.current_thread().name not in {name for _, name, _ in seen}


def test_other_threads_keep_the_number_of_threads_that_torch_has() -> None:
    found: list[int] = []
    in_parts(lambda rows: None, 10, 2)
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert [torch.get_num_threads(), *found] == [3, 3]


def test_what_a_part_raises_is_raised() -> None:
    def work(rows: slice) -> None:
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        in_parts(work, 10, 2)


def test_views_are_the_same_bits_for_any_number_of_threads() -> None:
    sizes = np.random.default_rng(0).integers(20, 90, (50, 2))
    flat = torch.randint(0, 256, (int(3 * sizes.prod(axis=1).sum()),), generator=generator(0, "test"))
    raw = PackedPixels(flat.to(torch.uint8), sizes).in_place(range(50))
    view = augment.parameters(augment.draw(50, generator(1, "test")), raw.sizes, AugmentConfig())
    divided = augment.train_view(raw, view, 32, **NORM), augment.centre_view(raw, 32, **NORM)
    torch.set_num_threads(1)
    whole = augment.train_view(raw, view, 32, **NORM), augment.centre_view(raw, 32, **NORM)
    for ours, expected in zip(divided, whole, strict=True):
        assert torch.equal(ours, expected)
