"""What a model asks of the configuration and of the data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detloom.counting import counted
from detloom.data.dataset import Dataset, Split
from detloom.errors import ConfigError, DataError, Mistake, PluginError
from detloom.sample import MIN_SIDE_PX, learnable
from detloom.specs import ModelSpec

if TYPE_CHECKING:
    from detloom.detector import Detector
    from detloom.geometry import InputRule
    from detloom.host import PluginHost

SHOWN = 5


def check_metric(metric: str, spec: ModelSpec, host: PluginHost) -> None:
    """Raises ConfigError when checkpoints are to be chosen by masks that the model does not predict."""
    if spec.masks or not metric.startswith("segm_"):
        return
    names = [other.name for other in host.specs(ModelSpec) if other.masks]
    with_masks = f"choose a model that does ({', '.join(names)}), or " if names else ""
    raise ConfigError(
        [
            Mistake(
                "validation.save_best_metric",
                "",
                f"{metric} is measured on masks, and {spec.name} predicts none",
                f"{with_masks}use {metric.removeprefix('segm_')}",
            )
        ]
    )


def check_masks(spec: ModelSpec, dataset: Dataset) -> None:
    """Raises DataError when a model of masks is to learn from objects that have none."""
    if not spec.masks:
        return
    lacking = {name: split.without_masks for name, split in dataset.splits.items()}
    if not any(lacking.values()):
        return
    counts = ", ".join(
        f"{count} of {int((~dataset.splits[name].crowd).sum())} in {name}" for name, count in lacking.items() if count
    )
    raise DataError(
        f"{spec.name} learns masks, and objects of {dataset.name} have none: {counts}{_places(dataset)}",
        hint="give each of them a segmentation (`detloom check` says what the data hold), or train a model of boxes",
    )


def _places(dataset: Dataset) -> str:
    """The first images that hold such objects."""
    found: dict[str, None] = {}
    for split in dataset.splits.values():
        for row, (rle, crowd) in enumerate(zip(split.rles, split.crowd.tolist(), strict=True)):
            if rle is None and not crowd:
                found[split.images[int(split.image_index[row])].file_name] = None
    more = f" and {len(found) - SHOWN} more images" if len(found) > SHOWN else ""
    return f" (in {', '.join(list(found)[:SHOWN])}{more})"


def check_detector(detector: Detector, spec: ModelSpec) -> None:
    """Raises PluginError when a model is not what its specification says."""
    if detector.masks != spec.masks:
        raise PluginError(
            f"{spec.name} states masks={spec.masks} in its specification, and masks={detector.masks} in its detector",
            hint="report this to its author: `ModelSpec.masks` and `Detector.masks` must agree",
        )


def check_sizes(rule: InputRule, dataset: Dataset) -> None:
    """Raises DataError when no object of the training split is large enough to be learned at this resolution."""
    split = dataset.splits["train"]
    objects = int((~split.crowd).sum())
    if objects and too_small(split, rule) == objects:
        raise DataError(
            f"at {rule.size[0]}x{rule.size[1]} none of the {counted(objects, 'object')} of train is {MIN_SIDE_PX:g} "
            "pixel wide and high: there is nothing to learn",
            hint="raise training.resolution, or cut the pictures into smaller ones",
        )


def objects_too_small(rule: InputRule, dataset: Dataset) -> list[str]:
    """A warning for each split with objects that are too small to be seen at this resolution."""
    warnings = []
    for name, split in dataset.splits.items():
        objects, small = int((~split.crowd).sum()), too_small(split, rule)
        if small:
            became = "are not trained on" if name == "train" else "are hardly found"
            warnings.append(
                f"{small} of {counted(objects, 'object')} of {name} ({small / objects:.1%}) have a side below "
                f"{MIN_SIDE_PX:g} pixel at {rule.size[0]}x{rule.size[1]} and {became}: raise training.resolution"
            )
    return warnings


def too_small(split: Split, rule: InputRule) -> int:
    """How many objects, crowds aside, are not learnable inside the network input."""
    boxes = split.boxes.copy()
    for index, image in enumerate(split.images):
        rows = split.objects_of(index)
        boxes[rows] = rule.boxes_to_input(boxes[rows], (image.height, image.width))
    return int((~learnable(boxes) & ~split.crowd).sum())


def too_many_objects(detector: Detector, dataset: Dataset) -> list[str]:
    """A warning for each split with images that hold more objects than the model can find in one."""
    most = detector.most_objects
    if most is None:
        return []
    warnings = []
    for name, split in dataset.splits.items():
        rows = [split.objects_of(position) for position in range(len(split))]
        counts = [row.stop - row.start for row in rows]
        over = sum(count > most for count in counts)
        if over:
            warnings.append(
                f"{over} images of {name} hold more objects (up to {max(counts)}) than the {most} queries of the model "
                "can find: raise num_queries"
            )
    return warnings
