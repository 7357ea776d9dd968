"""Detectors and segmenters train on a backbone, go on where they were stopped, and keep what their figures rest on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_dense import dense

from hpt import encoder, predictions
from hpt.callbacks import Callbacks
from hpt.config import EvaluateConfig
from hpt.dense import networks
from hpt.dense.dataset import DenseDataset
from hpt.dense.draws import Draws
from hpt.dense.evaluation import evaluate_dense, score_dense_on_test
from hpt.dense.targets import DenseTask, no_boxes
from hpt.errors import ConfigError, DataError, Interrupted
from hpt.evaluate import EvaluationResult
from hpt.metrics import weighted
from hpt.resnet import ResNet

pytestmark = pytest.mark.usefixtures("own_cache")

SMALL: dict[str, Any] = {
    "detection": {
        "head": "fpn",
        "channels": 32,
        "anchors": (16, 24, 32, 48, 64),
        "proposals": 32,
        "steps": 4,
        "warmup": 2,
        "batch_size": 2,
        "sides": (64, 96),
        "test_side": 64,
        "longest": 128,
        "lr": 0.02,
        "eval_every": 2,
    },
    "segmentation": {
        "steps": 4,
        "batch_size": 4,
        "crop": 64,
        "side": 96,
        "lr": 0.05,
        "warmup": 2,
        "eval_every": 2,
    },
}


def config(kind: str, **changes: Any) -> EvaluateConfig:
    section = SMALL[kind] | changes.pop("section", {})
    values = {"kind": kind, "weights": "unused", "dataset": "unused", "backbone": "resnet18", "device": "cpu"}
    return EvaluateConfig.model_validate(values | {kind: section, "log_every": 1} | changes)


def state() -> Mapping[str, torch.Tensor]:
    return encoder.build("resnet18", seed=3).state_dict()


def run(
    settings: EvaluateConfig, data: DenseDataset, folder: Path, **callbacks: Any
) -> tuple[EvaluationResult, dict[int, dict[str, float]]]:
    logged: dict[int, dict[str, float]] = {}
    folder.mkdir(exist_ok=True)
    log = lambda metrics, step: logged.setdefault(step, {}).update(metrics)  # noqa: E731
    return evaluate_dense(settings, data, state(), folder, Callbacks(log=log, **callbacks)), logged


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_a_training_that_was_stopped_ends_with_the_same_bits(task: DenseTask, tmp_path: Path) -> None:
    data = dense(tmp_path / "set", task, train=4)
    whole, logged = run(config(task), data, tmp_path / "whole")
    stops = iter([0, 0, 15])
    with pytest.raises(Interrupted, match="stopped at step 3 of 4"):
        run(config(task), data, tmp_path / "cut", stop=lambda seconds: next(stops))
    assert (tmp_path / "cut/checkpoints").is_dir()
    cut, rest = run(config(task), data, tmp_path / "cut")
    assert cut == whole
    assert set(rest) == {4}
    assert {step: logged[step] for step in rest} == rest
    files = ("model.safetensors", "artifacts/predictions-test.npz", "artifacts/per-class-test.csv")
    for name in files:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert not (tmp_path / "cut/checkpoints").exists()


@pytest.mark.parametrize(
    ("task", "metric"), [pytest.param("detection", "ap50", marks=pytest.mark.slow), ("segmentation", "miou")]
)
def test_the_figures_are_those_of_the_predictions_that_are_kept(task: DenseTask, metric: str, tmp_path: Path) -> None:
    data = dense(tmp_path / "set", task)
    settings = config(task, metric=metric, test=False)
    found, _ = run(settings, data, tmp_path / "run")
    assert not any(key.startswith("test") for key in found.metrics)
    tested = score_dense_on_test(settings, data, state(), tmp_path / "run", Callbacks())
    for split, figures in (("val", found.metrics), ("test", tested.metrics)):
        kept = predictions.read(tmp_path / "run", split)
        once = np.ones((1, 4), dtype=np.float32)
        assert weighted(metric, kept.scores[0], kept.labels)(once)[0] == pytest.approx(figures[f"{split}/{metric}"])
        assert kept.names.tolist() == list(data.dataset.images.subset(data.dataset.splits[split]).names)
    if task == "detection":
        boxes = json.loads((tmp_path / "run/artifacts/detections-test.json").read_text())
        assert {"image_id", "bbox", "score", "category_id", "category"} == set(boxes[0])
    else:
        with np.load(tmp_path / "run/artifacts/masks-test.npz") as masks:
            assert masks["test/all/2000.png"].shape == (96, 128)
    assert len(list((tmp_path / "run/pictures").glob("test-*.jpg"))) == 4


def test_boxes_are_in_the_files_pixels_whatever_the_cache_keeps(tmp_path: Path) -> None:
    full, half = (dense(tmp_path / "set", "detection", side=side) for side in (96, 48))
    assert half.dataset.images.sizes[0].tolist() == [48, 64]
    for row in range(4):
        scaled = half.boxes(row).scaled(half.enlarged(row), half.enlarged(row))
        np.testing.assert_allclose(scaled.boxes, full.boxes(row).boxes, atol=1e-4)


@pytest.mark.slow
def test_eight_images_can_be_learned_by_heart(tmp_path: Path) -> None:
    data = dense(tmp_path / "set", "detection", train=8)
    rows = data.dataset.splits["train"]
    data = replace(data, dataset=replace(data.dataset, splits={"train": rows, "val": rows, "test": rows}))
    section = {"steps": 300, "eval_every": 100, "sides": (96, 96), "test_side": 96, "batch_size": 4, "channels": 64}
    found, _ = run(config("detection", section=section), data, tmp_path / "run")
    assert found.metrics["test/ap50"] > 0.9


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
def test_the_networks_take_every_layer_of_the_backbone_and_train_it(architecture: str) -> None:
    with torch.device("meta"):
        backbone = encoder.build(architecture, seed=0)
        assert isinstance(backbone, ResNet)
        layers = {id(parameter) for parameter in backbone.parameters()}
        for head in ("c4", "fpn"):
            model = networks.detector(
                backbone, 3, config("detection", section={"head": head}).detection, Draws(), seed=0
            )
            mine = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
            assert layers <= mine, head
    width = networks.width_of(backbone.layer4)
    assert width == encoder.feature_dim(architecture)


def test_a_segmenters_features_have_the_stride_of_layer3(tmp_path: Path) -> None:
    for architecture in ("resnet18", "resnet50"):
        model = networks.segmenter(
            encoder.build(architecture, seed=0), 5, config("segmentation").segmentation, Draws(), seed=0
        ).eval()
        images = torch.randn(1, 3, 64, 96)
        features = model.trunk(images)["layer4"]
        assert features.shape == (1, encoder.feature_dim(architecture), 4, 6)
        assert model(images).shape == (1, 5, 64, 96)


def test_what_cannot_be_learned_is_refused_in_one_line(tmp_path: Path) -> None:
    data = dense(tmp_path / "set", "detection", train=3)
    bare = DenseDataset(data.dataset, "detection", data.classes, lambda row: no_boxes(), data.mask, data.enlarged)
    with pytest.raises(DataError, match="none of the 3 training images of 'set' has a box"):
        run(config("detection"), bare, tmp_path / "run")
    with pytest.raises(ConfigError, match="miou is no metric of detection; choose one of ap, ap50, ap75"):
        run(config("detection", metric="miou"), data, tmp_path / "run")
    with pytest.raises(ConfigError, match="a resnet18 has no class token; use --set pooling=own"):
        run(config("detection", pooling="class-token"), data, tmp_path / "run")
