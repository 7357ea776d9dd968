"""What glibc keeps, counted in page faults of a process of its own: the setting is the whole process's, and stays."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from hpt import freed_memory
if "kept" in sys.argv:
    freed_memory.keep()
piece = b"x"
piece * (8 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    piece * (64 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_memory_that_is_kept_is_faulted_in_once() -> None:
    faults = [int(subprocess.check_output([sys.executable, "-c", FAULTS, word])) for word in ("returned", "kept")]
    assert faults[1] < faults[0] / 10
