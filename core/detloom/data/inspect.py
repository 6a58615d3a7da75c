"""What is in a dataset: counts, sizes, shares, and what to do next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from detloom.data.advice import Recommendation, box_sides, recommend

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from detloom.data.dataset import Dataset, Split
    from detloom.host import PluginHost

SMALL_PX, LARGE_PX = 32**2, 96**2
"""COCO's limits of small and large objects, by area in pixels."""

SIZES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class ClassCount:
    """percent: of all objects."""

    id: int
    name: str
    objects: int
    images: int
    percent: float


@dataclass(frozen=True, slots=True)
class Spread:
    min: float = 0.0
    median: float = 0.0
    mean: float = 0.0
    max: float = 0.0


@dataclass(frozen=True, slots=True)
class Numbers:
    """Of one split, or of all. masks: objects with one; crowd: objects that are neither trained on nor counted as
    missed. image_sizes: the most frequent, `width x height` to images; aspect: width by height. box_side_px: square
    root of the area; small, medium, large: objects by COCO's limits (32 and 96 pixels squared)."""

    images: int
    images_without_objects: int
    objects: int
    masks: int
    crowd: int
    image_sizes: Mapping[str, int]
    width_px: Spread
    height_px: Spread
    aspect: Spread
    objects_per_image: Spread
    box_side_px: Spread
    small: int
    medium: int
    large: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """class_mapping: the data's class id to contiguous index. splits: name to number of images. imbalance: how many
    times as many objects the most frequent class has as the rarest that has any. has_masks: some objects have one;
    without_masks: objects, crowds apart, that have none."""

    name: str
    has_boxes: bool
    has_masks: bool
    has_keypoints: bool
    num_classes: int
    class_mapping: Mapping[int, int]
    num_images: int
    num_annotations: int
    without_masks: int
    splits: Mapping[str, int]
    classes: tuple[ClassCount, ...]
    imbalance: float
    whole: Numbers
    by_split: Mapping[str, Numbers]
    recommendation: Recommendation

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON can hold; class ids become text keys."""
        return {**asdict(self), "class_mapping": {str(key): value for key, value in self.class_mapping.items()}}


def inspect_dataset(dataset: Dataset, host: PluginHost) -> Inspection:
    """host: whose models are recommended."""
    splits = list(dataset.splits.values())
    classes = class_counts(dataset)
    counts = [row.objects for row in classes if row.objects]
    return Inspection(
        name=dataset.name,
        has_boxes=dataset.has_boxes,
        has_masks=dataset.has_masks,
        has_keypoints=dataset.has_keypoints,
        num_classes=len(dataset.class_map),
        class_mapping={class_id: index for index, class_id in enumerate(dataset.class_map.ids)},
        num_images=sum(len(split) for split in splits),
        num_annotations=sum(len(split.labels) for split in splits),
        without_masks=sum(split.without_masks for split in splits),
        splits={split.name: len(split) for split in splits},
        classes=classes,
        imbalance=round(max(counts) / min(counts), 2) if counts else 1.0,
        whole=_numbers(splits),
        by_split={split.name: _numbers([split]) for split in splits},
        recommendation=recommend(dataset, host),
    )


def class_counts(dataset: Dataset) -> tuple[ClassCount, ...]:
    import numpy as np

    classes = len(dataset.class_map)
    objects, images = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    for split in dataset.splits.values():
        objects += np.bincount(split.labels, minlength=classes)
        pairs = np.unique(np.stack([split.image_index, split.labels]), axis=1)
        images += np.bincount(pairs[1], minlength=classes)
    total = max(int(objects.sum()), 1)
    return tuple(
        ClassCount(class_id, name, int(objects[i]), int(images[i]), round(100 * int(objects[i]) / total, 2))
        for i, (class_id, name) in enumerate(zip(dataset.class_map.ids, dataset.class_map.names, strict=True))
    )


def _numbers(splits: Sequence[Split]) -> Numbers:
    import numpy as np

    images = [image for split in splits for image in split.images]
    counts = np.concatenate([np.diff(split.starts) for split in splits])
    widths, heights = (np.array([getattr(image, side) for image in images]) for side in ("width", "height"))
    area = np.concatenate([split.area for split in splits])
    small, large = int((area < SMALL_PX).sum()), int((area > LARGE_PX).sum())
    return Numbers(
        images=len(images),
        images_without_objects=int((counts == 0).sum()),
        objects=len(area),
        masks=sum(rle is not None for split in splits for rle in split.rles),
        crowd=sum(int(split.crowd.sum()) for split in splits),
        image_sizes=dict(Counter(f"{image.width}x{image.height}" for image in images).most_common(SIZES_SHOWN)),
        width_px=_spread(widths),
        height_px=_spread(heights),
        aspect=_spread(widths / np.maximum(heights, 1)),
        objects_per_image=_spread(counts),
        box_side_px=_spread(box_sides(np.concatenate([split.boxes for split in splits]))),
        small=small,
        medium=len(area) - small - large,
        large=large,
    )


def _spread(values: NDArray[np.number[Any]]) -> Spread:
    import numpy as np

    if not len(values):
        return Spread()
    every = (values.min(), np.median(values), values.mean(), values.max())
    return Spread(*(round(float(value), 3) for value in every))
