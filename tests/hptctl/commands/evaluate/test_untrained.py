"""`untrained` in place of a run: the floor of every evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpt import floor, weights
from hpt.config import EvaluateConfig
from hpt.data.dataset import load
from hptctl import runs

TINY = ("--preset", "tiny", "--device", "cpu", "--set", "linear.steps=20")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["knn", "linear"])
def test_untrained_gives_the_figures_of_an_equal_backbone_that_was_saved(
    kind: str, hptctl, workplace: Path, digits_folder: Path
) -> None:
    words = (*TINY, "-d", str(digits_folder), "--seed", "2", "--json")
    found = json.loads(hptctl("evaluate", kind, "untrained", *words).stdout)
    assert found["name"] == f"{kind}-untrained-my-digits"
    run = runs.get(found["name"])
    config = EvaluateConfig.model_validate(run.spec().config)
    dataset = load(str(digits_folder), config.data, side=config.data.side(config.image_size))
    weights.save(floor.untrained(config, dataset, lambda *_: None), Path("drawn.safetensors"), metadata={})
    saved = json.loads(hptctl("evaluate", kind, "drawn.safetensors", *words).stdout)
    assert saved["results"] == found["results"]
    tags = run.spec().tags
    assert (tags.strategy, tags.weights, tags.weights_file, tags.steps) == ("untrained", "untrained", None, 0)
    assert (tags.pretrain_dataset, tags.pretrain_seed) == ("my digits", 2)
    assert run.spec().source is None
    assert "untrained" in hptctl("runs", "show", run.name).stdout
    assert "finished already" in hptctl("evaluate", kind, "--resume", run.name).stderr


def test_untrained_has_the_backbone_that_is_asked_for(hptctl, workplace: Path, digits_folder: Path) -> None:
    words = ("evaluate", "knn", "untrained", "-d", str(digits_folder), "--dry-run", "--json")
    assert json.loads(hptctl(*words).stdout)["config"]["backbone"] == "resnet50"
    assert json.loads(hptctl(*words, "--preset", "tiny").stdout)["config"]["backbone"] == "resnet18"
    assert json.loads(hptctl(*words, "--backbone", "resnet34").stdout)["config"]["backbone"] == "resnet34"
    weights_of_18 = ("evaluate", "knn", "w.safetensors", "-d", str(digits_folder), *TINY)
    state = floor.encoder.build("resnet18", seed=0).state_dict()
    weights.save(state, Path("w.safetensors"), metadata={})
    refused = hptctl(*weights_of_18, "--backbone", "resnet50", code=2).stderr
    assert "weights are of a resnet18, asked for resnet50" in refused


@pytest.mark.slow
def test_a_sweep_tests_its_winner_of_an_untrained_network(hptctl, workplace: Path, digits_folder: Path) -> None:
    words = ("sweep", "finetune", "untrained", "-d", str(digits_folder), "--preset", "tiny", "--device", "cpu")
    hptctl(*words, "--lr", "0.01,0.001", "--schedule", "2-steps", "--name", "swept")
    assert runs.get("swept").status().results["test/top1"] >= 0


def test_no_run_is_called_untrained_and_a_file_of_that_name_is_neither_taken_nor_passed_over(
    hptctl, workplace: Path
) -> None:
    words = ("evaluate", "knn", "untrained", "-d", "digits", "--preset", "tiny")
    assert "no run is called that" in hptctl(*words, "--name", "untrained", code=2).stderr
    Path("untrained").touch()
    said = hptctl(*words, code=2).stderr
    assert "name its path to mean it: ./untrained" in said
    assert not runs.all_runs()


@pytest.mark.parametrize("strategy", ["hpt", "target"])
def test_a_pretraining_does_not_start_from_untrained_weights(strategy: str, hptctl, workplace: Path) -> None:
    said = hptctl("pretrain", "-s", strategy, "-w", "untrained", "-d", "digits", "--preset", "tiny", code=2).stderr
    assert "strategy target starts from random weights" in said
