"""Passwords are for the databases and servers that ask for them: never on the screen, in a file, or in tracking.

What is printed or written down goes through `masked`, which hides the password of every address and what the
environment holds as secrets, however a library has put it into its message.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from types import TracebackType
from typing import Any
from urllib.parse import unquote

HIDDEN = "***"
"""What stands for a password."""
ADDRESSES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_BACKEND_STORE_URI", "HPTCTL_STORAGE")
"""Environment variables that hold addresses, perhaps with a password."""
SECRET_NAME = re.compile(r"(?:PASSWORD|PASSWD|PASSPHRASE|_PWD|(?:^|_)SECRET|(?:^|_)TOKEN|API_?KEY|ACCESS_KEY)$", re.I)
"""Names of environment variables that hold secrets, such as MLFLOW_TRACKING_PASSWORD, PGPASSWORD and HF_TOKEN; not
PWD, nor TOKENIZERS_PARALLELISM."""
SHORTEST = 5
"""A shorter value would hide half of the words of a message; in an address it is hidden however short it is."""
_IN_ADDRESS = re.compile(r"(?<=://)([^/\s:@'\"]*):([^\s'\"]+)@")
_IN_QUERY = re.compile(
    r"(?i)([?&;](?:[\w-]*(?:password|passwd|pwd|token|secret|signature|credential)|sig)=)[^&;\s'\"]+"
)


def masked(text: str) -> str:
    """The text without passwords."""
    return _without(_known(), text)


def masked_in(value: Any) -> Any:
    """As `masked`, in every text of nested lists and dictionaries."""
    return _without_in(_known(), value)


def _without(secrets: Sequence[str], text: str) -> str:
    if "://" in text:
        text = _IN_QUERY.sub(rf"\1{HIDDEN}", _IN_ADDRESS.sub(rf"\1:{HIDDEN}@", text))
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, HIDDEN)
    return text


def _without_in(secrets: Sequence[str], value: Any) -> Any:
    if isinstance(value, str):
        return _without(secrets, value)
    if isinstance(value, Mapping):
        return {key: _without_in(secrets, each) for key, each in value.items()}
    return [_without_in(secrets, each) for each in value] if isinstance(value, list | tuple) else value


def _known() -> list[str]:
    """The secrets of the environment, as they are and as they are in addresses; the longest first."""
    found = {value for name, value in os.environ.items() if _is_secret(name)}
    for name in ADDRESSES:
        if match := _IN_ADDRESS.search(os.environ.get(name, "")):
            found |= {match[2], unquote(match[2])}
    return sorted((each for each in found if len(each) >= SHORTEST), key=len, reverse=True)


@cache  # each cell of a table asks for every variable
def _is_secret(name: str) -> bool:
    return SECRET_NAME.search(name) is not None


def mask_tracebacks() -> None:
    """From now on what ends a process is printed without passwords, too."""

    def show(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        sys.stderr.write(masked("".join(traceback.format_exception(kind, error, where))))

    sys.excepthook = show
