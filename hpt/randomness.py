"""Random numbers as a function of what they are for, never of what was drawn before.

A generator is made anew for each (seed, purpose, step), so a resumed run, or one with another number of processes,
draws what the unbroken one would have drawn, with no state to save.
"""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, purpose: str, step: int = 0) -> torch.Generator:
    """A CPU generator that depends on (seed, purpose, step) alone."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{step}".encode(), digest_size=8).digest()
    made = torch.Generator()
    made.manual_seed(int.from_bytes(digest, "little") >> 1)
    return made
