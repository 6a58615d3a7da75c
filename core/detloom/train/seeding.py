# ruff: noqa: TID253
"""Torch's own random numbers (dropout, denoising), made a function of (seed, step, micro-batch)."""

from __future__ import annotations

import torch

from detloom.rng import stable_key

_MASK = (1 << 63) - 1


def seed_torch(*parts: int | str) -> None:
    """Seed every torch generator of this process from the parts."""
    seed = stable_key(*parts) & _MASK
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)
