"""Downloads that resume, and that are the right file or none at all."""

from __future__ import annotations

import hashlib
import http.client
import logging
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.error import HTTPError, URLError

from hpt.callbacks import Progress
from hpt.errors import DataError
from hpt.files import shared_lock, sync

logger = logging.getLogger(__name__)

_TIMEOUT = 30.0  # seconds, to connect and for each read
_HURRY = 10.0  # the same for a file that there is something else in place of
_PAUSES = (1.0, 3.0)  # seconds before the second and the third attempt
_CHUNK = 1 << 20
_CHANGED = "the file behind the address has changed"
_TRANSIENT = {408, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Checksum:
    """A published checksum."""

    algorithm: Literal["md5", "sha256"]
    """The algorithm that it was computed by."""
    digest: str
    """The whole hexadecimal digest, or as many leading digits as were published."""

    def of(self, path: Path) -> str:
        """The whole digest of a file."""
        with path.open("rb") as file:
            return hashlib.file_digest(file, self.algorithm).hexdigest()

    def fits(self, path: Path) -> bool:
        """Whether a file has this checksum."""
        return self.of(path).startswith(self.digest.lower())


class _Dropped(Exception):
    """The connection failed, and another attempt may succeed."""


def download(
    url: str,
    path: Path,
    *,
    checksum: Checksum | None,
    size: int | None,
    progress: Progress | None = None,
    patient: bool = True,
) -> None:
    """Fetch `url` into `path`, which appears whole and checked or not at all. One that exists is left alone.

    Of several processes that want one path, one fetches it. What has arrived so far is kept in `<path>.part`. A later
    call continues from there if a checksum would reveal a mixture of two versions, or if the host gave its version
    (ETag or Last-Modified, kept in `<path>.part.version`) and so can tell whether it still offers that one.

    Args:
        size: the size in bytes, where it is published.
        patient: whether to try three times, and to wait half a minute for each answer; where there is something else
            in place of the file, one try and 10 s are enough.

    Raises:
        DataError: the host cannot be reached or refuses, the file has another size or checksum, or it cannot be
            written.
    """
    host = urllib.parse.urlsplit(url).hostname
    if not url.startswith(("https://", "http://")) or not host:
        raise DataError(f"cannot fetch {url}: only https and http addresses are fetched")
    if path.exists():
        return
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with shared_lock(Path(f"{path}.lock")):
            if path.exists():  # another process fetched it meanwhile
                return
            if checksum is None and not _version(part).exists():
                part.unlink(missing_ok=True)
            _receive_with_patience(url, host, part, size, progress or _silent, patient)
            _verify(part, path.name, host, checksum, size)
            _version(part).unlink(missing_ok=True)
            sync(part)
            part.replace(path)
            sync(path.parent)
    except OSError as error:
        raise DataError(
            f"cannot write {path} ({error.strerror or error})", "free some space or choose another folder"
        ) from None


def _version(part: Path) -> Path:
    return part.with_name(part.name + ".version")


def _silent(done: int, total: int, name: str) -> None:
    pass


def _receive_with_patience(
    url: str, host: str, part: Path, size: int | None, progress: Progress, patient: bool
) -> None:
    pauses, timeout = (_PAUSES, _TIMEOUT) if patient else ((), min(_HURRY, _TIMEOUT))
    for pause in (*pauses, None):
        try:
            return _receive(url, host, part, size, progress, timeout)
        except _Dropped as error:
            reason = str(error)
        if pause is not None:
            logger.warning("%s: %s; trying again in %g s", host, reason, pause)
            time.sleep(pause)
    raise DataError(
        f"cannot fetch {part.stem} from {host} ({reason}, {'once' if not pauses else f'{len(pauses) + 1} times'})",
        "try again later: the download continues where it stopped",
    )


def _receive(url: str, host: str, part: Path, size: int | None, progress: Progress, timeout: float) -> None:
    """Make one attempt to complete `part`, from where it ends."""
    start = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "hptctl"} | ({"Range": f"bytes={start}-"} if start else {})
    if start and _version(part).exists():
        headers["If-Range"] = _version(part).read_text(encoding="latin-1")  # another version comes from its beginning
    response = _open(urllib.request.Request(url, headers=headers), host, timeout, resuming=start > 0)
    if response is None:
        part.unlink()
        raise _Dropped("the host has nothing after what has arrived so far")
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            start = 0
        elif not (response.headers["Content-Range"] or "").startswith(f"bytes {start}-"):
            part.unlink()
            raise _Dropped("the host sent another part of the file than the one asked for")
        length = response.headers["Content-Length"]
        total = start + int(length) if length and length.isdecimal() else 0
        if size is not None and total and total != size:
            raise DataError(f"{host} offers {part.stem} with {total:,} bytes, not the published {size:,}", _CHANGED)
        etag = response.headers["ETag"] or ""
        version = response.headers["Last-Modified"] if etag.startswith("W/") or not etag else etag
        if version:
            _version(part).write_text(version, encoding="latin-1")
        else:
            _version(part).unlink(missing_ok=True)
        done = start
        with part.open("ab" if start else "wb") as file:
            progress(done, total, part.stem)
            while chunk := _read(response, timeout):
                file.write(chunk)
                done += len(chunk)
                progress(done, total, part.stem)
    if total and done < total:
        raise _Dropped(f"the connection broke after {done:,} of {total:,} bytes")


def _open(
    request: urllib.request.Request, host: str, timeout: float, *, resuming: bool
) -> http.client.HTTPResponse | None:
    """The response; None when the host has nothing to continue with (416)."""
    # Not the default opener, which would follow a redirect to ftp.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    try:
        response: http.client.HTTPResponse = opener.open(request, timeout=timeout)
    except HTTPError as error:
        error.close()
        if resuming and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return None
        answer = f"{error.code} {error.reason}"
        if error.code in _TRANSIENT:
            raise _Dropped(f"the host answered {answer}") from None
        raise DataError(f"{host} answered {answer} for {request.full_url}", "the file may have moved") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, TimeoutError | ConnectionResetError | http.client.RemoteDisconnected):
            raise _Dropped(_why(reason, timeout)) from None
        raise DataError(
            f"cannot reach {host} ({_why(reason, timeout)})", "check the network and the proxy settings"
        ) from None
    return response


def _read(response: http.client.HTTPResponse, timeout: float) -> bytes:
    try:
        return response.read(_CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _Dropped(f"the connection broke: {_why(error, timeout)}") from None


def _why(reason: object, timeout: float) -> str:
    if isinstance(reason, TimeoutError):
        return f"no answer within {timeout:g} s"
    return (reason.strerror if isinstance(reason, OSError) else None) or str(reason) or type(reason).__name__


def _verify(part: Path, name: str, host: str, checksum: Checksum | None, size: int | None) -> None:
    found = part.stat().st_size
    if size is not None and found != size:
        part.unlink()
        raise DataError(f"{name} from {host} has {found:,} bytes, not the published {size:,}", _CHANGED)
    if checksum is not None and not checksum.fits(part):
        shown = checksum.of(part)[: len(checksum.digest)]
        part.unlink()
        raise DataError(
            f"{name} from {host} has {checksum.algorithm} {shown}, not the published {checksum.digest}",
            f"{_CHANGED}, or was damaged on its way: try again",
        )
