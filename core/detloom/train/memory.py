# ruff: noqa: TID253
"""How much memory this process has taken, and how much its tensors take."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


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


class TensorCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While the block runs, adds up the bytes of all tensors that are alive. Exact on every device, and blind for what
    kernels take and give back inside themselves.

    peak: the most since `reset_peak`, in bytes. now: what is alive.
    """

    def __init__(self, held: Iterable[Tensor] = ()) -> None:
        """held: tensors that exist already."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()
        for tensor in held:
            self._note(tensor)

    def reset_peak(self) -> None:
        self.peak = self.now

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf)
        return result

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._known:  # a view, or a result written in place
            return
        self._known.add(storage)
        size = storage.nbytes()
        weakref.finalize(storage, self._release, size).atexit = False
        self.now += size
        self.peak = max(self.peak, self.now)

    def _release(self, size: int) -> None:
        self.now -= size


def free_memory(device: torch.device) -> int | None:
    """Bytes that a training could take on this device now; None where nobody says."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device))
    found = [size for size in (_system_memory(), _container_memory()) if size is not None]
    return min(found) if found else None


def _system_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _container_memory(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a container (cgroup v2) may still take."""
    try:
        limit = (folder / "memory.max").read_text(encoding="ascii").strip()
        used = int((folder / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return max(int(limit) - used, 0) if limit.isdigit() else None
