"""Weights, and pretrainings without an evaluation, are evaluated for a comparison as its other sides were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
from safetensors.torch import save_file

from hptctl import runs


@pytest.fixture
def vit(workplace: Path) -> Path:
    """A folder as timm writes it, of a ViT that was never trained, in the working folder."""
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=0)
    folder = workplace / "vit"
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    about = {"architecture": "vit_tiny_patch16_224", "num_classes": 0, "pretrained_cfg": {"input_size": [3, 32, 32]}}
    (folder / "config.json").write_text(json.dumps(about))
    return folder / "model.safetensors"


def test_weights_are_evaluated_as_the_other_side_was_and_only_once(own: str, vit: Path, hptctl) -> None:
    hptctl("evaluate", "knn", "own", "--labels", "60", "--name", "mine", "--set", "knn.k=5")
    before = {run.name for run in runs.all_runs()}
    said = hptctl("compare", "own", str(vit))
    (made,) = [run for run in runs.all_runs() if run.name not in before]
    assert f"run '{made.name}' makes it" in " ".join(said.stderr.split())
    mine, theirs = (run.spec().config for run in (runs.get("mine"), made))
    assert {key for key in mine if mine[key] != theirs[key]} == {"weights", "backbone"}
    assert theirs["backbone"] == "vit_tiny_patch16_224"
    assert "points of top1" in said.stdout
    assert "the runs have different backbones" in " ".join(said.stderr.split())
    again = json.loads(hptctl("compare", "own", str(vit), "untrained", "--json").stdout)
    (floor,) = [run for run in runs.all_runs() if run.name not in before | {made.name}]
    assert floor.spec().config["backbone"] == mine["backbone"]
    assert [arm["runs"] for arm in again["arms"]] == [["mine"], [made.name], [floor.name]]


def test_pretrainings_without_any_evaluation_are_compared_by_nearest_neighbours(own: str, hptctl) -> None:
    said = hptctl("compare", "own", "own@1")
    kinds = [run.spec().kind for run in runs.all_runs()]
    assert kinds.count("knn") == 2
    assert "test images" in said.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("untrained", "imagenet-supervised-resnet18"), "no run among these says on which images to evaluate"),
        (("own", "ownn"), "there is no run 'ownn' (did you mean 'own'?)"),
        (("own", "vit/model.safetensors", "--image-size", "40"), "40 is none; --image-size 32 or 48"),
        (("own", "untrained", "--no-evaluate"), "there is no run 'untrained'"),
        (("own", "own@1", "--no-evaluate"), "there is no run 'own@1'"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(
    arguments: tuple[str, ...], message: str, own: str, vit: Path, hptctl
) -> None:
    said = hptctl("compare", *arguments, code=2).stderr
    assert message in " ".join(said.split())
