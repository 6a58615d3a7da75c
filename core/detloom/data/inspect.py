"""What is in a dataset: counts, sizes, shares, and what to do next."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from detloom.data.dataset import Dataset, Split

SMALL_PX, LARGE_PX = 32**2, 96**2
"""COCO's limits of small and large objects, by area in pixels."""


@dataclass(frozen=True, slots=True)
class ClassCount:
    """percent: of all objects."""

    id: int
    name: str
    objects: int
    images: int
    percent: float


@dataclass(frozen=True, slots=True)
class Recommendation:
    """resolution: (height, width) of the network input. why: one sentence."""

    model: str
    resolution: tuple[int, int]
    why: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """class_mapping: the data's class id to contiguous index. Splits: name to number of images."""

    name: str
    has_boxes: bool
    has_masks: bool
    has_keypoints: bool
    num_classes: int
    class_mapping: Mapping[int, int]
    num_images: int
    num_annotations: int
    splits: Mapping[str, int]
    classes: tuple[ClassCount, ...]
    recommendation: Recommendation

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON can hold; class ids become text keys."""
        return {**asdict(self), "class_mapping": {str(key): value for key, value in self.class_mapping.items()}}


def inspect_dataset(dataset: Dataset) -> Inspection:
    splits = dataset.splits.values()
    return Inspection(
        name=dataset.name,
        has_boxes=dataset.has_boxes,
        has_masks=dataset.has_masks,
        has_keypoints=dataset.has_keypoints,
        num_classes=len(dataset.class_map),
        class_mapping={class_id: index for index, class_id in enumerate(dataset.class_map.ids)},
        num_images=sum(len(split) for split in splits),
        num_annotations=sum(len(split.labels) for split in splits),
        splits={split.name: len(split) for split in splits},
        classes=_class_counts(dataset),
        recommendation=recommend(dataset),
    )


def statistics(dataset: Dataset) -> dict[str, Any]:
    """JSON-able numbers for run.json, data.json and the report."""
    return {
        "name": dataset.name,
        "digest": dataset.digest,
        "has_boxes": dataset.has_boxes,
        "has_masks": dataset.has_masks,
        "has_keypoints": dataset.has_keypoints,
        "class_map": dataset.class_map.to_list(),
        "classes": [asdict(row) for row in _class_counts(dataset)],
        "splits": {name: _split_statistics(split, dataset) for name, split in dataset.splits.items()},
    }


def recommend(dataset: Dataset) -> Recommendation:
    """A first model and input size: small objects must keep about 12 pixels, few images need a small model."""
    import numpy as np

    splits = list(dataset.splits.values())
    sizes = [(image.height, image.width) for split in splits for image in split.images]
    height, width = (int(side) for side in np.median(np.array(sizes).reshape(-1, 2), axis=0))
    sides = np.concatenate([_sides(split.boxes) for split in splits])
    longest = max(height, width)
    small = float(np.percentile(sides, 10)) if len(sides) else 32.0
    wanted = min(longest, max(longest * 12 / max(small, 1.0), 320.0), 1280.0)
    scale = max(wanted, min(longest, 416)) / longest
    rounded = (_to_32(height * scale), _to_32(width * scale))
    # Nearly square inputs stay square: it costs little, and turned pictures then fit as well.
    resolution = (max(rounded), max(rounded)) if min(rounded) / max(rounded) > 0.7 else rounded
    images = len(dataset.splits.get("train", splits[0]))
    model = "yolox-nano" if images < 1000 else "yolox-s"
    why = (
        f"{images} training images of {width}x{height} px; nine of ten objects are larger than {small:.0f} px, "
        f"about {small * scale:.0f} px at this resolution"
    )
    return Recommendation(model, resolution, why)


def _to_32(value: float) -> int:
    return max(64, math.ceil(value / 32) * 32)


def _sides(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Square roots of the box areas, in pixels."""
    import numpy as np

    return np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def _class_counts(dataset: Dataset) -> tuple[ClassCount, ...]:
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


def _split_statistics(split: Split, dataset: Dataset) -> dict[str, Any]:
    import numpy as np

    counts = np.diff(split.starts)
    widths = np.array([image.width for image in split.images])
    heights = np.array([image.height for image in split.images])
    small, large = int((split.area < SMALL_PX).sum()), int((split.area > LARGE_PX).sum())
    per_class = np.bincount(split.labels, minlength=len(dataset.class_map))
    return {
        "images": len(split),
        "objects": len(split.labels),
        "crowd": int(split.crowd.sum()),
        "masks": sum(rle is not None for rle in split.rles),
        "images_without_objects": int((counts == 0).sum()),
        "objects_per_image": _spread(counts),
        "objects_by_class": dict(zip(dataset.class_map.names, per_class.tolist(), strict=True)),
        "width_px": _spread(widths),
        "height_px": _spread(heights),
        "aspect": _spread(widths / np.maximum(heights, 1)),
        "box_side_px": _spread(_sides(split.boxes)),
        "box_sizes": {"small": small, "medium": len(split.labels) - small - large, "large": large},
    }


def _spread(values: NDArray[Any]) -> dict[str, float]:
    import numpy as np

    if not len(values):
        return {"min": 0.0, "median": 0.0, "mean": 0.0, "max": 0.0}
    return {
        "min": round(float(values.min()), 3),
        "median": round(float(np.median(values)), 3),
        "mean": round(float(values.mean()), 3),
        "max": round(float(values.max()), 3),
    }
