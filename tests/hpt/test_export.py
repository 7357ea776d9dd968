"""Networks of timm in the layouts of other programs: what each reads computes what the original does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from hpt import encoder, export, weights
from hpt.errors import ConfigError, HptError

SIZE = 64
IMAGES = torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
PLACES = ["convnext_atto", "vit_tiny_patch16_224"]


def made(name: str, *, classes: int = 0, pooling: str = "own", size: int = SIZE) -> tuple[export.Exported, Tensor]:
    """A network or a classifier, and what it gives for the images."""
    model = encoder.build(name, seed=0, image_size=size, pooling=pooling).eval()
    state = dict(model.state_dict())
    with torch.no_grad():
        found = model(IMAGES)
    if classes:
        head = torch.randn(classes, encoder.width(model), generator=torch.Generator().manual_seed(1)) / 10
        bias = torch.arange(float(classes))
        state |= dict(zip(encoder.classifier_keys(name), (head, bias), strict=True))
        found = found @ head.T + bias
    normalisation = ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    labels = tuple(f"class {n}" for n in range(classes))
    return export.Exported(state, name, size, pooling, normalisation, labels), found


def loaded_by(line: str) -> Tensor:
    names: dict[str, object] = {"timm": timm, "torch": torch}
    exec("import safetensors.torch\n" + line, names)
    with torch.no_grad():
        return names["model"].eval()(IMAGES)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize(("suffix", "classes"), [(".safetensors", 0), (".pth", 4)])
def test_timm_loads_what_was_written_for_it_by_the_line_given(
    name: str, suffix: str, classes: int, tmp_path: Path
) -> None:
    exported, expected = made(name, classes=classes)
    path = tmp_path / f"model{suffix}"
    line = export.write(exported, export.get("timm"), path, {"backbone": name, "image_size": str(SIZE)})
    torch.testing.assert_close(loaded_by(line), expected)
    assert weights.read(path, backbone=name).matched == len(weights.read(path, backbone=name).state)


def test_a_vits_other_pooling_is_in_the_line(tmp_path: Path) -> None:
    exported, expected = made("vit_tiny_patch16_224", pooling="average")
    line = export.write(exported, export.get("timm"), tmp_path / "m.safetensors", {})
    torch.testing.assert_close(loaded_by(line), expected)
    both, _ = made("vit_tiny_patch16_224", pooling="both")
    for layout in ("timm", "huggingface"):
        path = tmp_path / ("b.pth" if layout == "timm" else "b")
        with pytest.raises(ConfigError, match="no pooling of both class token and patches; use --layout onnx"):
            export.write(both, export.get(layout), path, {})


@pytest.mark.parametrize(("name", "classes"), [("convnext_atto", 4), ("vit_tiny_patch16_224", 0), ("resnet18", 4)])
def test_a_folder_of_the_hub_is_loaded_by_timm_with_its_transforms(name: str, classes: int, tmp_path: Path) -> None:
    exported, expected = made(name, classes=classes)
    line = export.write(exported, export.get("huggingface"), tmp_path / "folder", {})
    torch.testing.assert_close(loaded_by(line), expected)
    assert {each.name for each in (tmp_path / "folder").iterdir()} == {"config.json", "model.safetensors"}
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert config["architecture"] == name
    data = timm.data.resolve_model_data_config(timm.create_model(f"local-dir:{tmp_path / 'folder'}"))
    assert tuple(data["mean"]) == (0.5, 0.4, 0.3)
    assert tuple(data["input_size"]) == (3, SIZE, SIZE)
    assert config.get("label_names", []) == [f"class {n}" for n in range(classes)]
    assert weights.read(tmp_path / "folder" / "model.safetensors").backbone == name
    (tmp_path / "folder" / "thesis.tex").write_text("")
    with pytest.raises(ConfigError, match="is there and is no folder of a model"):
        export.write(exported, export.get("huggingface"), tmp_path / "folder", {})


@pytest.mark.parametrize(
    ("name", "classes", "pooling"),
    [
        ("resnet18", 0, "own"),
        pytest.param("vit_tiny_patch16_224", 0, "both", marks=pytest.mark.slow),
        pytest.param("convnext_atto", 4, "own", marks=pytest.mark.slow),
        pytest.param("swin_tiny_patch4_window7_224", 0, "own", marks=pytest.mark.slow),
        pytest.param("efficientnet_lite0", 0, "own", marks=pytest.mark.slow),
    ],
)
def test_an_onnx_file_gives_the_same_for_batches_of_any_size(
    name: str, classes: int, pooling: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime

    exported, expected = made(name, classes=classes, pooling=pooling)
    line = export.write(exported, export.get("onnx"), tmp_path / "model.onnx", {})
    assert capfd.readouterr() == ("", "")
    names: dict[str, object] = {"onnxruntime": onnxruntime, "images": IMAGES.numpy()}
    exec(line, names)
    found = names["logits" if classes else "features"]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-3 * float(expected.abs().max()))  # type: ignore[arg-type]
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx"]


def test_layouts_of_resnets_refuse_other_networks_in_one_line(tmp_path: Path) -> None:
    exported, _ = made("convnext_atto")
    for layout, suffix in (("torchvision", ".pth"), ("moco", ".pth"), ("detectron2", ".pkl")):
        with pytest.raises(
            ConfigError, match="has no place for a convnext_atto; choose one of timm, huggingface, onnx"
        ):
            export.write(exported, export.get(layout), tmp_path / f"w{suffix}", {})
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_onnx_file_that_computes_something_else_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hpt import onnx_file

    monkeypatch.setattr(onnx_file, "TOLERANCE", -1.0)
    exported, _ = made("resnet18")
    with pytest.raises(HptError, match="the ONNX file differs from the network"):
        export.write(exported, export.get("onnx"), tmp_path / "model.onnx", {})
    assert not list(tmp_path.iterdir())
