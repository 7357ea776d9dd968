"""The split that is cut where a dataset comes without."""

from __future__ import annotations

import numpy as np
import pytest

from hpt.data.listing import Split
from hpt.data.splits import complete, fingerprint


def cut(
    sizes: list[int], seed: int = 0, given: list[Split] | None = None
) -> tuple[list[str], np.ndarray, dict[str, np.ndarray]]:
    """Names, labels and splits of classes of those sizes."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    names = [f"{label}/{i}.png" for i, label in enumerate(labels)]
    return names, labels, complete("set", names, labels, given or ["train"] * len(names), seed)


def counts(labels: np.ndarray, splits: dict[str, np.ndarray]) -> dict[str, list[int]]:
    return {split: np.bincount(labels[rows], minlength=labels.max() + 1).tolist() for split, rows in splits.items()}


def test_seventy_ten_twenty_of_every_class() -> None:
    _, labels, splits = cut([400, 100, 10])
    assert counts(labels, splits) == {"train": [280, 70, 7], "val": [40, 10, 1], "test": [80, 20, 2]}


@pytest.mark.parametrize(
    ("size", "expected"), [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (4, (2, 1, 1)), (5, (3, 1, 1))]
)
def test_three_images_of_a_class_reach_every_split(size: int, expected: tuple[int, int, int]) -> None:
    _, labels, splits = cut([50, size])
    assert tuple(counts(labels, splits)[split][1] for split in ("train", "val", "test")) == expected


def test_every_image_is_in_exactly_one_split_in_sorted_order() -> None:
    names, _, splits = cut([37, 11, 5])
    assert sorted(np.concatenate(list(splits.values())).tolist()) == list(range(len(names)))
    assert all((np.diff(rows) > 0).all() for rows in splits.values())


def test_the_split_depends_on_the_seed_and_not_on_the_order_of_the_images() -> None:
    names, labels, splits = cut([60, 40])
    order = np.random.default_rng(0).permutation(len(names))
    shuffled = [names[i] for i in order]
    again = complete("set", shuffled, labels[order], ["train"] * len(names), 0)
    for split, rows in splits.items():
        assert {shuffled[i] for i in again[split]} == {names[i] for i in rows}
    assert fingerprint(names, splits) == fingerprint(shuffled, again)
    assert fingerprint(names, splits) != fingerprint(names, cut([60, 40], seed=1)[2])


def test_the_split_is_the_same_on_every_machine() -> None:
    names, _, splits = cut([10])
    assert {split: [names[i] for i in rows] for split, rows in splits.items() if split != "train"} == {
        "val": ["0/0.png"],
        "test": ["0/3.png", "0/8.png"],
    }


def test_val_is_ten_percent_of_all_and_comes_from_train() -> None:
    given: list[Split] = ["train"] * 80 + ["test"] * 20
    _, _, splits = cut([100], given=given)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 70, "val": 10, "test": 20}
    assert splits["test"].tolist() == list(range(80, 100))


def test_test_is_twenty_percent_of_all_and_comes_from_train() -> None:
    given: list[Split] = ["train"] * 90 + ["val"] * 10
    _, _, splits = cut([100], given=given)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 70, "val": 10, "test": 20}
    assert splits["val"].tolist() == list(range(90, 100))


def test_a_large_test_set_does_not_eat_train_up() -> None:
    given: list[Split] = ["train"] * 100 + ["test"] * 900
    _, _, splits = cut([1000], given=given)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 80, "val": 20, "test": 900}


def test_unlabelled_images_all_stay_in_train() -> None:
    splits = complete("set", ["a", "b", "c"], np.full(3, -1), ["train"] * 3, 0)
    assert {split: rows.tolist() for split, rows in splits.items()} == {
        "train": [0, 1, 2],
        "val": [],
        "test": [],
    }


def test_a_rare_class_of_several_per_image_reaches_every_split() -> None:
    random = np.random.default_rng(0)
    labels = (random.random((1000, 40)) < 0.5 / np.arange(1, 41)).astype(np.float32)
    labels[:, 39] = 0
    labels[[3, 500, 900], 39] = 1
    names = [f"{i}" for i in range(1000)]
    splits = complete("set", names, labels, ["train"] * 1000, 0)
    assert {split: len(rows) for split, rows in splits.items()} == pytest.approx(
        {"train": 700, "val": 100, "test": 200}, abs=5
    )
    assert all(labels[rows].any(axis=0).all() for rows in splits.values())
    common = labels.sum(axis=0) > 50
    for split, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
        np.testing.assert_allclose((labels[splits[split]].sum(axis=0) / labels.sum(axis=0))[common], share, atol=0.02)
    order = random.permutation(1000)
    again = complete("set", [names[i] for i in order], labels[order], ["train"] * 1000, 0)
    assert all(np.array_equal(np.sort(order[again[split]]), rows) for split, rows in splits.items())
    other = complete("set", names, labels, ["train"] * 1000, 1)
    assert fingerprint(names, splits) != fingerprint(names, other)


def test_images_with_one_of_several_labels_each_are_cut_as_single_labels() -> None:
    names, single, splits = cut([400, 100, 10])
    sets = complete("set", names, np.eye(3, dtype=np.float32)[single], ["train"] * 510, 0)
    assert counts(single, sets) == counts(single, splits)


def test_a_multi_label_train_without_labels_stays_whole() -> None:
    labels = np.full((10, 3), np.nan, dtype=np.float32)
    splits = complete("set", [f"{i}" for i in range(10)], labels, ["train"] * 10, 0)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 10, "val": 0, "test": 0}


def test_a_set_with_several_labels_per_image_is_cut_as_a_whole() -> None:
    labels = np.random.default_rng(0).integers(0, 2, (50, 4)).astype(np.float32)
    splits = complete("set", [f"{i}" for i in range(50)], labels, ["train"] * 50, 0)
    sizes = {split: len(rows) for split, rows in splits.items()}
    assert sorted(np.concatenate(list(splits.values())).tolist()) == list(range(50))
    for split, wanted in {"train": 35, "val": 5, "test": 10}.items():  # keeping every class's share moves a few images
        assert abs(sizes[split] - wanted) <= 2
        assert labels[splits[split]].any(axis=0).all()
