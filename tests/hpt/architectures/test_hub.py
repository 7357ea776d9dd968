"""Weights of the Hugging Face hub, fetched by its own client from a server on 127.0.0.1 that speaks as the hub does."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch

from hpt import weights
from hpt.architectures import hub
from hpt.errors import WeightsError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories by name, each with its files; and what was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []

    def answer(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        path = request.path.partition("?")[0]
        self.asked.append(f"{request.command} {path}")
        repository, _, rest = path.strip("/").partition("/resolve/")
        name = rest.partition("/")[2]
        content = self.files.get(repository, {}).get(name)
        if content is None:
            request.send_response(404)
            request.send_header("X-Error-Code", "EntryNotFound" if repository in self.files else "RepoNotFound")
            request.send_header("X-Repo-Commit", COMMIT)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        request.send_response(200)
        request.send_header("X-Repo-Commit", COMMIT)
        request.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if body:
            request.wfile.write(content)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    made = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            made.answer(self, body=True)

        def do_HEAD(self) -> None:
            made.answer(self, body=False)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
        monkeypatch.setenv("HPTCTL_CACHE", str(tmp_path / "cache"))
        yield made
        server.shutdown()


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
