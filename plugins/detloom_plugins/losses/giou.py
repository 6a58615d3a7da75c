"""Generalised IoU loss of boxes (Rezatofighi et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from detloom.hookspecs import hookimpl
from detloom.specs import LossSpec

if TYPE_CHECKING:
    from detloom.detector import ElementLoss
    from detloom_schemas.base import Settings

detloom_api = (0, 1)


def build(settings: Settings) -> ElementLoss:
    """(predicted [N, 4], target [N, 4], both xyxy in pixels) -> [N]."""
    from functools import partial

    from detloom.losses import box_loss

    return partial(box_loss, iou_type="giou")


@hookimpl
def detloom_losses() -> Iterable[LossSpec]:
    return [
        LossSpec(
            name="giou", summary="1 - GIoU of boxes: also pulls boxes that do not overlap", role="box", build=build
        )
    ]
