"""How much of the machine's processor this process may use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """The cores that this process may run on: fewer than the machine has inside a container or under taskset."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def inference_threads() -> int:
    """For a runtime that runs one network: the usable cores, or fewer when OMP_NUM_THREADS says so."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return min(usable_cores(), max(int(wanted), 1)) if wanted.isdecimal() else usable_cores()
