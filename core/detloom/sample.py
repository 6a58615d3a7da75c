# ruff: noqa: TID253
"""One training sample on its way through the augmentations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_SIDE_PX = 1.0
"""Objects with a shorter side inside the network input cannot be learned; they are not targets."""
_ROUNDING_PX = 0.01
"""Annotations are rounded: the check of the data takes as much less for one pixel."""


def learnable(boxes: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
    """boxes: [N, 4] xyxy in pixels of the network input. Returns bool [N]: those large enough to be targets."""
    least = MIN_SIDE_PX - _ROUNDING_PX
    return np.asarray((boxes[:, 2] - boxes[:, 0] >= least) & (boxes[:, 3] - boxes[:, 1] >= least), dtype=np.bool_)


@dataclass(slots=True)
class Sample:
    """image: uint8 RGB [h, w, 3], scaled to the network input and not yet padded. boxes: float32 [N, 4] xyxy in its
    pixels; labels: int64 [N]; masks: uint8 [N, h, w] or None. canvas: network input (height, width): no transform may
    return a larger image. pad_value: fills what a transform leaves empty.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    canvas: tuple[int, int]
    pad_value: int = 114
    masks: NDArray[np.uint8] | None = None

    def with_objects(self, keep: NDArray[Any]) -> Sample:
        """The same picture with some of its objects (bool mask or indices)."""
        masks = None if self.masks is None else self.masks[keep]
        return replace(self, boxes=self.boxes[keep], labels=self.labels[keep], masks=masks)
