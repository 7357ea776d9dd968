"""The time that a command was given, `--for 8m`: work stops before it is over, saved, for the next slice to go on.

The end is kept in the environment, so that the processes that a command starts stop in time, too.
"""

from __future__ import annotations

import os
import re
import time

from hpt.errors import TIME_IS_UP, ConfigError, Interrupted

VARIABLE = "HPTCTL_DEADLINE"
"""Environment variable of a command and its children: when the time is over, in seconds since 1970."""
CLOSING_SECONDS = 3.0
"""From the last save to the end of the process: the last figures to MLflow, whose import may come only then."""
_given = ""


def seconds(text: str, option: str) -> float:
    """A length of time, `90s`, `8m` or `2h`, that an option was given.

    Raises:
        ConfigError: it is none.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", text)
    if match is None or float(match[1]) == 0:
        raise ConfigError(f"{option} {text!r} is not a length of time", "write 90s, 45m or 12h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def limit(text: str) -> None:
    """The process, which began before this call, has that much time; less where the command that started it has."""
    import psutil

    global _given
    _given = text
    end = psutil.Process().create_time() + seconds(text, "--for")
    os.environ[VARIABLE] = str(min(end, float(os.environ.get(VARIABLE, "inf"))))


def lift() -> None:
    """No time was given."""
    global _given
    _given = ""


def words() -> list[str]:
    """The option as it was given, for the command that goes on."""
    return ["--for", _given] if _given else []


def left() -> float:
    """Seconds until the state has to be saved; infinite where no time was given."""
    return float(os.environ.get(VARIABLE, "inf")) - time.time() - CLOSING_SECONDS


def passes_in(ahead: float) -> int:
    """What asks work to stop that could only stop again after that many seconds: TIME_IS_UP, or 0."""
    return TIME_IS_UP if left() < ahead else 0


def follow(done: int, total: int, what: str) -> None:
    """The progress of work of which nothing is saved on its way: it ends here when the time is over.

    Raises:
        Interrupted: it is.
    """
    if done < total and passes_in(0.0):
        raise starts_again(TIME_IS_UP, done, total, what)


def starts_again(signum: int, done: int, total: int, what: str) -> Interrupted:
    """The end of work of which nothing is saved on its way."""
    return Interrupted(signum, f"stopped at {what} {done} of {total}, which starts again")
