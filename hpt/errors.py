"""What can go wrong, as one line each.

    HptError                the program could not do it                          exit code 1
    ├── UserError           the user can correct it: what, why, what to do       exit code 2
    │   ├── ConfigError     an option or a configuration field
    │   ├── DataError       images, folders, archives, splits
    │   ├── WeightsError    a weights file, or a download of one
    │   └── RunError        a run, study or store that is missing or not fit
    ├── ProcessLost         another process of the run is gone, or its machine
    ├── Pruned              a sweep's trial was ended early, for others do better
    └── Interrupted         after the state was saved: Ctrl-C or SIGTERM         exit code 128 + signal
                            the time given is up, or SIGUSR1                     exit code 75

`did_you_mean` finishes the sentence for an unknown name.
"""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable

TIME_IS_UP = int(getattr(signal, "SIGUSR1", 10))
"""The signal that says that the time is nearly up, as Slurm's `--signal=USR1@90` sends it; and the number by which
work is asked to stop when it has used the time that it was given."""
TIME_IS_UP_CODE = 75
"""The exit code then: EX_TEMPFAIL of sysexits.h, to be tried again."""


class HptError(Exception):
    """An error in one line: what happened and why; `fix` says what to do about it."""

    exit_code = 1

    def __init__(self, what: str, fix: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}; {self.fix}" if self.fix else self.what


LOST = "the connection to another process of the run broke"
"""The beginning of what is said where another process has gone."""


class UserError(HptError):
    """An error that the user can correct."""

    exit_code = 2


class ConfigError(UserError):
    """An option, a field of the configuration, or a configuration file is wrong."""


class DataError(UserError):
    """Images, a folder, an archive or a split is missing or not fit for what was asked."""


class WeightsError(UserError):
    """A weights file, or a download of one, is missing or not fit for what was asked."""


class RunError(UserError):
    """A run, sweep, study or store is missing or not fit for what was asked."""


class ProcessLost(HptError):
    """Another process of the run is gone, so that none can go on; the newest checkpoint is kept."""


class Pruned(HptError):
    """The work was ended at once by a `log` callback that raises this; no checkpoint is written."""


class Interrupted(HptError):
    """Ctrl-C, SIGTERM or the end of the time given stopped long work, which saved its state first."""

    def __init__(self, signum: int, what: str, fix: str | None = None) -> None:
        super().__init__(what, fix)
        self.signum = signum
        self.exit_code = TIME_IS_UP_CODE if signum == TIME_IS_UP else 128 + signum


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`" (did you mean 'hpt'?)"` for `"htp"`, or an empty string when nothing is near."""
    by_lower = {k.lower(): k for k in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.55)
    return f" (did you mean '{by_lower[near[0]]}'?)" if near else ""
