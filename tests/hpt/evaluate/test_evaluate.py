from __future__ import annotations

import itertools
import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    recall_score,
    roc_auc_score,
)
from small_evaluation import SETTINGS, config, run
from torch import Tensor, nn

from hpt import encoder, predictions
from hpt.callbacks import Callbacks
from hpt.data.dataset import Dataset
from hpt.errors import ConfigError, DataError, HptError, Interrupted
from hpt.evaluate import evaluate, score_on_test


@pytest.mark.parametrize("kind", ["linear", "knn"])
def test_a_probe_leaves_every_tensor_of_the_backbone_as_it_was(
    kind: str, dataset: Dataset, state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[nn.Module] = []
    original = encoder.loaded
    monkeypatch.setattr(encoder, "loaded", lambda *a, **k: built.append(original(*a, **k)) or built[-1])
    run(config(kind), dataset, state, tmp_path)
    (backbone,) = built
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_a_probe_finds_what_the_digits_are_and_says_what_val_chose(
    dataset: Dataset, state: dict[str, Tensor], tmp_path: Path
) -> None:
    found, logged = run(config("linear"), dataset, state, tmp_path)
    assert found.metrics["test/top1"] > 0.6  # random features of three digits; chance is 1/3
    assert 0 <= found.metrics["test/top1_std"] < 0.3
    assert sorted(logged) == [20, 40, 60]
    best = {lr: max(line[f"val_curve/lr_{lr}"] for line in logged.values()) for lr in ("0.3", "3")}
    assert found.facts["chosen"] in {f"lr={lr}" for lr in best}
    assert found.metrics["val/top1"] >= max(best.values()) - 1e-6  # each rerun at its own best step
    assert found.facts["labels_used"] == str(len(dataset.splits["train"]))

    kept = np.load(tmp_path / "artifacts" / "predictions-test.npz")
    again = np.mean([(scores.argmax(1) == kept["labels"]).mean() for scores in kept["scores"]])
    assert again == pytest.approx(found.metrics["test/top1"], abs=1e-12)
    assert kept["scores"].shape == (3, len(dataset.splits["test"]), 3)


def test_shuffled_labels_give_chance(dataset: Dataset, state: dict[str, Tensor], tmp_path: Path) -> None:
    shuffled = replace(dataset, labels=np.random.default_rng(0).permutation(dataset.labels))
    found, _ = run(config("knn"), shuffled, state, tmp_path)
    assert found.metrics["test/top1"] == pytest.approx(1 / 3, abs=4 * (2 / 9 / len(dataset.splits["test"])) ** 0.5)


def test_without_test_the_test_images_are_not_touched_until_the_winner_is_known(
    dataset: Dataset, state: dict[str, Tensor], tmp_path: Path
) -> None:
    blind = replace(dataset, splits={**dataset.splits, "test": np.array([10**9])})  # reading it would fail
    settings = config("finetune", test=False)
    found, _ = run(settings, blind, state, tmp_path)
    assert not any(key.startswith("test/") for key in found.metrics)
    later = score_on_test(settings, dataset, state, tmp_path, Callbacks())
    together, _ = run(config("finetune"), dataset, state, tmp_path / "together")
    assert later.metrics["test/top1"] == together.metrics["test/top1"]


def test_a_set_with_one_class_cannot_be_evaluated(dataset: Dataset, state: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one class only"):
        run(config("knn"), replace(dataset, classes=("0",)), state, tmp_path)


def test_predictions_keep_names_that_are_not_ascii(tmp_path: Path, dataset: Dataset, state: dict[str, Tensor]) -> None:
    run(config("knn"), dataset, state, tmp_path)
    kept = np.load(tmp_path / "artifacts" / "predictions-val.npz", allow_pickle=False)
    assert json.dumps(kept["names"].tolist()[0]).endswith('.png"')


@pytest.mark.parametrize("kind", ["linear", "knn", "finetune"])
def test_a_multi_label_set_is_judged_by_auroc_and_map_as_scikit_learn_has_them(
    kind: str, several: Dataset, state: dict[str, Tensor], tmp_path: Path
) -> None:
    found, _ = run(config(kind), several, state, tmp_path)
    kept = predictions.read(tmp_path, "test")
    truth, scores = kept.labels > 0, np.clip(kept.scores, -1e9, 1e9)  # kNN's votes of all or none are infinite
    defined = [c for c in range(4) if 0 < truth[:, c].sum() < len(truth)]
    theirs = [roc_auc_score(truth[:, defined], each[:, defined]) for each in scores]
    assert found.metrics["test/auroc"] == pytest.approx(np.mean(theirs), abs=1e-6)
    precision = [average_precision_score(truth[:, defined], each[:, defined]) for each in scores]
    assert found.metrics["test/map"] == pytest.approx(np.mean(precision), abs=1e-6)
    assert not {"test/top1", "val/top1"} & found.metrics.keys()
    assert found.facts["metric"] == "auroc"
    if kind != "finetune":  # four steps; a probe of sixty gets 0.76 to 0.86 by the machine's order of sums, chance 0.5
        assert found.metrics["test/auroc"] > {"linear": 0.65, "knn": 0.8}[kind]
    out = [name for c, name in enumerate(several.classes) if c not in defined]
    assert all(name in found.facts.get("test_left_out", "") for name in out)


def test_the_metric_that_was_asked_for_chooses(dataset: Dataset, state: dict[str, Tensor], tmp_path: Path) -> None:
    found, logged = run(config("linear", metric="auroc"), dataset, state, tmp_path)
    assert found.facts["metric"] == "auroc"
    best = max(max(line.get(f"val_curve/lr_{lr}", 0) for line in logged.values()) for lr in ("0.3", "3"))
    assert found.metrics["val/auroc"] >= best - 1e-6


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"metric": "map"}, ConfigError, "'map' is not a single-label metric"),
        ({"labels": "500"}, DataError, "there are 84 labelled training images"),
    ],
)
def test_what_the_labels_do_not_allow_is_refused_before_anything_is_written(
    changes: dict[str, str], error: type[Exception], message: str, dataset: Dataset, state: dict[str, Tensor],
    tmp_path: Path,
) -> None:  # fmt: skip
    with pytest.raises(error, match=message):
        run(config("linear", **changes), dataset, state, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_metric_that_val_leaves_undefined_is_refused(
    several: Dataset, state: dict[str, Tensor], tmp_path: Path
) -> None:
    labels = np.ones_like(several.labels)
    with pytest.raises(DataError, match=r"auroc is undefined on the \d+ images of several's val split"):
        run(config("knn"), replace(several, labels=labels), state, tmp_path)


def test_a_class_without_training_images_is_refused_unless_its_images_may_count_as_errors(
    dataset: Dataset, state: dict[str, Tensor], tmp_path: Path
) -> None:
    train = dataset.splits["train"]
    poorer = replace(dataset, splits={**dataset.splits, "train": train[dataset.labels[train] != 2]})
    with pytest.raises(DataError, match="1 of 3 classes of 'my digits' have no training images: 2"):
        run(config("knn"), poorer, state, tmp_path)
    found, _ = run(config("knn", allow_absent_classes=True), poorer, state, tmp_path)
    assert found.metrics["test/top1"] < 0.7
    (row,) = [
        line for line in (tmp_path / "artifacts" / "per-class-test.csv").read_text().splitlines() if line[0] == "2"
    ]
    assert row.split(",")[2] == "0"  # recall


def test_weights_that_make_no_finite_features_are_refused_in_a_line(
    dataset: Dataset, state: dict[str, Tensor], tmp_path: Path
) -> None:
    broken = {key: value.clone() for key, value in state.items()}
    broken["layer1.0.bn1.weight"][:] = 3e38
    with pytest.raises(HptError, match=r"features of \d+ of \d+ images are NaN or infinite"):
        run(config("linear"), dataset, broken, tmp_path)


@pytest.mark.parametrize("kind", ["linear", "finetune"])
def test_an_evaluation_that_was_stopped_goes_on_to_the_same_bits(
    kind: str, dataset: Dataset, state: dict[str, Tensor], tmp_path: Path
) -> None:
    settings = config(kind, finetune={**SETTINGS["finetune"], "schedule": "8-steps"})
    whole, _ = run(settings, dataset, state, tmp_path / "whole")
    folder = tmp_path / "stopped"
    folder.mkdir()
    for after in (2, 3, 0):
        asked = itertools.count(1)
        stop = lambda seconds, asked=asked, after=after: signal.SIGTERM if next(asked) == after else 0  # noqa: E731
        try:
            found = evaluate(settings, dataset, state, folder, Callbacks(stop=stop))
        except Interrupted:
            assert after
            assert (folder / "checkpoints").is_dir()
    assert torch.equal(found.scores["test"], whole.scores["test"])
    assert found.metrics == whole.metrics
    assert not (folder / "checkpoints").exists()


def test_shuffled_training_labels_give_a_probe_chance(
    dataset: Dataset, state: dict[str, Tensor], tmp_path: Path
) -> None:
    """Labels that say nothing of the images: a probe that did better would see the test labels somewhere."""
    shuffled = replace(dataset, labels=np.random.default_rng(1).permutation(dataset.labels))
    found, _ = run(config("linear"), shuffled, state, tmp_path)
    test = len(dataset.splits["test"])
    assert found.metrics["test/top1"] == pytest.approx(1 / 3, abs=4 * (2 / 9 / test) ** 0.5)


def test_the_drawn_labels_are_kept_and_are_the_same_for_every_backbone(dataset: Dataset, tmp_path: Path) -> None:
    lists = []
    for seed in (1, 2):
        other = encoder.build("resnet18", seed=seed).state_dict()
        found, _ = run(config("knn", labels="5-per-class"), dataset, other, tmp_path / str(seed))
        lists.append((tmp_path / str(seed) / "artifacts" / "labels.txt").read_text())
        assert found.facts["labels_used"] == "15"
    assert lists[0] == lists[1]
    assert sorted(name[0] for name in lists[0].splitlines()) == ["0"] * 5 + ["1"] * 5 + ["2"] * 5


def test_tables_by_class_and_of_confusions_agree_with_scikit_learn(
    dataset: Dataset, state: dict[str, Tensor], tmp_path: Path
) -> None:
    run(config("knn"), dataset, state, tmp_path)
    kept = predictions.read(tmp_path, "test")
    predicted = kept.scores[0].argmax(1)
    lines = (tmp_path / "artifacts" / "confusion-test.csv").read_text().splitlines()
    counts = [[float(cell) for cell in line.split(",")[1:]] for line in lines[1:]]
    assert counts == confusion_matrix(kept.labels, predicted).tolist()
    rows = [line.split(",") for line in (tmp_path / "artifacts" / "per-class-test.csv").read_text().splitlines()]
    assert rows[0][:4] == ["class", "support", "recall", "precision"]
    recall = recall_score(kept.labels, predicted, average=None)
    assert [float(row[2]) for row in rows[1:]] == pytest.approx(recall.tolist(), abs=1e-5)
