# ruff: noqa: TID253
"""Multi-scale training: another size of the network input at each step."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from detloom.data.batch import Batch
from detloom.detector import Detector, Targets
from detloom.errors import ConfigError, Mistake
from detloom.rng import keyed_generator


@dataclasses.dataclass(frozen=True, slots=True)
class ScalePlan:
    """sizes: the (height, width) to draw from, each as likely as any other."""

    sizes: tuple[tuple[int, int], ...]
    seed: int

    def size_at(self, step: int) -> tuple[int, int]:
        """A function of (seed, step): all micro-batches of a step have one size, and a resumed run has the same."""
        return self.sizes[int(keyed_generator(self.seed, step, "scale").integers(len(self.sizes)))]


def scale_sizes(
    size: tuple[int, int], divisor: int, smallest: int | None = None, largest: int | None = None
) -> tuple[tuple[int, int], ...]:
    """Sizes (height, width) whose sides are multiples of `divisor`, from small to large; `size` is one of them.

    smallest, largest: of the shorter side in pixels; None: 0.75 and 1.25 times that of `size`. The longer side takes
    the multiple that is nearest to the ratio of `size`.
    """
    short, long = min(size), max(size)
    first = -(-(smallest or round(0.75 * short)) // divisor)
    last = (largest or round(1.25 * short)) // divisor
    found = {(short, long)}
    for count in range(first, last + 1):
        side = count * divisor
        found.add((side, max(round(side * long / short / divisor), 1) * divisor))
    upright = size[0] > size[1]
    return tuple((b, a) if upright else (a, b) for a, b in sorted(found))


def check_sizes(detector: Detector, sizes: Sequence[tuple[int, int]]) -> None:
    """sizes: as `scale_sizes` gives them. Raises ConfigError, with the nearest limit that is legal, when the detector
    cannot be trained at one of them."""
    own = min(detector.input_rule.size)
    refused = {size: why for size in sizes if (why := detector.check_size(size))}
    small, large = [size for size in refused if min(size) < own], [size for size in refused if min(size) > own]
    mistakes: list[Mistake] = []
    if small:
        least = min(min(size) for size in sizes if min(size) > max(map(min, small)))
        message = f"{_named(small)} cannot be trained at: {refused[small[-1]]}"
        mistakes.append(Mistake("training.scale_min", "", message, f"the smallest that can is {least}"))
    if large:
        most = max(min(size) for size in sizes if min(size) < min(map(min, large)))
        message = f"{_named(large)} cannot be trained at: {refused[large[0]]}"
        mistakes.append(Mistake("training.scale_max", "", message, f"the largest that can is {most}"))
    if mistakes:
        raise ConfigError(mistakes)


def _named(sizes: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{height}x{width}" for height, width in sizes)


def scaled_batch(batch: Batch, size: tuple[int, int]) -> Batch:
    """The batch at another size of the network input; boxes and masks go with the pixels."""
    height, width = batch.images.shape[-2:]
    if (height, width) == size:
        return batch
    y, x = size[0] / height, size[1] / width
    boxes = batch.targets.boxes * batch.targets.boxes.new_tensor([x, y, x, y])
    targets = Targets(boxes, batch.targets.labels, _scaled_masks(batch.targets.masks, size))
    return dataclasses.replace(batch, images=_scaled_images(batch.images, size), targets=targets)


def _scaled_images(images: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 [B, 3, H, W]; averaged over the pixels that become one where it shrinks."""
    smaller = size[0] < images.shape[-2]
    scaled = F.interpolate(images.float(), size, mode="bilinear", align_corners=False, antialias=smaller)
    return scaled.round_().clamp_(0, 255).to(torch.uint8)


def _scaled_masks(masks: Tensor | None, size: tuple[int, int]) -> Tensor | None:
    return None if masks is None else F.interpolate(masks, size, mode="nearest-exact")
