# ruff: noqa: TID253
"""From a position in a split to a network input and its truth. The loaders and the map-style dataset share this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detloom.data.batch import ImageTarget, planes
from detloom.data.caching import PixelStore
from detloom.data.dataset import ImageInfo, Split
from detloom.data.images import read_image
from detloom.data.masks import RLE, resize_masks
from detloom.errors import DataError, DetloomError, PluginError
from detloom.geometry import InputRule
from detloom.rng import keyed_generator
from detloom.sample import Sample, learnable
from detloom.specs import Transform

if TYPE_CHECKING:
    from detloom.config import ResolvedConfig
    from detloom.host import PluginHost

Key = tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class NamedTransform:
    """name: qualified, part of the key of every random number. extras: other samples that it gets."""

    name: str
    transform: Transform
    extras: int = 0


def build_transforms(config: ResolvedConfig, host: PluginHost) -> list[NamedTransform]:
    """The transforms that the configuration lists, in order."""
    from detloom.specs import AugmentationSpec

    built = []
    for name in config.config.augmentation.transforms:
        spec = host.get(AugmentationSpec, name)
        with host.blamed(spec):
            built.append(NamedTransform(host.qualified(spec), spec.build(config.settings(spec)), spec.extras))
    return built


@dataclass(frozen=True, slots=True)
class SampleReader:
    """Everything random in a sample is a function of (seed, epoch, index, transform): nothing is remembered.

    masks: targets carry them, in the size of the network input. pixels: the pictures of the split, decoded and resized
    before; None: they are read from their files.
    """

    split: Split
    input_rule: InputRule
    transforms: tuple[NamedTransform, ...] = ()
    seed: int = 0
    masks: bool = False
    pixels: PixelStore | None = None

    def read(self, epoch: int, index: int, again: int = 0) -> tuple[Tensor, ImageTarget]:
        """Image uint8 [3, H, W] and target. again: how often the epoch has shown the image before; each time it is
        augmented differently. Raises DataError for a picture, PluginError for a transform."""
        key: Key = (self.seed, epoch, "again", again) if again else (self.seed, epoch)
        sample = tidy(self._at_stage(index, len(self.transforms), key))
        image = planes(self.input_rule.pad(sample.image))
        info = self.split.images[index]
        target = ImageTarget(
            torch.from_numpy(np.ascontiguousarray(sample.boxes, dtype=np.float32)),
            torch.from_numpy(np.ascontiguousarray(sample.labels, dtype=np.int64)),
            index,
            (info.height, info.width),
            info.id,
            None if sample.masks is None else self._pad_masks(sample),
        )
        return image, target

    def untransformed(self, index: int) -> Sample:
        """The picture resized to the network input, with the objects that are trained on (crowds are not)."""
        info = self.split.images[index]
        small = self._resized(info) if self.pixels is None else self.pixels.read(index)
        rows = self.split.objects_of(index)
        wanted = np.flatnonzero(~self.split.crowd[rows]) + rows.start
        return Sample(
            image=small,
            boxes=self.input_rule.boxes_to_input(self.split.boxes[wanted], (info.height, info.width)),
            labels=self.split.labels[wanted],
            canvas=self.input_rule.size,
            pad_value=self.input_rule.pad_value,
            masks=self._masks(wanted.tolist(), small.shape[:2]) if self.masks else None,
        )

    def _resized(self, info: ImageInfo) -> NDArray[np.uint8]:
        image = read_image(info.path)
        if image.shape[:2] != (info.height, info.width):
            raise DataError(
                f"{info.path} has changed since the data were checked: {info.width}x{info.height} then, "
                f"{image.shape[1]}x{image.shape[0]} pixels now",
                hint="run the check again",
            )
        return self.input_rule.resize_image(image)

    def _masks(self, rows: Sequence[int], size: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        """An object without a mask gets an empty one."""
        rles: list[RLE | None] = [self.split.rles[row] for row in rows]
        masks = np.zeros((len(rles), *size), dtype=np.uint8)
        there = [place for place, rle in enumerate(rles) if rle is not None]
        masks[there] = resize_masks([rle for rle in rles if rle is not None], size[0], size[1])
        return masks

    def _at_stage(self, index: int, stage: int, key: Key) -> Sample:
        """The sample after the first `stage` transforms. Extras of a transform have passed all those before it."""
        sample = self.untransformed(index)
        for position, named in enumerate(self.transforms[:stage]):
            # A transform may be listed twice: the second one draws other numbers.
            again = sum(other.name == named.name for other in self.transforms[:position])
            own: Key = (*key, index, named.name, again)
            extras = self._extras(named, position, own)
            try:
                changed = named.transform(sample, keyed_generator(*own), extras)
                _check(changed, sample)
            except DetloomError:
                raise
            except Exception as error:
                where = self.split.images[index].file_name
                raise PluginError(
                    f"the augmentation {named.name} failed on {where}: {type(error).__name__}: {error}",
                    hint="leave it out of augmentation.transforms, or report it to its author",
                ) from error
            sample = changed
        return sample

    def _extras(self, named: NamedTransform, position: int, key: Key) -> list[Sample]:
        if not named.extras:
            return []
        chosen = keyed_generator(*key, "extras").integers(0, len(self.split), named.extras).tolist()
        return [self._at_stage(other, position, (*key, number)) for number, other in enumerate(chosen)]

    def _pad_masks(self, sample: Sample) -> Tensor:
        assert sample.masks is not None
        count, height, width = sample.masks.shape
        padded = torch.zeros(count, *self.input_rule.size, dtype=torch.uint8)
        padded[:, :height, :width] = torch.from_numpy(np.ascontiguousarray(sample.masks))
        return padded


def _check(changed: Sample, before: Sample) -> None:
    """A broken transform is named where it breaks, not where a loss becomes NaN."""
    image, count = changed.image, len(changed.labels)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"the image became {image.dtype} {image.shape}; uint8 [h, w, 3] is expected")
    if image.shape[0] > before.canvas[0] or image.shape[1] > before.canvas[1]:
        raise ValueError(f"the image became {image.shape[:2]}, larger than the network input {before.canvas}")
    if changed.boxes.shape != (count, 4) or not np.isfinite(changed.boxes).all():
        raise ValueError(f"boxes became {changed.boxes.shape} for {count} labels, or are not finite")
    if changed.masks is None and before.masks is not None:
        raise ValueError("the masks are gone; they must follow the picture")
    if changed.masks is not None and changed.masks.shape != (count, *image.shape[:2]):
        raise ValueError(f"masks became {changed.masks.shape} for an image of {image.shape[:2]}")


def tidy(sample: Sample) -> Sample:
    """Boxes clipped to the picture; objects that are hardly there any more dropped."""
    height, width = sample.image.shape[:2]
    limit = np.array([width, height, width, height], dtype=np.float32)
    boxes = np.clip(sample.boxes, 0, limit).astype(np.float32, copy=False)
    return replace(sample, boxes=boxes).with_objects(learnable(boxes))
