"""IoU loss of boxes: 1 - IoU^2, as YOLOX trains with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from detloom.hookspecs import hookimpl
from detloom.specs import LossSpec

if TYPE_CHECKING:
    from torch import Tensor

    from detloom.detector import ElementLoss
    from detloom_schemas.base import Settings

detloom_api = (0, 1)


def build(settings: Settings) -> ElementLoss:
    """(predicted [N, 4], target [N, 4], both xyxy in pixels) -> [N]."""
    from detloom.boxes import iou

    def iou_loss(predicted: Tensor, target: Tensor) -> Tensor:
        return 1 - iou(predicted, target).square()

    return iou_loss


@hookimpl
def detloom_losses() -> Iterable[LossSpec]:
    return [LossSpec(name="iou", summary="1 - IoU^2 of boxes, the original of YOLOX", role="box", build=build)]
