"""Label efficiency on features of which it is known how many labels do what."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import RidgeCV

from hpt.config import KnnConfig
from hpt.evaluate.label_efficiency import (
    PENALTIES,
    Curves,
    Embedded,
    Head,
    labels_for,
    ladder,
    measure,
    ridge,
    rise_only,
)

CLASSES, KINDS = 4, 32


def clustered(told: int, which: np.ndarray) -> torch.Tensor:
    """Features by which images of one kind are alike and those of two kinds are not; of the 32 kinds that `which` [n]
    numbers a backbone tells as many apart, evenly over the classes."""
    random = torch.Generator().manual_seed(told)
    return F.one_hot(torch.from_numpy(which % told), KINDS).float() + 0.01 * torch.rand(
        len(which), KINDS, generator=random
    )


def curves(*told: int, head: Head = "knn") -> Curves:
    train, val = np.arange(10 * KINDS) % KINDS, np.arange(12 * KINDS) % KINDS
    backbones = [Embedded(clustered(each, train), clustered(each, val)) for each in told]
    labels = [which % CLASSES for which in (train, val)]
    return measure(backbones, *labels, CLASSES, "top1", head=head, knn=KnnConfig(k=1), draws=30, resamples=200)


def labels_of_theory(told: int, other: int, labels: int) -> float:
    """With how many labels a backbone that tells so many kinds apart has one of as many images' kinds as another: each
    class has a label first, and any further one is of a kind that has none yet with the chance of that kind."""
    left = (1 - CLASSES / other) * (1 - 1 / other) ** (labels - CLASSES)
    return CLASSES + math.log(left / (1 - CLASSES / told)) / math.log(1 - 1 / told)


@pytest.mark.parametrize("head", ["knn", "linear"])
def test_who_has_fewer_kinds_to_learn_needs_as_many_labels_as_chance_says(head: Head) -> None:
    found = curves(32, 8, head=head)
    assert found.rungs == (4, 8, 20, 40, 80, 200, 320)
    for rung in (3, 4):  # 40 labels of the one are as good as 8.4 of the other, and 80 as 17.9
        enough, truth = found.as_good_as(1, 0, rung), labels_of_theory(8, 32, found.rungs[rung])
        assert enough.value == pytest.approx(truth, rel=0.25)
        assert enough.low / 1.1 < truth < enough.high * 1.1
    gain = found.gain(1, 0, rung=3)
    assert gain.sign == 1
    assert gain.value == pytest.approx(found.figure(1, 3).value - found.figure(0, 3).value)


def test_beyond_the_curve_there_is_a_bound_and_no_number() -> None:
    found = curves(32, 8)
    whole = found.as_good_as(1, 0, rung=3)
    assert 0 < whole.low < whole.value < whole.high < math.inf
    slow = Curves(found.rungs[:4], found.figures[:, :4], found.images)  # as if there were no more labels
    assert slow.as_good_as(0, 1, rung=3).value == slow.as_good_as(0, 1, rung=3).low == math.inf
    assert found.as_good_as(1, 0, rung=0).value == 0


def test_the_same_backbone_twice_gains_nothing_and_needs_as_many_labels() -> None:
    found = curves(32, 32)
    for rung, labels in enumerate(found.rungs):
        gain = found.gain(1, 0, rung)
        assert (gain.value, gain.low, gain.high, gain.sign) == (0, 0, 0, 0)
        fewest = min(labels, 200)  # from 200 on all is known, so more are not needed
        assert found.as_good_as(1, 0, rung).value == pytest.approx(fewest)


def test_equally_good_backbones_that_differ_are_called_different_about_as_often_as_they_should() -> None:
    called = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        labels = random.integers(3, size=240)
        means = torch.from_numpy(random.normal(size=(3, 8))).float()
        both = [means[torch.from_numpy(labels)] + torch.from_numpy(random.normal(size=(240, 8))).float() for _ in "ab"]
        found = measure(
            [Embedded(each[:90], each[90:]) for each in both],
            labels[:90],
            labels[90:],
            3,
            "top1",
            draws=4,
            resamples=200,
        )
        called += found.gain(1, 0, len(found.rungs) - 1).sign != 0
    assert called <= 4


def test_the_last_doubling_is_the_slope_at_the_end() -> None:
    figures = np.repeat(np.array([0.2, 0.5, 0.6])[None, :, None, None], 4, axis=3)
    found = Curves((10, 20, 80), np.repeat(figures, 3, axis=2), images=50)
    assert found.rise(0).value == pytest.approx(0.1 / 2)


def test_labels_are_read_off_between_rungs_by_their_logarithm() -> None:
    curve = np.tile(np.array([[0.2], [0.4], [0.6]]), 5)
    levels = np.array([0.5, 0.7, 0.1, 0.2, 0.6])
    assert labels_for(levels, curve, (10, 20, 40)) == pytest.approx([math.sqrt(20 * 40), math.inf, 0, 10, 40])


def test_a_curve_that_falls_is_made_to_rise_by_the_mean_of_what_falls() -> None:
    assert rise_only(np.array([[0.2], [0.6], [0.4], [0.8]]))[:, 0] == pytest.approx([0.2, 0.5, 0.5, 0.8])
    assert rise_only(np.array([[0.9], [0.6], [0.3]]))[:, 0] == pytest.approx([0.6, 0.6, 0.6])


def test_rungs_are_those_of_a_ladder_and_all() -> None:
    assert ladder(7, 100) == (7, 14, 35, 70, 100)
    assert ladder(7, 71) == (7, 14, 35, 71)
    assert ladder(7, 7) == (7,)


@pytest.mark.parametrize(("count", "width"), [(40, 90), (90, 20)])
def test_the_ridge_is_scikit_learns_with_the_penalty_of_leaving_one_out(count: int, width: int) -> None:
    random = np.random.default_rng(0)
    bank, queries = random.normal(size=(count, width)), random.normal(size=(15, width))
    labels = (bank[:, :3] + random.normal(size=(count, 3))).argmax(axis=1)
    targets = np.eye(3)[labels]
    scores = ridge(*(torch.from_numpy(each) for each in (bank, targets, queries))).numpy()
    scale = np.square(bank - bank.mean(axis=0)).sum() / count
    known = RidgeCV(alphas=PENALTIES * scale).fit(bank, targets)
    assert scores == pytest.approx(known.predict(queries), abs=1e-6)


def test_sets_of_labels_are_measured_by_their_own_metric() -> None:
    random = np.random.default_rng(0)
    labels = (random.random((160, 3)) < 0.4).astype(np.float32)
    features = torch.from_numpy(labels @ random.normal(size=(3, 12)) + random.normal(size=(160, 12))).float()
    for head in ("linear", "knn"):
        found = measure(
            [Embedded(features[:100], features[100:])], labels[:100], labels[100:], 3, "map", head=head, draws=3,
            resamples=50,
        )  # fmt: skip
        assert found.figure(0, 0).value < found.figure(0, len(found.rungs) - 1).value
        assert found.rungs[-1] == 100
