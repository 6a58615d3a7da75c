"""What a model asks of the configuration and of the data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detloom.data.dataset import Dataset
from detloom.errors import ConfigError, DataError, Mistake, PluginError
from detloom.specs import ModelSpec

if TYPE_CHECKING:
    from detloom.detector import Detector
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
