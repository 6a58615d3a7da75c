"""Distance of the sides of boxes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from detloom.hookspecs import hookimpl
from detloom.specs import LossSpec

if TYPE_CHECKING:
    from torch import Tensor

    from detloom.detector import ElementLoss

    from .settings import DistanceSettings

detloom_api = (0, 1)


def l1_settings() -> DistanceSettings:
    from .settings import DistanceSettings

    return DistanceSettings()


def build(chosen: DistanceSettings) -> ElementLoss:
    """(predicted [N, 4], target [N, 4], both xyxy in pixels) -> [N]."""
    scale = chosen.scale_px

    def distance(predicted: Tensor, target: Tensor) -> Tensor:
        return (predicted - target).abs().sum(-1) / scale

    return distance


@hookimpl
def detloom_losses() -> Iterable[LossSpec]:
    return [
        LossSpec(
            name="l1",
            summary="distance of the four sides of boxes",
            role="box",
            settings=l1_settings,
            build=build,
        )
    ]
