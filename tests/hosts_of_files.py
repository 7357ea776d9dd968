"""Servers on 127.0.0.1 that offer files: an S3 store, and a web server that gives parts of files, as most do."""

from __future__ import annotations

import functools
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "a-secret-of-tests",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def object_store(*buckets: str) -> Iterator[str]:
    """The address of an S3 server with some buckets; the environment leads to it."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    before = {name: os.environ.get(name) for name in (*CREDENTIALS, "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")}
    os.environ.update(CREDENTIALS | {"AWS_ENDPOINT_URL": address})
    os.environ.pop("AWS_ENDPOINT_URL_S3", None)
    try:
        client = boto3.client("s3", endpoint_url=address)
        for bucket in buckets:
            client.create_bucket(Bucket=bucket)
        client.close()
        yield address
    finally:
        server.stop()
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


class Ranges(SimpleHTTPRequestHandler):
    """Gives parts of files; `broken` requests for parts are refused first."""

    broken = 0
    asked: list[tuple[str, int, int]] = []  # noqa: RUF012  one server at a time

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if found is None or not path.is_file():
            super().do_GET()
            return
        if type(self).broken:
            type(self).broken -= 1
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE)
            return
        first, last = int(found[1]), min(int(found[2]), path.stat().st_size - 1)
        self.asked.append((path.name, first, last + 1))
        self.send_response(HTTPStatus.PARTIAL_CONTENT)
        self.send_header("Content-Range", f"bytes {first}-{last}/{path.stat().st_size}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        with path.open("rb") as file:
            file.seek(first)
            self.wfile.write(file.read(last + 1 - first))

    def list_directory(self, path: object) -> None:
        self.send_error(HTTPStatus.FORBIDDEN)

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """The address of a server of a folder's files, which it does not list."""
    Ranges.asked.clear()
    Ranges.broken = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Ranges, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
