"""Finetuning: the parts of a batch, and steps that several share."""

from __future__ import annotations

import itertools
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_evaluation import config, run
from torch import Tensor, nn

from hpt import checkpoint
from hpt.callbacks import Callbacks
from hpt.config import EvaluateConfig
from hpt.data.dataset import Dataset
from hpt.errors import Interrupted, RunError
from hpt.evaluate.finetune import Classifier, finetune
from hpt.evaluate.setup import Common, Setup
from hpt.processes import Compute
from hpt.randomness import generator


def test_micro_batches_add_up_to_the_batch_and_the_schedule_counts_optimizer_steps(dataset: Dataset) -> None:
    """Without BatchNorm, which sees a micro-batch at a time, the parts of a batch must not show in the outcome."""
    rows = np.sort(np.concatenate([dataset.splits["train"], dataset.splits["val"]]))
    both = replace(dataset, splits={"train": rows, "val": rows})
    outcomes = []
    for micro_batch in (24, 7):
        tune = {"schedule": "6-steps", "batch_size": 24, "micro_batch": micro_batch, "eval_every": 6, "lr": 0.001}
        settings = config("finetune", finetune=tune, log_every=1)
        flat = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 16), nn.ReLU())
        with torch.no_grad():
            flat[2].weight.copy_(torch.randn(16, 48, generator=generator(0, "w")) * 0.1)
            flat[2].bias.zero_()
        lrs: dict[int, float] = {}
        log = lambda metrics, step, lrs=lrs: lrs.update({step: metrics["lr"]} if "lr" in metrics else {})  # noqa: E731
        setup = Setup(settings, both, flat, Compute.of(settings), Callbacks(log=log))
        best = finetune(setup, Classifier(flat, 16, 3, seed=0))
        assert list(lrs.values()) == pytest.approx([1e-3] * 2 + [1e-4] * 2 + [1e-5] * 2)
        outcomes.append(best.state)
    for name, value in outcomes[0].items():
        torch.testing.assert_close(value, outcomes[1][name], atol=1e-6, rtol=1e-4)


@pytest.mark.slow
def test_finetunings_share_their_steps_before_the_learning_rate_drops_and_end_in_the_same_bits(
    dataset: Dataset, state: dict[str, Tensor], tmp_path: Path
) -> None:
    common = Common(tmp_path / "common", ("6-steps", "9-steps", "18-steps"))  # which drop after 2, 3 and 6

    def settings(schedule: str) -> EvaluateConfig:
        tune = {"schedule": schedule, "batch_size": 8, "eval_every": 1}
        return config("finetune", finetune=tune, image_size=16, log_every=1)

    for schedule, shared in (("9-steps", None), ("18-steps", "3"), ("6-steps", "2")):
        alone, curve = run(settings(schedule), dataset, state, tmp_path / f"{schedule} alone")
        folder = tmp_path / schedule
        asked = itertools.count(1)
        if schedule == "18-steps":  # stopped, too
            stop = lambda seconds, asked=asked: signal.SIGTERM if next(asked) == 4 else 0  # noqa: E731
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


@pytest.mark.slow
def test_a_schedule_in_epochs_looks_at_val_once_an_epoch_unless_it_is_told_otherwise(
    dataset: Dataset, state: dict[str, Tensor], tmp_path: Path
) -> None:
    def looks(schedule: str, **tune: object) -> list[int]:
        tune |= {"schedule": schedule, "batch_size": 48}
        settings = config("finetune", finetune=tune, image_size=8)
        _, logged = run(settings, dataset, state, tmp_path / f"{schedule} {len(tune)}")
        return [step for step, metrics in logged.items() if "val_curve" in metrics]

    epoch = -(-len(dataset.splits["train"]) // 48)
    assert epoch > 1
    assert looks("3-epochs") == [epoch, 2 * epoch, 3 * epoch]
    assert looks("3-epochs", eval_every=4) == [
        step for step in range(1, 3 * epoch + 1) if step % 4 == 0 or step == 3 * epoch
    ]
    assert looks("20-steps") == [*range(2, 21, 2)]


@pytest.mark.slow
@pytest.mark.parametrize("first", [pytest.param("14-steps", marks=pytest.mark.slow), "3-epochs"])
def test_those_who_look_at_val_at_other_steps_share_steps_too_and_end_in_the_same_bits(
    first: str, dataset: Dataset, state: dict[str, Tensor], tmp_path: Path
) -> None:
    common = Common(tmp_path / "common", ("14-steps", "3-epochs"))  # looks at each step, and at each epoch's end

    def settings(schedule: str) -> EvaluateConfig:
        tune = {"schedule": schedule, "batch_size": 48}
        return config("finetune", finetune=tune, image_size=8, log_every=1)

    for schedule in (first, *({*common.schedules} - {first})):
        alone, curve = run(settings(schedule), dataset, state, tmp_path / f"{schedule} alone")
        found, logged = run(settings(schedule), dataset, state, tmp_path / schedule, common=common)
        assert torch.equal(found.scores["test"], alone.scores["test"])
        assert found.metrics == alone.metrics
        assert ("shared_steps" in found.facts) == (schedule != first)
        assert logged == curve


def test_a_checkpoint_of_an_earlier_version_is_named_and_not_misread(
    dataset: Dataset, state: dict[str, Tensor], tmp_path: Path
) -> None:
    checkpoint.save(tmp_path / "checkpoints", 1, {"model": {}, "body": {}, "head": {}, "best": None})
    with pytest.raises(RunError, match="earlier version of hptctl; start a new run"):
        run(config("finetune"), dataset, state, tmp_path)
