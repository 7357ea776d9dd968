"""Jobs are sent from this process, as a command sends them from its own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """What a command leaves in its environment for the jobs of this machine goes with it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
