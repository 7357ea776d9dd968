"""Settings that differ from the protocol."""

from __future__ import annotations

from pathlib import Path

import pytest
from tracked_store import T0

from hptctl import tracking
from hptctl.report.deviations import deviations
from hptctl.report.frame import tidy
from hptctl.runs.record import Facts, Tags


def test_settings_that_differ_from_the_protocol_are_listed_and_those_that_agree_are_not(folder: Path) -> None:
    found = {(d.stage, d.setting): d for d in deviations(tidy(tracking.read_runs("test")))}
    assert found["all runs", "backbone"].used == ("resnet18",)
    assert found["all runs", "backbone"].protocol == "resnet50"
    assert found["pretraining", "moco.queue_size"].protocol == "65536"
    assert found["linear probe", "linear.steps"].used == ("2000",)
    assert found["linear probe", "linear.lrs"].protocol == "[0.3, 3.0, 30.0]"
    assert found["finetuning", "finetune.batch_size"].protocol == "512"
    settings = {setting for _, setting in found}
    assert not settings & {"optimizer.lr", "strategy", "dataset", "finetune.lr", "seed"}
    # 500 steps are the protocol's for hpt, and every target run here has one of its lengths too.
    assert not [stage for stage, setting in found if setting == "steps"]


def record(
    name: str,
    kind: str,
    strategy: str,
    *,
    source: str = "",
    weights: str | None = None,
    steps: int = 5000,
    precision: str | None = "fp32",
    **params: str,
) -> tracking.Record:
    return tracking.Record(
        name, name, kind, "FINISHED", T0, T0 + 1, "e", "0", params=params, metrics={"test/top1": 0.5, "val/top1": 0.5},
        source=source, source_id=source, facts=Facts(metric="top1", precision=precision),
        tags=Tags(strategy=strategy, dataset="d", pretrain_dataset="d", weights=weights, steps=steps),
    )  # fmt: skip


def found(*records: tracking.Record) -> dict[tuple[str, str], tuple[str, ...]]:
    return {(d.stage, d.setting): d.used for d in deviations(tidy(records))}


def test_a_run_as_published_deviates_in_nothing() -> None:
    hpt = record("hpt", "pretrain", "hpt", weights="moco-v2-800ep", **{"augment.blur_sigma": "[0.1, 2.0]"})
    assert not found(hpt, record("probe", "linear", "hpt", source="hpt"))


def test_the_precision_that_was_used_and_a_changed_blur_are_named() -> None:
    hpt = record(
        "hpt", "pretrain", "hpt", weights="moco-v2-800ep", precision="bf16", **{"augment.blur_sigma": "[0.1, 1.0]"}
    )
    assert found(hpt, record("probe", "linear", "hpt", source="hpt")) == {
        ("all runs", "precision"): ("bf16",),
        ("pretraining", "augment.blur_sigma"): ("[0.1, 1.0]",),
    }
    # Version 0.1 recorded what was asked for, which says nothing where it was `auto`.
    older = record("older", "linear", "hpt", source="hpt", precision=None)
    hpt = record("hpt", "pretrain", "hpt", weights="moco-v2-800ep")
    assert not found(hpt, older)


@pytest.mark.parametrize(
    ("weights", "source", "expected"),
    [
        ("imagenet-supervised", "", "imagenet-supervised"),
        ("somewhere/mine.pth", "", "mine.pth"),
        ("toy", "toy", "toy (pretrained here, 300 steps on d)"),
        ("toy@50", "toy", "toy (pretrained here, 50 of 300 steps on d)"),
        ("stage", "stage", "toy (pretrained here, 300 steps on d)"),
    ],
)
def test_how_the_base_was_made_is_named(weights: str, source: str, expected: str) -> None:
    toy = record("toy", "pretrain", "target", steps=300)
    stage = record("stage", "pretrain", "hpt", weights="toy", source="toy")
    hpt = record("hpt", "pretrain", "hpt", weights=weights, source=source)
    assert found(toy, stage, hpt, record("probe", "linear", "hpt", source="hpt")) == {
        ("pretraining", "base"): (expected,)
    }


def test_a_chain_over_a_source_starts_from_the_published_base() -> None:
    stage = record("stage", "pretrain", "hpt", weights="moco-v2-800ep")
    hpt = record("hpt", "pretrain", "hpt", weights="stage", source="stage")
    assert not found(stage, hpt, record("probe", "linear", "hpt", source="hpt"))
