from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn
from torch.optim import SGD

from hpt import encoder
from hpt.config import EvaluateConfig, KnnConfig
from hpt.data.dataset import Dataset, load
from hpt.errors import DataError
from hpt.evaluate import evaluate, score_on_test
from hpt.evaluate.finetune import Classifier, finetune
from hpt.evaluate.knn import knn_scores
from hpt.evaluate.labels import choose
from hpt.evaluate.linear import HeadBank
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


def run(settings: EvaluateConfig, dataset: Dataset, state: dict[str, Tensor], folder: Path):
    logged: dict[int, dict[str, float]] = {}
    folder.mkdir(exist_ok=True)
    found = evaluate(
        settings,
        dataset,
        state,
        folder,
        log=lambda metrics, step: logged.setdefault(step, {}).update(metrics),
        progress=lambda *_: None,
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
    from dataclasses import replace

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
    from dataclasses import replace

    blind = replace(dataset, splits={**dataset.splits, "test": np.array([10**9])})  # reading it would fail
    settings = config("finetune", test=False)
    found, _ = run(settings, blind, state, tmp_path)
    assert not any(key.startswith("test/") for key in found.metrics)
    later = score_on_test(settings, dataset, tmp_path, progress=lambda *_: None)
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
    from dataclasses import replace

    with pytest.raises(DataError, match="one class only"):
        run(config("knn"), replace(dataset, classes=("0",)), state, tmp_path)


def test_predictions_keep_names_that_are_not_ascii(tmp_path: Path, dataset: Dataset, state: dict[str, Tensor]) -> None:
    run(config("knn"), dataset, state, tmp_path)
    kept = np.load(tmp_path / "artifacts" / "predictions-val.npz", allow_pickle=False)
    assert json.dumps(kept["names"].tolist()[0]).endswith('.png"')
