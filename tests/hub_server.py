"""A server on 127.0.0.1 that speaks as the Hugging Face hub does: it gives files, and takes and keeps them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_a-token-of-tests"


class Hub:
    """Repositories by name, each with its files; what was asked for; and how it answers a status it is told to."""

    def __init__(self) -> None:
        self.address = ""
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.asked: list[str] = []
        self.refuses: dict[str, tuple[int, str]] = {}
        """By a part of a path, the status and the message of each answer to it."""
        self._large: dict[str, bytes] = {}

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0]
        self.asked.append(f"{request.command} {path}")
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        for part, (status, message) in self.refuses.items():
            if part in path:
                return _send(request, status, {"error": message})
        if "/resolve/" in path:
            return self._give(request, path)
        if request.command != "PUT" and request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return _send(request, 401, {"error": "Invalid username or password."})
        status, content = self._taken(request.command, path, body)
        return _send(request, status, content, {"X-Error-Code": "RepoNotFound"} if status == 404 else None)

    def _give(self, request: BaseHTTPRequestHandler, path: str) -> None:
        repository, _, rest = path.strip("/").partition("/resolve/")
        content = self.files.get(repository, {}).get(rest.partition("/")[2])
        if content is None:
            code = "EntryNotFound" if repository in self.files else "RepoNotFound"
            return _send(request, 404, b"", {"X-Error-Code": code, "X-Repo-Commit": COMMIT})
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        return _send(request, 200, content, {"X-Repo-Commit": COMMIT, "ETag": tag})

    def _taken(self, verb: str, path: str, body: bytes) -> tuple[int, Any]:
        """What an upload's parts are answered: the repository, where each file goes, large ones, and the commit."""
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            made = name not in self.files
            self.files.setdefault(name, {})
            if made and (asked.get("private") or asked.get("visibility") == "private"):
                self.private.add(name)
            return (200 if made else 409), {"url": f"{self.address}/{name}", "name": name}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if found := re.fullmatch(r"/api/models/(.+)/preupload/main", path):
            modes = {True: "lfs", False: "regular"}
            files = [each["path"] for each in json.loads(body)["files"]]
            return 200, {
                "files": [
                    {"path": each, "uploadMode": modes[each.endswith(".safetensors")], "shouldIgnore": False}
                    for each in files
                ]
            }
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                each | {"actions": {"upload": {"href": f"{self.address}/large/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}
        if verb == "PUT":
            self._large[path.removeprefix("/large/")] = body
            return 200, {}
        if found := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            for each in map(json.loads, body.splitlines()):
                value = each["value"]
                if each["key"] == "file":
                    self.files[found[1]][value["path"]] = base64.b64decode(value["content"])
                elif each["key"] == "lfsFile":
                    self.files[found[1]][value["path"]] = self._large[value["oid"]]
            return 200, {"commitUrl": f"{self.address}/{found[1]}/commit/{COMMIT}", "commitOid": COMMIT}
        if (found := re.fullmatch(r"/api/models/(.+)", path)) and found[1] in self.files:
            return 200, {"id": found[1], "sha": COMMIT, "private": found[1] in self.private}
        return 404, {"error": "nothing is there"}


def _send(request: BaseHTTPRequestHandler, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    request.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
        request.send_header(name, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)


@contextmanager
def serving(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that holds nothing yet, to which the environment leads; `cache` is the folder of what is fetched."""
    made = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            made.answer(self)

        do_GET = do_HEAD = do_POST = do_PUT = handle_any

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        made.address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("HF_ENDPOINT", made.address)
        monkeypatch.setenv("HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)  # a protocol of the real hub alone
        yield made
        server.shutdown()
