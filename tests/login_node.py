"""A machine that sends jobs and where PyTorch cannot be imported."""

from __future__ import annotations

import subprocess
from pathlib import Path

from program import checked, command

SETUP = "setup=unset PYTHONPATH"
"""For `--cluster`: jobs find the real PyTorch."""


def without_torch(folder: Path) -> str:
    """The PYTHONPATH of such a machine."""
    folder.mkdir()
    (folder / "torch.py").write_text("raise ImportError('a login node has no PyTorch')\n")
    return str(folder)


def given(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """What a command said there."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command(*words), capture_output=True, text=True, timeout=600)

    return checked(run, *words, code=code)
