# ruff: noqa: TID253
"""Where the anchors of a network input lie."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .network import STRIDES


@dataclass(frozen=True, slots=True)
class Grid:
    """cells: float32 [N, 2], column and row of each anchor's cell; strides: float32 [N, 1], pixels a cell.
    levels: int64 [L, 3], rows, columns and stride of each feature map, in the order of the anchors."""

    cells: Tensor
    strides: Tensor
    levels: Tensor

    @property
    def centres(self) -> Tensor:
        """float32 [N, 2]: x and y of the middle of each cell, in pixels."""
        return (self.cells + 0.5) * self.strides


class GridCache:
    """Grids by size and device. Not a buffer: official checkpoints do not hold them."""

    def __init__(self) -> None:
        self._grids: dict[tuple[int, int, torch.device], Grid] = {}

    def get(self, images: Tensor) -> Grid:
        """images: [B, 3, H, W], H and W multiples of 32."""
        if not _tracing():
            return self._find(images)
        with warnings.catch_warnings():
            # An exported graph is for one size on purpose: the tracer need not warn that the grid is a constant.
            warnings.simplefilter("ignore")
            return self._find(images)

    def _find(self, images: Tensor) -> Grid:
        height, width = int(images.shape[2]), int(images.shape[3])
        key = (height, width, images.device)
        if key not in self._grids:
            self._grids[key] = make_grid(height, width, images.device)
        return self._grids[key]


def _tracing() -> bool:
    # Public, but without types in torch.
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call] # pyright: ignore


def make_grid(height: int, width: int, device: torch.device) -> Grid:
    """height, width: of the network input in pixels."""
    levels = [(height // stride, width // stride, stride) for stride in STRIDES]
    cells = [np.stack(np.meshgrid(np.arange(w), np.arange(h)), axis=-1).reshape(-1, 2) for h, w, _ in levels]
    strides = [np.full((h * w, 1), stride) for h, w, stride in levels]
    # A grid outlives the block that first asks for it; made inside inference mode it could never train.
    with torch.inference_mode(False):
        return Grid(
            torch.from_numpy(np.concatenate(cells).astype(np.float32)).to(device),
            torch.from_numpy(np.concatenate(strides).astype(np.float32)).to(device),
            torch.from_numpy(np.array(levels)).to(device),
        )
