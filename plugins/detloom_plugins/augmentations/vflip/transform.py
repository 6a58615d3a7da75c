# ruff: noqa: TID253
"""Mirror top to bottom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from detloom.sample import Sample
    from detloom_plugins.augmentations.vflip.settings import VerticalFlipSettings


class VerticalFlip:
    def __init__(self, settings: VerticalFlipSettings) -> None:
        self._prob = settings.prob

    def __call__(self, sample: Sample, rng: np.random.Generator, extras: Sequence[Sample]) -> Sample:
        if rng.random() >= self._prob:
            return sample
        boxes = sample.boxes.copy()
        boxes[:, [1, 3]] = sample.image.shape[0] - sample.boxes[:, [3, 1]]
        masks = None if sample.masks is None else sample.masks[:, ::-1]
        image = np.asarray(cv2.flip(sample.image, 0), dtype=np.uint8)
        return replace(sample, image=image, boxes=boxes, masks=masks)
