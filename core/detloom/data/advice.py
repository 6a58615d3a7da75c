"""A first model, input size and settings for a data set, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from detloom.counting import counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from detloom.data.dataset import Dataset, Split
    from detloom.host import PluginHost
    from detloom.specs import ModelSpec

DETECTORS = ("yolox-nano", "yolox-s")
SEGMENTERS = ("rf_detr-seg-nano", "rf_detr-seg-small")
"""For few images and for many; where they are not there, the first model that fits is."""

FEW_IMAGES = 1000
CLEAR_PX = 12
"""Pixels of the network input that the side of a small object should keep."""
LARGEST_INPUT_PX = 1280
LOPSIDED = 10.0
"""A class with so many times as many objects as another one, which is also in few images, calls for balance."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """resolution: (height, width) of the network input. settings: further keys of the configuration. why: one sentence
    on model and size; notes: on the settings, and on what is not trained on."""

    model: str
    resolution: tuple[int, int]
    why: str
    settings: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def recommend(dataset: Dataset, host: PluginHost) -> Recommendation:
    """A model of masks where every object has one; few images need a small model."""
    splits = list(dataset.splits.values())
    train = dataset.splits.get("train", splits[0])
    plain = sum(split.without_masks for split in splits)
    model = _model(host, masks=dataset.has_masks and not plain, small=len(train) < FEW_IMAGES)
    settings, notes = _balance(dataset, train)
    if dataset.has_masks and plain:
        total = sum(int((~split.crowd).sum()) for split in splits)
        notes.append(f"{plain} of {total} objects have no mask: boxes are trained; a model of masks needs one for each")
    elif dataset.has_masks and not model.masks:
        notes.append("no model of masks is there: boxes are trained")
    if dataset.has_keypoints:
        notes.append("keypoints are not trained on: boxes are")
    resolution, why = _resolution(splits, model)
    notes += _unseen(dataset, resolution)
    return Recommendation(
        host.qualified(model), resolution, f"{counted(len(train), 'training image')}{why}", settings, tuple(notes)
    )


def box_sides(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Square roots of the areas, pixels. boxes: [N, 4] xyxy."""
    import numpy as np

    return np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def _model(host: PluginHost, *, masks: bool, small: bool) -> ModelSpec:
    """A configuration names a model, so there is one at least."""
    from detloom.specs import ModelSpec

    specs = host.specs(ModelSpec)
    for names, wanted in ((SEGMENTERS, True), (DETECTORS, False)) if masks else ((DETECTORS, False),):
        preferred = names[0 if small else 1]
        fitting = [spec for spec in specs if spec.masks == wanted]
        if fitting:
            return next((spec for spec in fitting if host.qualified(spec) == preferred), fitting[0])
    return specs[0]


def _resolution(splits: list[Split], model: ModelSpec) -> tuple[tuple[int, int], str]:
    """(height, width), and the rest of the sentence; nine of ten objects keep CLEAR_PX where that is possible."""
    import numpy as np

    sizes = [(image.height, image.width) for split in splits for image in split.images]
    height, width = (int(side) for side in np.median(np.array(sizes).reshape(-1, 2), axis=0))
    sides = np.concatenate([box_sides(split.boxes) for split in splits])
    longest, least = max(height, width), float(model.size_divisor)
    small = float(np.percentile(sides, 10)) if len(sides) else 32.0
    usual = model.recipe.get("training.resolution")
    usual_px = float(usual) if isinstance(usual, int) else 416.0
    wanted = min(longest, max(longest * CLEAR_PX / max(small, 1.0), 320.0), LARGEST_INPUT_PX)
    scale = max(wanted, min(longest, usual_px)) / longest
    rounded = (_up_to(height * scale, least), _up_to(width * scale, least))
    # Nearly square inputs stay square: it costs little, and turned pictures then fit as well.
    resolution = (max(rounded), max(rounded)) if min(rounded) / max(rounded) > 0.7 else rounded
    kept = small * max(resolution) / longest
    of = f" of {width}x{height} px; nine of ten objects are larger than {small:.0f} px, about {kept:.0f} px at this"
    return resolution, f"{of} resolution"


def _unseen(dataset: Dataset, resolution: tuple[int, int]) -> list[str]:
    """What a training at this resolution would warn of as well."""
    from detloom.geometry import InputRule
    from detloom.model_needs import objects_too_small

    return objects_too_small(InputRule(size=resolution), dataset)


def _up_to(value: float, divisor: float) -> int:
    return int(max(math.ceil(64 / divisor), math.ceil(value / divisor)) * divisor)


def _balance(dataset: Dataset, train: Split) -> tuple[dict[str, str], list[str]]:
    """Repeat-factor sampling acts on classes that few images hold; between classes of equal weight it is not needed."""
    import numpy as np

    from detloom_schemas.data_config import DataConfig

    kept = ~train.crowd
    objects = np.bincount(train.labels[kept], minlength=len(dataset.class_map))
    pairs = np.unique(np.stack([train.image_index[kept], train.labels[kept]]), axis=1)
    images = np.bincount(pairs[1], minlength=len(dataset.class_map))
    there = np.flatnonzero(objects)
    if not len(there):
        return {}, []
    rarest, commonest = int(there[np.argmin(images[there])]), int(np.argmax(objects))
    share = images[rarest] / max(len(train), 1)
    if objects[commonest] < LOPSIDED * objects[rarest] or share >= DataConfig().balance_threshold:
        return {}, []
    names = dataset.class_map.names
    note = (
        f"{names[rarest]} is in {share:.1%} of the training images, and {names[commonest]} has "
        f"{objects[commonest] / objects[rarest]:.0f} times as many objects: images with it are shown more often"
    )
    return {"data.balance": "repeat-factor"}, [note]
