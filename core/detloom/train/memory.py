# ruff: noqa: TID253
"""How much memory this process has taken."""

from __future__ import annotations

import sys

import torch


def memory_mb(device: torch.device) -> float:
    """Peak memory in MiB: of the GPU's allocator on a GPU, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
