"""Weights of the Hugging Face hub, fetched by its own client from a server on 127.0.0.1 that speaks as the hub does."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from hub_server import TOKEN, Hub, serving

from hpt import weights
from hpt.architectures import hub
from hpt.errors import ConfigError, WeightsError

OF_ITS_CLIENT = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
"""huggingface_hub 2.4 sends large files in a way that httpx would rather have otherwise."""


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("HPTCTL_CACHE", str(tmp_path / "cache"))
    with serving(tmp_path / "hf", monkeypatch) as hub_of_tests:
        yield hub_of_tests


@pytest.fixture(scope="module")
def convnext(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a repository as timm writes them."""
    folder = tmp_path_factory.mktemp("repository")
    torch.manual_seed(0)
    timm.models.save_for_hf(timm.create_model("convnext_atto"), str(folder), safe_serialization=True)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_weights_of_timm_and_of_anybody_are_fetched_once(served: Hub, convnext: dict[str, bytes]) -> None:
    tagged = timm.get_pretrained_cfg("convnext_atto").hf_hub_id
    served.files = {tagged: convnext, "somebody/their-model": convnext}
    for text in ("timm:convnext_atto", "hf-hub:somebody/their-model"):
        assert hub.kept(text) is None
        file = hub.locate(text)
        loaded = weights.read(file)
        assert loaded.backbone == "convnext_atto"
        assert loaded.sha256 == hashlib.sha256(convnext["model.safetensors"]).hexdigest()
        asked = len(served.asked)
        assert hub.locate(text) == hub.kept(text) == file
        assert len(served.asked) == asked, "what is in the cache is not asked for"
    assert hub.architecture("timm:convnext_atto.d2_in1k") == "convnext_atto"
    assert hub.architecture("hf-hub:somebody/their-model") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hf-hub:somebody/nothing", "the hub has no repository somebody/nothing"),
        ("hf-hub:somebody/empty", "somebody/empty has none of model.safetensors, pytorch_model.bin"),
        ("timm:convnext_atto.d3_in1k", r"no weights 'convnext_atto.d3_in1k' on the hub \(did you mean 'convnext_atto"),
        ("hf-hub:too/many/parts", "no name of the hub"),
    ],
)
def test_what_the_hub_does_not_have_is_one_line(served: Hub, text: str, message: str) -> None:
    served.files = {"somebody/empty": {"README.md": b"#"}}
    with pytest.raises(WeightsError, match=message) as caught:
        hub.locate(text)
    assert "\n" not in str(caught.value)


@pytest.mark.slow  # the hub's client tries again for 20 s
def test_without_the_hub_a_line_says_where_to_put_the_file(
    served: Hub, convnext: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens on the discard port
    with pytest.raises(WeightsError) as caught:
        hub.locate("timm:convnext_atto")
    folder = tmp_path / "cache" / "weights" / "timm--convnext_atto"
    assert "http://127.0.0.1:9 cannot be reached" in str(caught.value)
    assert f"put its model.safetensors and config.json into {folder}, or give --weights" in str(caught.value)
    folder.mkdir(parents=True)
    for name, content in convnext.items():
        (folder / name).write_bytes(content)
    assert hub.locate("timm:convnext_atto") == folder / "model.safetensors"


def test_offline_mode_is_followed(served: Hub, convnext: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    served.files = {"somebody/their-model": convnext}
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="cannot be reached"):
        hub.locate("hf-hub:somebody/their-model")
    assert served.asked == []


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to upload, and a token to do so."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (tmp_path / "model").mkdir()
    for name, content in {"README.md": "# A model", "config.json": "{}", "model.safetensors": "weights"}.items():
        (tmp_path / "model" / name).write_text(content)
    return tmp_path / "model"


@OF_ITS_CLIENT
def test_a_repository_that_is_made_is_private_or_as_asked_and_one_that_is_there_stays_as_it_is(
    served: Hub, model: Path
) -> None:
    for name, public, private in (("a/own", False, True), ("a/all", True, False), ("a/own", True, True)):
        pushed = hub.push(model, name, public=public)
        assert pushed == (f"{served.address}/{name}", private)
        assert served.files[name] == {file.name: file.read_bytes() for file in model.iterdir()}
    assert served.asked.count("POST /api/repos/create") == 2


@OF_ITS_CLIENT
@pytest.mark.parametrize(
    ("part", "name", "status", "mend"),
    [
        ("repos/create", "others/new", 403, "use a token that may write there, or another name"),
        ("repos/create", "nobody/new", 404, "check the name of the user or organisation"),
        ("objects/batch", "me/large", 413, "free some of its space there"),
        ("/large/", "me/large", 403, "use a token that may write there, or another name"),
        ("/commit/", "me/often", 429, "wait, and give the command again"),
        ("api/models", "me/own", 401, "make a token that may write, and set HF_TOKEN to it"),
    ],
)
def test_what_the_hub_refuses_is_one_line_that_says_why_and_that_the_folder_is_kept(
    part: str, name: str, status: int, mend: str, served: Hub, model: Path
) -> None:
    served.refuses = {part: (status, "no,\nnot yours")}
    if "api/models" in part:
        served.files[name] = {}
    with pytest.raises(WeightsError) as caught:
        hub.push(model, name, public=False)
    said = f"{served.address} refuses {name} ({status}: no, not yours); {model} is kept; {mend}"
    assert str(caught.value) == said


def test_without_the_hub_nothing_is_pushed(served: Hub, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        WeightsError, match=r"http://127.0.0.1:9 cannot be reached for me/own \(.*refused\); .* is kept"
    ):
        hub.push(model, "me/own", public=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ConfigError, match="HF_HUB_OFFLINE is set, so nothing is uploaded; unset it, or do without --push"
    ):
        hub.check_push("me/own")
