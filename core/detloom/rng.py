# ruff: noqa: TID253
"""Randomness as a function: every random number of the input is keyed, none depends on order, workers or restarts."""

from __future__ import annotations

import hashlib

import numpy as np


def stable_key(*parts: int | str) -> int:
    """A 64-bit integer from the parts; the same on every machine, version and process."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def keyed_generator(*parts: int | str) -> np.random.Generator:
    """A generator for (seed, epoch, index, operation), independent of every other key."""
    return np.random.Generator(np.random.Philox(key=stable_key(*parts)))
