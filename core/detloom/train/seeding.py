# ruff: noqa: TID253
"""Torch's own random numbers (dropout, denoising), made a function of (seed, step, micro-batch)."""

from __future__ import annotations

import torch

from detloom.rng import stable_key

_MASK = (1 << 63) - 1


def seed_torch(*parts: int | str, device: torch.device | None = None) -> None:
    """Seed the generators of the processor and of the device (None: of every device) from the parts."""
    seed = stable_key(*parts) & _MASK
    torch.default_generator.manual_seed(seed)
    if device is None and torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)
    elif device is not None and device.type == "cuda":
        torch.cuda.manual_seed(seed)
