"""What a pretraining sees of its backbone on the way."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_pretraining import config, run

from hpt.callbacks import Callbacks
from hpt.config import EvaluateConfig
from hpt.data.dataset import Dataset, load
from hpt.evaluate import evaluate
from hpt.evaluate.online import OnlineProbe
from hpt.processes import Compute

CPU = torch.device("cpu")


def test_a_look_finds_what_an_evaluation_of_the_backbone_finds(dataset: Dataset, tmp_path: Path) -> None:
    watched = config(steps=2, probe_every=2)
    watch = OnlineProbe(watched, dataset, Compute.of(watched, CPU))
    outcome, _ = run(watched, dataset.pretraining_images(), tmp_path, watch=watch)
    asked = EvaluateConfig(kind="knn", weights="-", dataset="-", backbone="resnet18", image_size=32, test=False)
    found = evaluate(asked, dataset, load_file(outcome.backbone), tmp_path, Callbacks())
    assert outcome.results["probe/knn_top1"] == pytest.approx(found.metrics["val/top1"])


@pytest.mark.slow
def test_without_labels_the_effective_rank_favours(
    digits_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted(digits_folder.rglob("*.png"))):
        (flat / f"{number}.png").write_bytes(path.read_bytes())
    settings = config(steps=2, keep_best=True)
    dataset = load(str(flat), settings.data, side=settings.data.side(32))
    logging.getLogger("hpt").propagate = True
    caplog.set_level(logging.INFO, "hpt")
    watch = OnlineProbe(settings, dataset, Compute.of(settings, CPU))
    assert "no kNN: flat has no labels" in caplog.text
    outcome, logged = run(settings, dataset.pretraining_images(), tmp_path / "run", watch=watch)
    assert outcome.facts["best_by"] == "probe/effective_rank"
    looks = {line["step"]: line["probe/effective_rank"] for line in logged if "probe/effective_rank" in line}
    assert outcome.facts["best_step"] == str(max(looks, key=lambda step: looks[step]))
    assert not any("knn" in key for line in logged for key in line)
