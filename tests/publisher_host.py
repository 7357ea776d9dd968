"""A publisher's host: a real server on 127.0.0.1 that offers a miniature of a dataset's archive."""

from __future__ import annotations

import functools
import hashlib
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from miniatures import FOLDERS

from hpt.data.catalog import CATALOG
from hpt.data.fetch import Checksum
from hpt.data.row import CatalogRow


class Quiet(SimpleHTTPRequestHandler):
    """Keeps what it was asked for, and says nothing."""

    asked: list[str] = []  # noqa: RUF012  one server at a time

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a server of a folder's files."""
    Quiet.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def offer_ucmerced(address: str, folder: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> CatalogRow:
    """UC Merced's row of the catalogue, with a miniature of its archive behind its address."""
    FOLDERS["ucmerced"](work)
    packed = folder / "UCMerced_LandUse.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(work.rglob("*")):
            archive.write(path, path.relative_to(work))
    data = packed.read_bytes()
    (published,) = CATALOG["ucmerced"].archives
    checksum = Checksum("sha256", hashlib.sha256(data).hexdigest())
    offered = replace(published, url=f"{address}/{packed.name}", size=len(data), checksum=checksum)
    row = CATALOG["ucmerced"].model_copy(update={"archives": (offered,)})
    monkeypatch.setitem(CATALOG, "ucmerced", row)
    return row
