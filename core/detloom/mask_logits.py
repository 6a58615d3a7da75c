# ruff: noqa: TID253
"""From mask logits at a network's own resolution to COCO RLE in pixels of the original image."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from detloom.data.masks import RLE, encode_part
from detloom.errors import DetloomError
from detloom.geometry import InputRule

SMALL = 0.04
"""Share of a picture up to which computing an object's surroundings alone is faster (16 ns a pixel against 0.6)."""
LARGEST = 1e4
"""Logits are limited to it: an infinite one between two pixels would make what is not a number."""


def masks_to_image(logits: NDArray[np.float32], rule: InputRule, original: tuple[int, int]) -> tuple[RLE, ...]:
    """logits: float [K, h, w] over the whole network input; a pixel is inside above 0. original: (height, width).

    Bilinear between the centres of pixels, as torch's `interpolate` with align_corners=False; the filling of a
    letterbox is cut away. Raises DetloomError for logits that are not numbers.
    """
    if np.isnan(logits).any():
        raise DetloomError(
            "the model answers with masks that are not numbers",
            hint="its weights have diverged (lower training.lr), or 16 bits are too few for it",
        )
    height, width = rule.content_size(original)
    rows = _axis(original[0], logits.shape[1], height / rule.size[0])
    columns = _axis(original[1], logits.shape[2], width / rule.size[1])
    return tuple(_encode(mask, rows, columns) for mask in np.clip(logits, -LARGEST, LARGEST))


@dataclass(frozen=True, slots=True)
class _Axis:
    """Where the pixels of the original lie between those of the logits. low, high: int64 [n], the neighbours; share:
    float32 [n], of the higher one; at: float64 [n], ascending; step: logits a pixel."""

    step: float
    at: NDArray[np.float64]
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    share: NDArray[np.float32]

    def near(self, positive: NDArray[np.int64]) -> slice:
        """Pixels with a positive neighbour, as one range. positive: places of the logits, at least one, ascending."""
        return slice(
            int(np.searchsorted(self.at, positive[0] - 1, side="right")),
            int(np.searchsorted(self.at, positive[-1] + 1, side="left")),
        )


def _axis(pixels: int, cells: int, filled: float) -> _Axis:
    """filled: share of the logits that the picture takes."""
    step = filled * cells / pixels
    places = (np.arange(pixels) + 0.5) * step - 0.5
    at = np.asarray(np.clip(places, 0, cells - 1), dtype=np.float64)
    low = np.floor(at).astype(np.int64)
    return _Axis(step, at, low, np.minimum(low + 1, cells - 1), (at - low).astype(np.float32))


def _encode(mask: NDArray[np.float32], rows: _Axis, columns: _Axis) -> RLE:
    """mask: [h, w] logits."""
    size = (len(rows.at), len(columns.at))
    positive = mask > 0
    if not positive.any():
        return encode_part(np.zeros((0, 0), dtype=np.bool_), (0, 0), size)
    down, across = rows.near(np.flatnonzero(positive.any(axis=1))), columns.near(np.flatnonzero(positive.any(axis=0)))
    area = (down.stop - down.start) * (across.stop - across.start)
    logits = _part(mask, rows, columns, down, across) if area < SMALL * size[0] * size[1] else None
    if logits is None:
        whole = cv2.resize(mask, None, fx=1 / columns.step, fy=1 / rows.step, interpolation=cv2.INTER_LINEAR)
        logits = np.asarray(whole[down, across], dtype=np.float32)
    return encode_part(logits > 0, (down.start, across.start), size)


def _part(mask: NDArray[np.float32], rows: _Axis, columns: _Axis, down: slice, across: slice) -> NDArray[np.float32]:
    """What cv2.resize would give for the whole picture, for some of it: outside there is no positive neighbour."""
    share = rows.share[down, None]
    tall = mask[rows.low[down]] * (1 - share) + mask[rows.high[down]] * share
    share = columns.share[across]
    return np.asarray(tall[:, columns.low[across]] * (1 - share) + tall[:, columns.high[across]] * share, np.float32)
