"""Settings that differ from the protocol."""

from __future__ import annotations

from pathlib import Path

from hptctl import tracking
from hptctl.report.deviations import deviations
from hptctl.report.frame import tidy


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
