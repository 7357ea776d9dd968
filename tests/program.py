"""The program as tests start it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path


def command(*arguments: str) -> list[str]:
    """The command line of a real `hptctl` process."""
    return [sys.executable, "-m", "hptctl", *arguments]


def wait_for(path: Path, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, "the command ended too early"
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.02)
