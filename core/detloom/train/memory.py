# ruff: noqa: TID253
"""How much memory this process has taken, and how much its tensors take."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable
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


class TensorCounter(TorchDispatchMode):
    """While the block runs, adds up the bytes of all tensors that are alive. Exact on every device, and blind for what
    kernels take and give back inside themselves.

    peak: the most since `reset_peak`, in bytes. now: what is alive.
    """

    def __init__(self, held: Iterable[Tensor] = ()) -> None:
        """held: tensors that exist already."""
        super().__init__()
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
