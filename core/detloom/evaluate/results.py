"""What an evaluation says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from detloom.counting import counted

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""The 12 COCO numbers in COCO's order."""

IouType = Literal["bbox", "segm"]
SEGM = "segm_"
"""Before the names of numbers that are measured on masks."""


@dataclass(frozen=True, slots=True)
class ClassResult:
    """One class. AP, AP50: None when the class has no truth. truths: objects that are not crowds.

    threshold: the score with the best F1 at IoU 0.5; precision, recall and f1 are measured there, on the matching
    itself (not on the interpolated curve). curve: interpolated precision at the recalls 0.00, 0.01 ... 1.00 and IoU
    0.5, the one whose mean is AP50; empty without truth.
    """

    index: int
    id: int
    name: str
    AP: float | None
    AP50: float | None
    truths: int
    detections: int
    threshold: float
    precision: float
    recall: float
    f1: float
    curve: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """metrics: the COCO numbers in 0..1 under their usual names. A size without any truth is absent (COCO's -1):
    0 would be a verdict about objects that do not exist. Without truth at all the other numbers are 0.

    AR100 (and AP) stand for `max_detections`, which COCO sets to 100, counted as COCO does: an image and class.
    threshold: the one score with the best F1 over all classes; precision, recall, f1: there. segm: the same
    detections judged by their masks, for a model that predicts them and data that have them.
    """

    iou_type: IouType
    metrics: Mapping[str, float]
    per_class: tuple[ClassResult, ...]
    images: int
    truths: int
    detections: int
    max_detections: int
    threshold: float
    precision: float
    recall: float
    f1: float
    segm: Evaluation | None = None

    def all_metrics(self) -> dict[str, float]:
        """The numbers of boxes, and those of masks as `segm_AP`, `segm_AP50`, ..."""
        masks = {} if self.segm is None else {f"{SEGM}{name}": value for name, value in self.segm.metrics.items()}
        return {**self.metrics, **masks}

    def scalars(self, prefix: str, *, per_class: bool = True) -> dict[str, float]:
        """`val` gives `val/AP`, ..., `val/AP/<class>`, and for masks `val/segm_AP`, ..., `val/segm_AP/<class>`: the
        form in which loggers take numbers."""
        values = {f"{prefix}/{name}": value for name, value in self.all_metrics().items()}
        if per_class:
            for kind, one in (("AP", self), (f"{SEGM}AP", self.segm)):
                classes = () if one is None else one.per_class
                values.update({f"{prefix}/{kind}/{c.name}": c.AP for c in classes if c.AP is not None})
        return values

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `evaluation.json` keeps them."""
        return asdict(self)

    def counts(self) -> str:
        """What was compared, for people."""
        pairs = ((self.images, "image"), (self.truths, "object"), (self.detections, "detection"))
        return ", ".join(counted(count, noun) for count, noun in pairs)

    def lines(self) -> list[str]:
        """The 12 numbers for people, in COCO's order; those of masks in a line of their own."""
        numbers = [_shown(one.metrics) for one in (self, self.segm) if one is not None]
        return [self.counts(), *numbers]


def _shown(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {metrics[name]:.3f}" if name in metrics else f"{name} -" for name in METRICS)
