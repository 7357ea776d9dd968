"""TOML files that people write: in UTF-8, with a byte order mark or none, or in UTF-16, as Windows PowerShell does."""

from __future__ import annotations

import codecs
import tomllib
from pathlib import Path
from typing import Any

from hpt.errors import ConfigError, UserError


def read(
    path: Path,
    what: str,
    fix: str | None = None,
    *,
    absent: dict[str, Any] | None = None,
    error: type[UserError] = ConfigError,
) -> dict[str, Any]:
    """The tables of a file.

    Args:
        what: what the user calls it, as `the study`.
        fix: what to do where it does not exist.
        absent: the tables of a file that does not exist, where there need not be one.
        error: what is raised.

    Raises:
        ConfigError: it does not exist, cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(_text(path.read_bytes()))
    except FileNotFoundError:
        if absent is not None:
            return absent
        raise error(f"{what} {path} does not exist", fix) from None
    except OSError as why:
        raise error(f"{what} {path} cannot be read: {why.strerror}", "check the path and its permissions") from None
    except UnicodeDecodeError:
        raise error(f"{what} {path} is not text in UTF-8", "save it as UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as why:
        raise error(f"{what} {path} cannot be read as TOML: {why}", "see https://toml.io") from None


def _text(data: bytes) -> str:
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if wide else "utf-8-sig")
