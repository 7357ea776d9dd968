"""A network of timm, from its pretraining to what is taken away."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from hpt import encoder, predictions, weights

TINY = ("--preset", "tiny", "--device", "cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--backbone", "convnext_att"), "unknown backbone 'convnext_att' (did you mean 'convnext_atto'?)"),
        (("--backbone", "vit_tiny_patch16_224", "--image-size", "40"), "40 is none; --image-size 32 or 48"),
        (("--backbone", "con/vnext"), "'con/vnext' is no name of a backbone"),
        (("--set", "pooling=class-token"), "a resnet18 has no class token"),
    ],
)
def test_a_backbone_that_is_none_is_one_line(
    arguments: tuple[str, ...], message: str, hptctl, digits_folder: Path
) -> None:
    said = hptctl("pretrain", "-s", "target", "-d", str(digits_folder), *TINY, *arguments, code=2).stderr
    assert message in " ".join(said.split())
    if "pooling=class-token" not in arguments:
        assert not Path("runs").exists()


def test_detection_stands_on_resnets_alone(hptctl) -> None:
    arguments = ("untrained", "-d", "digits", *TINY, "--backbone", "convnext_atto")
    said = " ".join(hptctl("evaluate", "detection", *arguments, code=2).stderr.split())
    assert "detection stands on the layers of a plain ResNet, and convnext_atto is none" in said


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnext_atto", "vit_tiny_patch16_224", "resnet26d", "efficientnet_lite0"])
def test_a_backbone_goes_all_the_way(name: str, hptctl, digits_folder: Path) -> None:
    images = ("-d", str(digits_folder), *TINY, "--batch-size", "16")
    hptctl("pretrain", "-s", "target", *images, "--backbone", name, "--steps", "2", "--name", "own")
    hptctl("pretrain", "-s", "hpt-bn", *images, "-w", "own", "--steps", "1", "--name", "further")
    said = hptctl("pretrain", "-s", "base", "-d", str(digits_folder), *TINY, "-w", "own", "--name", "still")
    states = [weights.read(Path(f"runs/{run}/backbone.safetensors")).state for run in ("own", "still")]
    changed = {key for key, value in states[0].items() if not torch.equal(value, states[1][key])}
    if name in ("convnext_atto", "vit_tiny_patch16_224"):
        assert f"a {name} has no BatchNorm" in " ".join(said.stderr.split())
        assert not changed
    else:
        assert changed == {key for key in states[0] if "running_" in key or "num_batches" in key}
    floor = ("untrained", "-d", str(digits_folder), *TINY, "--backbone", name)
    for arguments in (("own",), ("further",), floor):
        hptctl("evaluate", "knn", *arguments)
    assert "of top1" in hptctl("compare", "knn-own", "knn-further").stdout
    layers = json.loads(hptctl("evaluate", "layers", "own", "further", "--json").stdout)
    assert all(0 <= value <= 1.01 for value in layers["cka"].values())
    tuned = ("own", "--schedule", "2-steps", "--labels", "30", "--name", "tuned", "--device", "cpu")
    hptctl("evaluate", "finetune", *tuned)
    kept = predictions.read(Path("runs/tuned"), "test")
    hptctl("weights", "export", "tuned", "--layout", "huggingface", "--out", "classifier")
    model = timm.create_model("local-dir:classifier", pretrained=True)
    assert model.num_classes == kept.scores.shape[2] == 3
    assert Path("classifier/README.md").read_text().startswith("---\nlibrary_name: timm\n")
    line = hptctl("weights", "export", "own", "--layout", "onnx", "--out", "own.onnx").stdout.splitlines()[1]
    import onnxruntime

    given = torch.randn(2, 3, 32, 32)
    names: dict[str, object] = {"onnxruntime": onnxruntime, "images": given.numpy()}
    exec(line, names)
    with torch.no_grad():
        expected = encoder.loaded(name, states[0], image_size=32).eval()(given).numpy()
    np.testing.assert_allclose(names["features"], expected, atol=1e-3 * np.abs(expected).max())
    found = json.loads(hptctl("weights", "inspect", "own", "--json").stdout)
    assert (found["backbone"], found["unexpected"]) == (name, [])
    hptctl("evaluate", "features", "own", "--out", "features.npz")
    hptctl("report", "--out", "report.html")
