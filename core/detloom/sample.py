# ruff: noqa: TID253
"""One training sample on its way through the augmentations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray


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
