"""What the system refused, in words: disks and permissions are the user's to mend."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def explain(error: OSError) -> tuple[str, str | None]:
    """What went wrong, and what to do about it; None where nobody here can tell."""
    from hpt.user_folders import setting_of

    where = f": {error.filename}" if error.filename else ""
    setting = setting_of(str(error.filename)) if error.filename else None
    elsewhere = "work in a folder that can be written"
    denied = elsewhere if not os.access(Path.cwd(), os.W_OK) else "check its permissions"
    space = f"free some space, or set {setting} to a folder on a larger disk" if setting else "free some space"
    denied = f"set {setting} to a folder that can be written" if setting else denied
    mend = {
        errno.ENOSPC: space,
        errno.EDQUOT: space,
        errno.EROFS: denied if setting else elsewhere,
        errno.EACCES: denied,
        errno.EPERM: denied,
        errno.ENAMETOOLONG: "give it a shorter one",
    }.get(error.errno or 0)
    return f"{error.strerror or error}{where}", mend
