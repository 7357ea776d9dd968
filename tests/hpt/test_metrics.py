from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    confusion_matrix,
    precision_recall_fscore_support,
    roc_auc_score,
    top_k_accuracy_score,
)

from hpt.errors import ConfigError, HptError
from hpt.metrics import confusion, hits, left_out, multi_label, per_class, single_label, weighted

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    """Each test draws the same numbers, whichever ran before it in its process."""
    RANDOM.bit_generator.state = np.random.default_rng(0).bit_generator.state


def few_values(*shape: int) -> np.ndarray:
    """fp32 scores of nine values: most images tie with others."""
    return (RANDOM.integers(-4, 5, shape) / 4).astype(np.float32)


def one_vs_rest(scores: np.ndarray, labels: np.ndarray, figure=roc_auc_score) -> list[float]:
    """scikit-learn's figure of each class that has images and has not all of them."""
    present = [label for label in range(scores.shape[1]) if 0 < np.mean(labels == label) < 1]
    return [figure(labels == label, scores[:, label]) for label in present]


@pytest.mark.parametrize("classes", [2, 3, 7, 40])
@pytest.mark.parametrize("n", [2, 30, 400])
def test_single_label_figures_equal_scikit_learns(classes: int, n: int) -> None:
    scores, labels = RANDOM.normal(size=(n, classes)), RANDOM.integers(0, classes, n)
    labels[:2] = 0, 1  # with n < classes most are missing
    ours = single_label(scores, labels)
    assert ours["top1"] == pytest.approx((scores.argmax(1) == labels).mean())
    assert ("top5" in ours) == (classes > 5)
    if classes > 5:
        assert ours["top5"] == pytest.approx(top_k_accuracy_score(labels, scores, k=5, labels=range(classes)))
    recalls = [np.mean(scores[labels == label].argmax(1) == label) for label in np.unique(labels)]
    assert ours["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert ours["auroc"] == pytest.approx(np.mean(one_vs_rest(softmax(scores, axis=1), labels)), abs=1e-12)
    if classes == 2:
        assert ours["auroc"] == pytest.approx(roc_auc_score(labels, scores[:, 1] - scores[:, 0]), abs=1e-12)
    elif len(np.unique(labels)) == classes:
        theirs = roc_auc_score(labels, softmax(scores, axis=1), multi_class="ovr")
        assert ours["auroc"] == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_ties_count_half_whatever_their_type(dtype: type) -> None:
    scores = few_values(300, 6).astype(dtype)
    positive = RANDOM.integers(0, 2, (300, 6))
    ours = multi_label(scores, positive)
    theirs = [(roc_auc_score(y, s), average_precision_score(y, s)) for y, s in zip(positive.T, scores.T, strict=True)]
    assert [ours["auroc"], ours["map"]] == pytest.approx(np.mean(theirs, axis=0), abs=1e-12)

    # The probability of a class is the same in rows of the same logits in another order, which rounding must not hide.
    labels = RANDOM.integers(0, 6, 300)
    exact = np.round(log_softmax(scores.astype(np.float64), axis=1), 9)
    assert single_label(scores, labels)["auroc"] == pytest.approx(np.mean(one_vs_rest(exact, labels)), abs=1e-12)
    same = np.tile(RANDOM.normal(size=6), (300, 1)).astype(dtype)
    assert single_label(same, labels)["auroc"] == 0.5
    assert multi_label(same, positive)["auroc"] == 0.5
    assert multi_label(same, positive)["map"] == pytest.approx(positive.mean())


def test_the_auroc_of_a_class_compares_probabilities_not_logits() -> None:
    scores, labels = RANDOM.normal(size=(200, 5)), RANDOM.integers(0, 5, 200)
    moved = scores + RANDOM.normal(size=(200, 1)) * 10  # changes no probability
    assert single_label(moved, labels)["auroc"] == pytest.approx(single_label(scores, labels)["auroc"], abs=1e-12)
    assert np.mean(one_vs_rest(moved, labels)) < 0.6  # what comparing logits would report, of whatever model
    assert single_label(scores + 3 * np.eye(5)[labels], labels)["auroc"] > 0.95


def test_confident_scores_do_not_tie_as_their_probabilities_do() -> None:
    """A probe at a high learning rate has margins of hundreds: every probability is 1.0, even in fp64."""
    margin = np.linspace(100, 500, 50)
    scores = np.stack([margin, np.zeros(50), np.zeros(50)], axis=1)
    labels = np.where(margin > 300, 0, 1)
    assert np.unique(softmax(scores, axis=1)[:, 0]).tolist() == [1.0]
    assert per_class(scores, labels).auroc[0] == 1.0
    assert per_class(-scores, labels).auroc[0] == 0.0  # probabilities of 0


def test_the_log_of_votes_is_ranked_as_the_votes() -> None:
    neighbours = RANDOM.choice(4, size=(300, 5), p=[0.7, 0.2, 0.05, 0.05])
    votes = (RANDOM.dirichlet(np.ones(5), 300)[:, :, None] * np.eye(4)[neighbours]).sum(axis=1)
    votes[np.ptp(neighbours, axis=1) == 0, neighbours[np.ptp(neighbours, axis=1) == 0, 0]] = 1.0  # not 1 - 1e-16
    labels = RANDOM.integers(0, 4, 300)
    assert ((votes == 1).sum(), (votes == 0).sum()) > (30, 300)
    with np.errstate(divide="ignore"):
        ours = single_label(np.log(votes), labels)
    assert ours["auroc"] == pytest.approx(np.mean(one_vs_rest(votes, labels)), abs=1e-12)
    assert ours["top1"] == np.mean(votes.argmax(1) == labels)


def test_a_class_that_cannot_be_measured_is_left_out_and_named() -> None:
    scores = few_values(50, 5)
    positive = RANDOM.integers(0, 2, (50, 5)).astype(np.float32)
    positive[:, 1], positive[:, 3] = 0, 1  # never, always
    measured = [0, 2, 4]
    ours = multi_label(scores, positive)
    assert ours["auroc"] == pytest.approx(np.mean([roc_auc_score(positive[:, c], scores[:, c]) for c in measured]))
    precision = [average_precision_score(positive[:, c], scores[:, c]) for c in (0, 2, 3, 4)]
    assert precision[2] == 1.0
    assert ours["map"] == pytest.approx(np.mean(precision))
    assert left_out(positive, 5) == {"map": [1], "auroc": [1, 3]}

    labels = RANDOM.choice([0, 2], 50)
    assert left_out(labels, 5) == {"balanced_accuracy": [1, 3, 4], "auroc": [1, 3, 4]}
    assert left_out(np.full(50, 2), 5) == {"balanced_accuracy": [0, 1, 3, 4], "auroc": [0, 1, 2, 3, 4]}
    # sklearn's own "y_pred contains classes not in y_true" is a warning, and so an error here
    with pytest.warns(UserWarning, match="not in y_true"):
        theirs = balanced_accuracy_score(labels, scores.argmax(1))
    assert single_label(scores, labels)["balanced_accuracy"] == pytest.approx(theirs)


def test_what_is_undefined_is_absent_never_zero() -> None:
    scores = RANDOM.normal(size=(20, 3))
    assert set(single_label(scores, np.full(20, 1))) == {"top1", "balanced_accuracy"}
    right = int(scores[0].argmax())
    assert single_label(scores[:1], np.array([right])) == {"top1": 1.0, "balanced_accuracy": 1.0}
    assert single_label(scores[:1], np.array([(right + 1) % 3])) == {"top1": 0.0, "balanced_accuracy": 0.0}
    assert multi_label(scores[:1], np.array([[0, 0, 0]])) == {}
    assert multi_label(scores[:1], np.array([[0, 1, 0]])) == {"map": 1.0}


def test_of_tied_classes_the_lower_number_wins() -> None:
    scores, labels = few_values(500, 9), RANDOM.integers(0, 9, 500)
    for k in (1, 3, 5):
        ranked = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        assert np.array_equal(hits(scores, labels, k), (ranked == labels[:, None]).any(axis=1))
    assert hits(np.zeros((4, 6)), np.array([0, 4, 5, 5]), 5).mean() == 0.5


@pytest.mark.parametrize("kind", ["single-label", "multi-label"])
def test_rows_of_classes_equal_scikit_learns(kind: str) -> None:
    scores = few_values(200, 6)
    scores[:, 4] = -9  # never predicted
    if kind == "single-label":
        labels = RANDOM.choice([0, 1, 2, 4], 200)  # 3 and 5 are missing, 3 is predicted all the same
        predicted, one_hot, ranked = scores.argmax(1), np.eye(6)[labels], log_softmax(scores.astype(float), axis=1)
        assert np.array_equal(confusion(scores, labels), confusion_matrix(labels, predicted, labels=range(6)))
    else:
        labels = one_hot = RANDOM.integers(0, 2, (200, 6)) * (np.arange(6) != 3)
        predicted, ranked = (scores > 0).astype(int), scores
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=range(6), zero_division=np.nan
    )
    rows = per_class(scores, labels)
    assert np.array_equal(rows.support, support)
    for ours, theirs in ((rows.precision, precision), (rows.recall, recall), (rows.f1, f1)):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    assert np.isnan(rows.precision[4])
    assert np.isnan([rows.recall[3], rows.auroc[3], rows.average_precision[3]]).all()
    for label in (0, 1, 2, 4):
        column = np.round(ranked[:, label], 9)
        assert rows.auroc[label] == pytest.approx(roc_auc_score(one_hot[:, label], column), abs=1e-12)
        assert rows.average_precision[label] == pytest.approx(
            average_precision_score(one_hot[:, label], column), abs=1e-12
        )


@pytest.mark.parametrize("metric", ["top1", "top5", "balanced_accuracy", "auroc", "map"])
@pytest.mark.parametrize("task", ["single-label", "multi-label"])
def test_weights_stand_for_images_that_come_several_times(metric: str, task: str) -> None:
    if metric in {"top1", "top5", "balanced_accuracy"} and task == "multi-label":
        with pytest.raises(ConfigError, match="not a multi-label metric; choose one of auroc, map"):
            weighted(metric, few_values(4, 6), np.zeros((4, 6)))
        return
    if metric == "map" and task == "single-label":
        with pytest.raises(ConfigError, match="not a single-label metric"):
            weighted(metric, few_values(4, 6), np.zeros(4, dtype=int))
        return
    scores = few_values(40, 6)
    labels = RANDOM.integers(0, 5, 40) if task == "single-label" else RANDOM.integers(0, 2, (40, 6))
    whole = single_label if task == "single-label" else multi_label
    drawn = RANDOM.integers(0, 40, (30, 40))
    drawn[0] = 7  # one image only
    weights = np.stack([np.bincount(rows, minlength=40) for rows in drawn]).astype(np.float32)
    ours = weighted(metric, scores, labels)(weights)
    theirs = [whole(scores[rows], labels[rows]).get(metric, np.nan) for rows in drawn]
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_scores_that_are_not_numbers_are_refused() -> None:
    scores, labels = RANDOM.normal(size=(10, 3)), RANDOM.integers(0, 3, 10)
    for value in (np.nan, np.inf):
        broken = scores.copy()
        broken[4, 1] = value
        for figure in (single_label, per_class, confusion):
            with pytest.raises(HptError, match="scores of 1 of 10 images are NaN or infinite"):
                figure(broken, labels)
    broken[:] = np.nan
    with pytest.raises(HptError, match="10 of 10"):
        multi_label(broken, np.ones((10, 3)))
    with pytest.raises(HptError, match="no images"):
        single_label(scores[:0], labels[:0])
    with pytest.raises(HptError, match="label -1 is not one of the 3 classes"):
        single_label(scores, np.where(labels == 0, -1, labels))
    with pytest.raises(HptError, match="other than 0 and 1"):
        multi_label(scores, np.full((10, 3), -1))
    with pytest.raises(ConfigError, match=r"'aurok' is not a single-label metric \(did you mean 'auroc'\?\)"):
        weighted("aurok", scores, labels)


def test_metrics_equal_scikit_learns() -> None:
    random = np.random.default_rng(1)
    scores, labels = random.normal(size=(300, 7)), random.integers(0, 7, 300)
    ours = single_label(scores, labels)
    assert ours["top1"] == pytest.approx((scores.argmax(1) == labels).mean())
    assert ours["top5"] == pytest.approx(top_k_accuracy_score(labels, scores, k=5))
    assert ours["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, scores.argmax(1)))
