from __future__ import annotations

import itertools
import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    confusion_matrix,
    recall_score,
    roc_auc_score,
    top_k_accuracy_score,
)
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn
from torch.optim import SGD

from hpt import checkpoint, encoder, predictions
from hpt.config import EvaluateConfig, KnnConfig
from hpt.data.dataset import Dataset, load
from hpt.errors import ConfigError, DataError, HptError, Interrupted
from hpt.evaluate import evaluate, score_on_test
from hpt.evaluate.finetune import Classifier, Common, finetune
from hpt.evaluate.knn import knn_scores
from hpt.evaluate.labels import choose
from hpt.evaluate.linear import HeadBank
from hpt.evaluate.objective import figures, loss_of
from hpt.metrics import single_label
from hpt.randomness import generator
from hpt.schedule import thirds

SETTINGS = {
    "weights": "unused",
    "dataset": "unused",
    "backbone": "resnet18",
    "image_size": 32,
    "device": "cpu",
    "linear": {"steps": 60, "batch_size": 64, "eval_every": 20, "views": 2, "lrs": [0.3, 3.0]},
    "finetune": {"schedule": "4-steps", "batch_size": 32, "micro_batch": 16, "eval_every": 2},
}


def config(kind: str, **changes: object) -> EvaluateConfig:
    return EvaluateConfig.model_validate(SETTINGS | {"kind": kind} | changes)


@pytest.fixture(scope="module")
def dataset(digits_folder: Path) -> Dataset:
    settings = config("knn")
    return load(str(digits_folder), settings.data, side=settings.data.side(32))


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return encoder.build("resnet18", seed=1).state_dict()


def run(settings: EvaluateConfig, dataset: Dataset, state: dict[str, Tensor], folder: Path, **options: Any):
    logged: dict[int, dict[str, float]] = {}
    folder.mkdir(exist_ok=True)
    found = evaluate(
        settings,
        dataset,
        state,
        folder,
        log=lambda metrics, step: logged.setdefault(step, {}).update(metrics),
        **{"progress": lambda *_: None, **options},
    )
    return found, logged


def test_a_bank_of_heads_equals_heads_trained_one_by_one() -> None:
    features = torch.randn(200, 16, generator=generator(0, "x"))
    labels = torch.randint(0, 5, (200,), generator=generator(0, "y"))
    lrs, seeds = [0.1, 0.1, 10.0], [0, 1, 0]
    bank = HeadBank(16, 5, lrs, seeds, momentum=0.9)
    singles, optimizers = [], []
    for lr, seed in zip(lrs, seeds, strict=True):
        head = nn.Linear(16, 5)
        with torch.no_grad():
            head.weight.copy_(torch.randn(5, 16, generator=generator(seed, "probe")) * 0.01)
            head.bias.zero_()
        singles.append(head)
        optimizers.append(SGD(head.parameters(), lr=lr, momentum=0.9))
    for step in range(30):
        rows = torch.randperm(200, generator=generator(0, "order", step))[:64]
        losses = bank.step(features[rows], labels[rows], thirds(step, 30, 1.0))
        for number, (head, optimizer) in enumerate(zip(singles, optimizers, strict=True)):
            optimizer.param_groups[0]["lr"] = thirds(step, 30, lrs[number])
            loss = nn.functional.cross_entropy(head(features[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            torch.testing.assert_close(losses[number], loss.detach(), atol=1e-4, rtol=1e-4)
    for number, head in enumerate(singles):
        torch.testing.assert_close(bank.weight[number], head.weight.detach(), atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(bank.logits(features)[number], head(features).detach(), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", ["linear", "knn"])
def test_a_probe_leaves_every_tensor_of_the_backbone_as_it_was(
    kind: str, dataset: Dataset, state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[nn.Module] = []
    original = encoder.build
    monkeypatch.setattr(encoder, "build", lambda *a, **k: built.append(original(*a, **k)) or built[-1])
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


def test_an_evaluation_repeats_itself_to_the_last_bit(
    dataset: Dataset, state: dict[str, Tensor], tmp_path: Path
) -> None:
    for kind in ("linear", "finetune"):
        first, _ = run(config(kind), dataset, state, tmp_path / "a")
        second, _ = run(config(kind), dataset, state, tmp_path / "b")
        assert first.metrics == second.metrics
        assert torch.equal(first.scores["test"], second.scores["test"])


def test_without_test_the_test_images_are_not_touched_until_the_winner_is_known(
    dataset: Dataset, state: dict[str, Tensor], tmp_path: Path
) -> None:
    blind = replace(dataset, splits={**dataset.splits, "test": np.array([10**9])})  # reading it would fail
    settings = config("finetune", test=False)
    found, _ = run(settings, blind, state, tmp_path)
    assert not any(key.startswith("test/") for key in found.metrics)
    later = score_on_test(settings, dataset, state, tmp_path, progress=lambda *_: None)
    together, _ = run(config("finetune"), dataset, state, tmp_path / "together")
    assert later.metrics["test/top1"] == together.metrics["test/top1"]


def test_micro_batches_add_up_to_the_batch_and_the_schedule_counts_optimizer_steps(dataset: Dataset) -> None:
    """Without BatchNorm, which sees a micro-batch at a time, the parts of a batch must not show in the outcome."""
    rows = np.sort(np.concatenate([dataset.splits["train"], dataset.splits["val"]]))
    images, labels = dataset.images.subset(rows), torch.from_numpy(dataset.labels[rows])
    outcomes = []
    for micro_batch in (24, 7):
        tune = {"schedule": "6-steps", "batch_size": 24, "micro_batch": micro_batch, "eval_every": 6, "lr": 0.001}
        settings = config("finetune", finetune=tune, log_every=1)
        flat = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 16), nn.ReLU())
        with torch.no_grad():
            flat[2].weight.copy_(torch.randn(16, 48, generator=generator(0, "w")) * 0.1)
            flat[2].bias.zero_()
        lrs: dict[int, float] = {}
        best = finetune(
            settings,
            Classifier(flat, 16, 3, seed=0),
            (images, labels),
            (images, labels),
            "top1",
            device=torch.device("cpu"),
            bf16=False,
            log=lambda metrics, step, lrs=lrs: lrs.update({step: metrics["lr"]} if "lr" in metrics else {}),
            progress=lambda *_: None,
        )
        assert list(lrs.values()) == pytest.approx([1e-3] * 2 + [1e-4] * 2 + [1e-5] * 2)
        outcomes.append(best.state)
    for name, value in outcomes[0].items():
        torch.testing.assert_close(value, outcomes[1][name], atol=1e-6, rtol=1e-4)


def test_nearest_neighbours_agree_with_scikit_learn() -> None:
    random = np.random.default_rng(0)
    bank, queries = random.normal(size=(90, 8)), random.normal(size=(40, 8))  # 90: fewer than a hundred
    labels = random.integers(0, 4, 90)

    def weigh(distance: np.ndarray) -> np.ndarray:
        return np.exp((1 - distance) / 0.07)

    theirs = KNeighborsClassifier(20, metric="cosine", weights=weigh, algorithm="brute").fit(bank, labels)
    ours = knn_scores(torch.tensor(bank), torch.tensor(labels), torch.tensor(queries), 4, KnnConfig())
    np.testing.assert_allclose(ours.numpy(), theirs.predict_proba(queries), atol=1e-6)


def test_metrics_equal_scikit_learns() -> None:
    random = np.random.default_rng(1)
    scores, labels = random.normal(size=(300, 7)), random.integers(0, 7, 300)
    ours = single_label(scores, labels)
    assert ours["top1"] == pytest.approx((scores.argmax(1) == labels).mean())
    assert ours["top5"] == pytest.approx(top_k_accuracy_score(labels, scores, k=5))
    assert ours["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, scores.argmax(1)))


LABELS = np.repeat(np.arange(10), [400, 300, 100, 50, 50, 40, 30, 20, 9, 1])


@pytest.mark.parametrize(("spec", "count"), [("all", 1000), ("100", 100), ("10%", 100), ("10", 10)])
def test_a_label_budget_is_drawn_by_seed_with_every_class_in_it(spec: str, count: int) -> None:
    drawn = choose(LABELS, 10, config("finetune", labels=spec))
    assert len(drawn) == len(set(drawn.tolist())) == count
    assert set(LABELS[drawn]) == set(range(10))
    assert np.array_equal(drawn, choose(LABELS, 10, config("finetune", labels=spec)))
    if spec == "100":
        assert not np.array_equal(drawn, choose(LABELS, 10, config("finetune", labels=spec, seed=1)))


def test_a_budget_is_not_balanced_unless_it_is_per_class() -> None:
    drawn = np.bincount(LABELS[choose(LABELS, 10, config("finetune", labels="500"))], minlength=10)
    assert drawn[0] > 150
    assert drawn[9] == 1
    per_class = choose(LABELS[:999], 9, config("finetune", labels="9-per-class"))
    assert np.bincount(LABELS[per_class]).tolist() == [9] * 9


@pytest.mark.parametrize(
    ("labels", "message"),
    [("2000", "there are 1000 labelled training images"), ("5", "fewer than the 10 classes"), ("2-per-class", "has 1")],
)
def test_a_budget_that_cannot_be_drawn_is_refused(labels: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        choose(LABELS, 10, config("finetune", labels=labels))


def test_finetuning_takes_the_protocols_1000_labels_or_all_where_there_are_fewer() -> None:
    assert len(choose(np.repeat(LABELS, 2), 10, config("finetune"))) == 1000
    assert len(choose(LABELS[:600], 10, config("finetune"))) == 600
    assert len(choose(np.repeat(LABELS, 2), 10, config("linear"))) == 2000


def test_a_set_with_one_class_cannot_be_evaluated(dataset: Dataset, state: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one class only"):
        run(config("knn"), replace(dataset, classes=("0",)), state, tmp_path)


def test_predictions_keep_names_that_are_not_ascii(tmp_path: Path, dataset: Dataset, state: dict[str, Tensor]) -> None:
    run(config("knn"), dataset, state, tmp_path)
    kept = np.load(tmp_path / "artifacts" / "predictions-val.npz", allow_pickle=False)
    assert json.dumps(kept["names"].tolist()[0]).endswith('.png"')


@pytest.fixture(scope="module")
def several(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The digits as a multi-label set: `round` (0), `even` (0 and 2), `open` (1 and 2), and `rare`, of three images."""
    root = tmp_path_factory.mktemp("several")
    rows = ["path,round,even,open,rare"]
    for path in sorted(digits_folder.rglob("*.png")):
        digit, number = int(path.parent.name), int(path.stem.split()[1])
        flags = (digit == 0, digit in (0, 2), digit > 0, digit == 1 and number < 3)
        rows.append(f"{path},{','.join(str(int(flag)) for flag in flags)}")
    table = root / "several.csv"
    table.write_text("\n".join(rows) + "\n")
    settings = config("knn")
    return load(str(table), settings.data, side=settings.data.side(32))


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


def test_several_labels_cost_their_mean_binary_cross_entropy_and_one_label_its_cross_entropy() -> None:
    logits = torch.randn(2, 5, 3, generator=generator(0, "logits"))
    one = torch.tensor([0, 2, 1, 1, 0])
    many = torch.nn.functional.one_hot(one, 3).float()
    for head in range(2):
        torch.testing.assert_close(
            loss_of(logits, one)[head].mean(), nn.functional.cross_entropy(logits[head], one), atol=1e-6, rtol=1e-6
        )
        theirs = nn.BCEWithLogitsLoss()(logits[head], many)
        torch.testing.assert_close(loss_of(logits, many)[head].mean(), theirs, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("metric", ["top1", "balanced_accuracy", "auroc"])
def test_each_head_is_judged_as_its_scores_are_alone_and_one_that_diverged_below_all(metric: str) -> None:
    logits = torch.randn(3, 60, 4, generator=generator(0, "logits"))
    labels = torch.randint(0, 4, (60,), generator=generator(0, "labels"))
    logits[1, 7, 2] = torch.nan
    found = figures(metric, logits, labels)
    alone = [single_label(each.numpy(), labels.numpy())[metric] for each in (logits[0], logits[2])]
    assert found[[0, 2]].tolist() == pytest.approx(alone, abs=1e-6)
    assert found[1] == -1


def test_the_metric_that_was_asked_for_chooses(dataset: Dataset, state: dict[str, Tensor], tmp_path: Path) -> None:
    found, logged = run(config("linear", metric="auroc"), dataset, state, tmp_path)
    assert found.facts["metric"] == "auroc"
    best = max(max(line.get(f"val_curve/lr_{lr}", 0) for line in logged.values()) for lr in ("0.3", "3"))
    assert found.metrics["val/auroc"] >= best - 1e-6


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"metric": "map"}, ConfigError, "'map' is no single-label metric"),
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
        stop = (lambda asked=asked, after=after: signal.SIGTERM if next(asked) == after else 0) if after else lambda: 0
        try:
            found = evaluate(settings, dataset, state, folder, log=lambda *_: None, progress=lambda *_: None, stop=stop)
        except Interrupted:
            assert after
            assert (folder / "checkpoints").is_dir()
    assert torch.equal(found.scores["test"], whole.scores["test"])
    assert found.metrics == whole.metrics
    assert not (folder / "checkpoints").exists()


def test_finetunings_share_their_steps_before_the_learning_rate_drops_and_end_in_the_same_bits(
    dataset: Dataset, state: dict[str, Tensor], tmp_path: Path
) -> None:
    common = Common(tmp_path / "common", ("6-steps", "9-steps", "18-steps"))  # which drop after 2, 3 and 6

    def settings(schedule: str) -> EvaluateConfig:
        return config("finetune", finetune={**SETTINGS["finetune"], "schedule": schedule, "eval_every": 1}, log_every=1)

    for schedule, shared in (("9-steps", None), ("18-steps", "3"), ("6-steps", "2")):
        alone, curve = run(settings(schedule), dataset, state, tmp_path / f"{schedule} alone")
        folder = tmp_path / schedule
        asked = itertools.count(1)
        if schedule == "18-steps":  # stopped, too
            stop = lambda asked=asked: signal.SIGTERM if next(asked) == 4 else 0  # noqa: E731
            with pytest.raises(Interrupted, match="stopped at step 7 of 18"):
                run(settings(schedule), dataset, state, folder, common=common, stop=stop)
        told: list[tuple[int, ...]] = []
        tell = lambda done, total, what, told=told: told.append((done, total)) if what == "finetuning" else None  # noqa: E731
        found, logged = run(settings(schedule), dataset, state, folder, common=common, progress=tell)
        if schedule == "6-steps":  # the length first, since a pruner judges the figures that follow by it
            assert told[0] == (2, 6)
        assert torch.equal(found.scores["test"], alone.scores["test"])
        assert found.metrics == alone.metrics
        assert found.facts == alone.facts | ({"shared_steps": shared} if shared else {})
        assert logged.items() <= curve.items()
        assert (1 in logged) == (schedule != "18-steps")  # what was stopped had logged it before
    assert checkpoint.steps(common.folder) == [2, 3]

    for file in common.folder.glob("*.pt"):
        file.write_bytes(b"damaged")
    again, logged = run(settings("6-steps"), dataset, state, tmp_path / "again", common=common)
    assert "shared_steps" not in again.facts
    assert again.metrics == found.metrics
    assert 1 in logged


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
