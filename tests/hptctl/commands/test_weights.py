"""`hptctl weights`: what people bring, and what they take away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from hub_server import TOKEN, serving
from program import Hptctl
from torch import Tensor

from hpt import augment, encoder, predictions, weights
from hpt.architectures import hub
from hpt.config import EvaluateConfig
from hpt.data.dataset import load
from hpt.data.loader import raw_batch
from hptctl import tracking


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))


def embed(state: dict[str, Tensor], images: Tensor) -> Tensor:
    model = encoder.build("resnet18", seed=0)
    model.load_state_dict(state)
    with torch.no_grad():
        return model.eval()(images)  # type: ignore[no-any-return]


def test_an_exported_backbone_loads_by_the_printed_line_with_the_same_features(
    hptctl, workplace: Path, own: str, images: Tensor
) -> None:
    hptctl("evaluate", "knn", "own")
    expected = embed(weights.read(Path("runs/own/backbone.safetensors")).state, images)
    for layout in ("torchvision", "timm"):
        for suffix in ("safetensors", "pth"):
            said = hptctl("weights", "export", "own", "--out", f"{layout}.{suffix}", "--layout", layout).stdout
            names: dict[str, object] = {"torchvision": torchvision, "timm": timm, "torch": torch}
            exec("import safetensors.torch\n" + said.splitlines()[1], names)
            model = names["model"]
            if layout == "torchvision":
                model.fc = torch.nn.Identity()  # type: ignore[attr-defined]
            with torch.no_grad():
                assert torch.equal(model.eval()(images), expected)  # type: ignore[attr-defined]
    card = Path("timm.md").read_text()
    assert "| knn | my digits | 84 | top1 |" in card
    assert "Whether\nyou may pass them on" in card
    assert "of train and val, without labels" in card


def test_an_exported_classifier_gives_the_scores_that_its_run_kept(
    hptctl, workplace: Path, own: str, digits_folder: Path
) -> None:
    hptctl(
        "evaluate", "finetune", "own", "--schedule", "3-steps", "--labels", "30", "--name", "tuned", "--device", "cpu"
    )
    kept = predictions.read(Path("runs/tuned"), "test")
    settings = EvaluateConfig.model_validate(json.loads(Path("runs/tuned/run.json").read_text())["config"])
    images = load(str(digits_folder), settings.data, side=settings.data.side(settings.image_size)).split("test")[0]
    raw = raw_batch(images, torch.arange(len(images)), torch.device("cpu"))
    inputs = augment.centre_view(raw, settings.image_size, images.mean, images.std)
    for layout, path in (("torchvision", "c.safetensors"), ("timm", "c.pth")):
        said = hptctl("weights", "export", "tuned", "--out", path, "--layout", layout).stdout
        names: dict[str, object] = {"torchvision": torchvision, "timm": timm, "torch": torch}
        exec("import safetensors.torch\n" + said.splitlines()[1], names)
        with torch.no_grad():
            scores = names["model"].eval()(inputs)  # type: ignore[attr-defined]
        np.testing.assert_allclose(scores.numpy(), kept.scores[0], atol=1e-3)  # kept in half precision
    card = Path("c.md").read_text()
    assert "| classes | 3, in the order of the logits: 0, 1, 2 |" in card
    assert "| finetune | my digits | 30 | top1 |" in card
    refused = hptctl("weights", "export", "tuned", "--out", "c.pkl", "--layout", "detectron2", code=2).stderr
    assert "no place for a classifier; choose one of torchvision, timm" in " ".join(refused.split())


@pytest.mark.parametrize(
    ("layout", "suffix"),
    [("moco", "pth"), ("detectron2", "pkl"), pytest.param("detectron2", "pth", marks=pytest.mark.slow)],
)
def test_a_layout_comes_back_as_it_was(layout: str, suffix: str, hptctl, workplace: Path) -> None:
    state = encoder.build("resnet50", seed=1).state_dict()
    torch.save(state, "mine.pth")
    made = json.loads(hptctl("weights", "convert", "mine.pth", f"other.{suffix}", "--layout", layout, "--json").stdout)
    assert f"other.{suffix}" in made["load"]
    found = json.loads(hptctl("weights", "inspect", f"other.{suffix}", "--json").stdout)
    assert found["backbone"] == "resnet50"
    assert found["unexpected"] == []
    again = weights.read(Path(f"other.{suffix}")).state
    assert all(torch.equal(value, again[key]) for key, value in state.items())


def test_a_folder_that_was_pushed_to_the_hub_comes_back_with_the_same_weights(
    hptctl, workplace: Path, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("weights", "export", "own", "--layout", "huggingface", "--out", "folder", "--push")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serving(workplace / "hf", monkeypatch) as served:
        done = hptctl(*words, "somebody/adapted")
        line = "model = timm.create_model('hf-hub:somebody/adapted', pretrained=True)"
        assert f"{served.address}/somebody/adapted (private): {line}" in " ".join(done.stdout.split())
        assert {*served.files["somebody/adapted"]} == {"config.json", "model.safetensors", "README.md"}
        assert line.encode() in served.files["somebody/adapted"]["README.md"]
        again = weights.read(hub.locate("hf-hub:somebody/adapted"))
        before = weights.read(Path("runs/own/backbone.safetensors"))
        assert again.backbone == before.backbone
        assert all(torch.equal(value, again.state[name]) for name, value in before.state.items())
        kept = [path.read_bytes() for path in (*Path("runs").rglob("*.json*"), *Path("folder").iterdir())]
        assert not [each for each in (done.stdout.encode(), done.stderr.encode(), *kept) if TOKEN.encode() in each]

        served.refuses = {"/commit/": (403, f"not with {TOKEN}")}
        said = " ".join(hptctl(*words, "somebody/adapted", "--json", code=2).stderr.split())
        assert f"{served.address} refuses somebody/adapted (403: not with ***); folder is kept; use a token" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--push", "a/b"), "--push uploads a folder of the hub; add --layout huggingface"),
        (("--public",), "--public says of what repository; add --push ORG/NAME"),
        (("--layout", "huggingface", "--push", "too/many/parts"), "'too/many/parts' is no name of a repository"),
        (("--layout", "huggingface", "--push", "alone"), "'alone' is no name of a repository"),
        (("--layout", "huggingface", "--push", "a/b"), "there is no token for https://huggingface.co; set HF_TOKEN"),
    ],
)
def test_what_cannot_be_pushed_is_refused_before_anything_is_written(
    arguments: tuple[str, ...], message: str, hptctl: Hptctl, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(Path("no token").absolute()))
    said = " ".join(hptctl("weights", "export", "own", *arguments, code=2).stderr.split())
    assert message in said
    assert not Path("own").exists()
    assert not Path("own.safetensors").exists()


@pytest.mark.slow
def test_a_registered_backbone_embeds_images_without_this_program(
    hptctl, workplace: Path, own: str, images: Tensor
) -> None:
    made = json.loads(hptctl("weights", "export", "own@1", "--register", "embedder", "--json").stdout)
    assert made["registered"] == "models:/embedder/1"
    np.save("images.npy", images.numpy())
    script = (
        "import sys; sys.modules['hptctl'] = sys.modules['hpt'] = None\n"
        "import mlflow, numpy as np\n"
        f"mlflow.set_tracking_uri({tracking.uri()!r})\n"
        "model = mlflow.pyfunc.load_model('models:/embedder/1')\n"
        "np.save('out.npy', model.predict(np.load('images.npy')))\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ, capture_output=True)
    facts = json.loads(Path("runs/own/status.json").read_text())["facts"]
    mean, std = (torch.tensor([float(v) for v in facts[key].split()]).view(1, 3, 1, 1) for key in ("mean", "std"))
    expected = embed(weights.read(Path("runs/own/backbones/step-1.safetensors")).state, (images - mean) / std)
    np.testing.assert_allclose(np.load("out.npy"), expected.numpy(), atol=1e-5)
    version = tracking.client().get_model_version("embedder", "1")
    assert version.description.startswith("# own after 1 step\n")


def test_weights_are_listed_and_inspected(hptctl, workplace: Path, own: str) -> None:
    rows = {row["name"]: row for row in json.loads(hptctl("weights", "list", "--json").stdout)}
    assert {"moco-v2-800ep", "moco-v2-200ep", "imagenet-supervised"} <= set(rows)
    assert not rows["moco-v2-800ep"]["here"]
    said = hptctl("weights", "inspect", "own").stdout
    assert "resnet18" in said
    assert "120 of 120 tensors" in " ".join(said.split())
    part = {
        key: value
        for key, value in weights.read(Path("runs/own/backbone.safetensors")).state.items()
        if "bn2" not in key
    }
    torch.save(part, "part.pth")
    assert "--allow-partial" in hptctl("weights", "inspect", "part.pth", code=2).stderr
    found = json.loads(hptctl("weights", "inspect", "part.pth", "--allow-partial", "--json").stdout)
    assert found["matched"] == len(part)
    refused = hptctl("evaluate", "knn", "part.pth", "-d", "digits", "--preset", "tiny", code=2).stderr
    assert "missing: layer1.0.bn2.weight" in refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fetch", "moco-v2-800"), "did you mean 'moco-v2-800ep'"),
        (("inspect", "nothing.pth"), "there are no weights 'nothing.pth'"),
        (("convert", "mine.pth", "out.onnx"), "end it in .safetensors or .pth"),
        (("convert", "mine.pth", "out.pth", "--layout", "tim"), "did you mean 'timm'"),
        (("convert", "mine.pth", "no/out.pth"), "the folder no does not exist"),
        (("export", "mine.pth"), "is not a run"),
    ],
)
def test_what_cannot_be_done_with_weights_is_one_line(arguments: tuple[str, ...], message: str, hptctl: Hptctl) -> None:
    torch.save(encoder.build("resnet18", seed=0).state_dict(), "mine.pth")
    said = " ".join(hptctl("weights", *arguments, code=2).stderr.split())
    assert message in said
    assert not list(Path().glob("out.*"))
