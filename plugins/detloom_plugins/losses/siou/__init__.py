"""SIoU loss of boxes (Gevorgyan 2022, arXiv 2205.12740)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from detloom.hookspecs import hookimpl
from detloom.specs import LossSpec

if TYPE_CHECKING:
    from torch import Tensor

    from detloom.detector import ElementLoss

    from .settings import SiouSettings

detloom_api = (0, 1)


def siou_settings() -> SiouSettings:
    from .settings import SiouSettings

    return SiouSettings()


def build(chosen: SiouSettings) -> ElementLoss:
    """(predicted [N, 4], target [N, 4], both xyxy in pixels) -> [N]."""
    from detloom.boxes import siou

    def siou_loss(predicted: Tensor, target: Tensor) -> Tensor:
        return 1 - siou(predicted, target, chosen.shape_power)

    return siou_loss


@hookimpl
def detloom_losses() -> Iterable[LossSpec]:
    return [
        LossSpec(
            name="siou",
            summary="1 - SIoU of boxes: overlap, distance, direction and shape",
            role="box",
            settings=siou_settings,
            build=build,
        )
    ]
