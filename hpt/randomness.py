"""Random numbers that depend on what they are for, never on what was drawn before.

Each (seed, purpose, step) has its own generator. So a run that was interrupted, or one with another number of
processes, draws the same numbers as the unbroken one, and no random state has to be saved.
"""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, purpose: str, step: int = 0) -> torch.Generator:
    """A CPU generator that depends on (seed, purpose, step) alone, such as `(0, "shuffle", 12)`."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{step}".encode(), digest_size=8).digest()
    made = torch.Generator()
    made.manual_seed(int.from_bytes(digest, "little") >> 1)
    return made
