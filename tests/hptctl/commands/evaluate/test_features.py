"""`hptctl evaluate features` and `hptctl evaluate layers`, as people use them."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from hpt import encoder

TINY = ("--preset", "tiny", "--device", "cpu")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "own.pth"
    torch.save(encoder.build("resnet18", seed=1).state_dict(), path)
    return path


def test_features_are_written_with_a_map_and_a_line_that_loads_them(
    hptctl, workplace: Path, weights: Path, digits_folder: Path
) -> None:
    asked = ("evaluate", "features", str(weights), "-d", str(digits_folder), *TINY)
    said = hptctl(*asked, "--out", "f.npz", "--map", "map.svg").stdout
    assert "120 images, 512 features each, of effective rank" in said
    line = next(line for line in said.splitlines() if line.startswith("load them: "))
    loaded = eval(line.removeprefix("load them: "), {"numpy": np})
    assert loaded.shape == (120, 512)
    assert max(map(len, said.splitlines())) <= 80
    text = "".join(ElementTree.parse("map.svg").getroot().itertext())
    assert "120 images of my digits" in text
    assert {"0", "1", "2"} < {part.strip() for part in text.split("\n")}
    first = Path("map.svg").read_bytes()
    found = json.loads(hptctl(*asked, "--out", "f.parquet", "--map", "map.svg", "--split", "all", "--json").stdout)
    assert Path("map.svg").read_bytes() == first
    assert found["images"] == 120
    assert found["about"]["dataset"] == "my digits"


def test_images_without_labels_have_features_too(hptctl, workplace: Path, weights: Path, digits_folder: Path) -> None:
    flat = workplace / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted(digits_folder.rglob("*.png"))[:20]):
        shutil.copy(path, flat / f"{number}.png")
    hptctl("evaluate", "features", str(weights), "-d", "flat", *TINY, "--out", "f.npz", "--map", "map.png")
    with np.load("f.npz") as arrays:
        assert arrays["features"].shape == (20, 512)
        assert arrays["classes"].size == 0
    with Image.open("map.png") as drawn:
        assert drawn.size == (1500, 990)


def test_layers_are_compared_and_batch_norms_drift_is_shown(
    hptctl, workplace: Path, weights: Path, digits_folder: Path
) -> None:
    other = workplace / "moved.pth"
    state = torch.load(weights, weights_only=True)
    state["layer4.1.bn2.running_mean"] += 1
    torch.save(state, other)
    asked = ("evaluate", "layers", str(weights), str(other), "-d", str(digits_folder), *TINY, "--map", "m.svg")
    found = json.loads(hptctl(*asked, "--json").stdout)
    assert found["cka"]["layer4.0"] == pytest.approx(1)
    assert found["cka"]["layer4.1"] < 0.9999
    drift = {name: each["kl"] for name, each in found["batch_norm"].items()}
    assert [name for name, kl in drift.items() if kl > 0] == ["layer4.1.bn2"]
    assert "linear CKA" in "".join(ElementTree.parse("m.svg").getroot().itertext())
    larger = workplace / "larger.pth"
    torch.save(encoder.build("resnet34", seed=0).state_dict(), larger)
    said = hptctl("evaluate", "layers", str(weights), str(larger), "-d", str(digits_folder), *TINY).stdout
    assert "BatchNorm is not compared: resnet18 and resnet34 have other layers" in said


def test_what_cannot_be_done_is_said_in_a_line_and_leaves_nothing(
    hptctl, workplace: Path, weights: Path, digits_folder: Path
) -> None:
    asked = ("evaluate", "features", str(weights), *TINY)
    data = ("-d", str(digits_folder))
    gone = hptctl(*asked, "-d", "gone/", "--out", "f.npz", code=2).stderr
    assert "no such folder, zip file or list: gone/" in gone
    assert "--out FILE.npz, --map FILE.svg" in hptctl(*asked, *data, code=2).stderr
    assert "did you mean 'tsne'" in hptctl(*asked, *data, "--map", "m.svg", "--method", "t-sne", code=2).stderr
    assert "cannot be written as 'm.gif'" in hptctl(*asked, *data, "--map", "m.gif", code=2).stderr
    state = torch.load(weights, weights_only=True)
    state["conv1.weight"][0] = torch.nan
    save_file(state, workplace / "nan.safetensors")
    assert load_file(workplace / "nan.safetensors")["conv1.weight"].isnan().any()
    nan = ("evaluate", "features", "nan.safetensors", *data, *TINY, "--out", "f.npz")
    assert "holds NaN or infinity" in hptctl(*nan, code=2).stderr
    assert sorted(p.name for p in workplace.iterdir() if p.name.startswith(("f.", "m.", ".f", ".m."))) == []
