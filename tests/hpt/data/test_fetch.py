from __future__ import annotations

import hashlib
import random
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hpt.data import fetch
from hpt.data.fetch import Checksum, download
from hpt.errors import DataError

CONTENT = random.Random(0).randbytes(3_000_000)
SHA256 = Checksum("sha256", hashlib.sha256(CONTENT).hexdigest())
MD5_PREFIX = Checksum("md5", hashlib.md5(CONTENT).hexdigest()[:8])


class Server(ThreadingHTTPServer):
    """Serves `CONTENT` as /file, and drops the first connections midway when told to."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str | None]] = []
        """(path, Range) of every request."""
        self.drops = 0
        self.ranges = True
        self.busy = 0
        self.content = CONTENT
        self.version: str | None = None
        """ETag, honoured in If-Range."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers["Range"]
        server.requests.append((self.path, asked))
        if self.path in {"/moved", "/ftp"}:
            self.send_response(302)
            self.send_header("Location", "/file" if self.path == "/moved" else "ftp://127.0.0.1/file")
            self.end_headers()
            return
        if self.path != "/file":
            self.send_error(404)
            return
        if server.busy:
            server.busy -= 1
            self.send_error(503)
            return
        same = self.headers["If-Range"] in (None, server.version)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges and same else 0
        if start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if server.version:
            self.send_header("ETag", server.version)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.drops:
            server.drops -= 1
            body = body[:1_000_000]
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fetch, "_PAUSES", (0.01, 0.01))
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_file_arrives_whole_with_its_progress(tmp_path: Path, server: Server) -> None:
    path = tmp_path / "new folder" / "w.pth"
    seen: list[tuple[int, int, str]] = []
    download(
        f"{server.url}/file",
        path,
        checksum=SHA256,
        size=len(CONTENT),
        progress=lambda done, total, name: seen.append((done, total, name)),
    )
    assert path.read_bytes() == CONTENT
    assert seen[0] == (0, len(CONTENT), "w.pth")
    assert seen[-1] == (len(CONTENT), len(CONTENT), "w.pth")
    assert not (path.parent / "w.pth.part").exists()


def test_a_file_that_is_there_is_left_alone(tmp_path: Path, server: Server) -> None:
    (tmp_path / "w").write_bytes(b"mine")
    download(f"{server.url}/file", tmp_path / "w", checksum=SHA256, size=None)
    assert (tmp_path / "w").read_bytes() == b"mine"
    assert server.requests == []


def test_a_broken_connection_is_resumed_where_it_stopped(tmp_path: Path, server: Server) -> None:
    server.drops = 2
    download(f"{server.url}/file", tmp_path / "w", checksum=MD5_PREFIX, size=None)
    assert (tmp_path / "w").read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == [None, "bytes=1000000-", "bytes=2000000-"]


def test_a_later_call_goes_on_after_the_third_broken_connection(tmp_path: Path, server: Server) -> None:
    server.drops, server.ranges = 3, False
    with pytest.raises(DataError, match=r"cannot fetch w from 127.0.0.1 \(the connection broke after 1,000,000 of"):
        download(f"{server.url}/file", tmp_path / "w", checksum=SHA256, size=None)
    assert not (tmp_path / "w").exists()
    server.ranges = True
    server.requests.clear()
    download(f"{server.url}/file", tmp_path / "w", checksum=SHA256, size=None)
    assert server.requests == [("/file", "bytes=1000000-")]
    assert (tmp_path / "w").read_bytes() == CONTENT


def test_a_server_without_ranges_sends_it_from_the_beginning(tmp_path: Path, server: Server) -> None:
    server.ranges = False
    (tmp_path / "w.part").write_bytes(CONTENT[:500])
    download(f"{server.url}/file", tmp_path / "w", checksum=SHA256, size=None)
    assert server.requests == [("/file", "bytes=500-")]
    assert (tmp_path / "w").read_bytes() == CONTENT


def test_a_part_that_is_too_long_starts_over(tmp_path: Path, server: Server) -> None:
    (tmp_path / "w.part").write_bytes(bytes(len(CONTENT) + 5))
    download(f"{server.url}/file", tmp_path / "w", checksum=SHA256, size=None)
    assert [asked for _, asked in server.requests] == [f"bytes={len(CONTENT) + 5}-", None]
    assert (tmp_path / "w").read_bytes() == CONTENT


def test_without_a_checksum_an_earlier_part_is_not_trusted(tmp_path: Path, server: Server) -> None:
    (tmp_path / "w.part").write_bytes(bytes(500))
    download(f"{server.url}/file", tmp_path / "w", checksum=None, size=len(CONTENT))
    assert server.requests == [("/file", None)]
    assert (tmp_path / "w").read_bytes() == CONTENT


@pytest.mark.parametrize("changed", [False, True], ids=["the same file", "another file"])
def test_without_a_checksum_the_hosts_version_says_whether_to_go_on(
    tmp_path: Path, server: Server, changed: bool
) -> None:
    server.version, server.ranges = '"one"', False
    server.drops = 3
    with pytest.raises(DataError, match="3 times"):
        download(f"{server.url}/file", tmp_path / "w", checksum=None, size=None)
    server.ranges = True
    server.requests.clear()
    if changed:
        server.version, server.content = '"two"', CONTENT[::-1]
    download(f"{server.url}/file", tmp_path / "w", checksum=None, size=None)
    assert server.requests == [("/file", "bytes=1000000-")]
    assert (tmp_path / "w").read_bytes() == server.content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w", "w.lock"]


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_a_wrong_checksum_leaves_nothing_behind(tmp_path: Path, server: Server, algorithm: str) -> None:
    wrong = Checksum(algorithm, "0123abcd")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=rf"w from 127.0.0.1 has {algorithm} \w{{8}}, not the published 0123abcd"):
        download(f"{server.url}/file", tmp_path / "w", checksum=wrong, size=None)
    assert not (tmp_path / "w").exists()
    assert not (tmp_path / "w.part").exists()


def test_a_wrong_size_is_refused_before_anything_is_fetched(tmp_path: Path, server: Server) -> None:
    with pytest.raises(DataError, match="offers w with 3,000,000 bytes, not the published 12"):
        download(f"{server.url}/file", tmp_path / "w", checksum=None, size=12)
    assert not (tmp_path / "w.part").exists()


def test_a_missing_page_is_one_line_at_once(tmp_path: Path, server: Server) -> None:
    with pytest.raises(DataError, match=r"127.0.0.1 answered 404 Not Found for http://127.0.0.1:\d+/gone"):
        download(f"{server.url}/gone", tmp_path / "w", checksum=None, size=None)
    assert len(server.requests) == 1


def test_a_busy_server_is_asked_again(tmp_path: Path, server: Server) -> None:
    server.busy = 2
    download(f"{server.url}/file", tmp_path / "w", checksum=SHA256, size=None)
    assert len(server.requests) == 3


def test_a_redirect_is_followed_with_the_range(tmp_path: Path, server: Server) -> None:
    (tmp_path / "w.part").write_bytes(CONTENT[:700])
    download(f"{server.url}/moved", tmp_path / "w", checksum=SHA256, size=None)
    assert server.requests == [("/moved", "bytes=700-"), ("/file", "bytes=700-")]
    assert (tmp_path / "w").read_bytes() == CONTENT


def test_a_redirect_to_another_protocol_is_refused(tmp_path: Path, server: Server) -> None:
    with pytest.raises(DataError, match="unknown url type: ftp"):
        download(f"{server.url}/ftp", tmp_path / "w", checksum=None, size=None)


@pytest.mark.parametrize("url", ["ftp://example.org/a", "file:///etc/passwd", "a.zip", "http://"])
def test_only_web_addresses_are_fetched(tmp_path: Path, url: str) -> None:
    with pytest.raises(DataError, match="only https and http"):
        download(url, tmp_path / "w", checksum=None, size=None)


def test_a_refused_connection_is_one_line_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with pytest.raises(DataError, match=r"^cannot reach 127.0.0.1 \(Connection refused\); check the network"):
            download(f"http://127.0.0.1:{port}/file", tmp_path / "w", checksum=None, size=None)


def test_a_silent_server_is_given_up(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(DataError, match=r"no answer within 0.1 s, 3 times"):
            download(f"http://127.0.0.1:{port}/file", tmp_path / "w", checksum=None, size=None)


def test_two_that_want_one_file_fetch_it_once(tmp_path: Path, server: Server) -> None:
    def want() -> None:
        download(f"{server.url}/file", tmp_path / "w", checksum=SHA256, size=None)

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.requests == [("/file", None)]
    assert (tmp_path / "w").read_bytes() == CONTENT


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path, server: Server) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"cannot write .*file/w \(Not a directory|cannot write .*\(File exists"):
        download(f"{server.url}/file", tmp_path / "file" / "w", checksum=None, size=None)
