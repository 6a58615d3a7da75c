"""Cross-entropy aware of overlaps, as LW-DETR and RF-DETR train with (arXiv 2303.10340)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from detloom.hookspecs import hookimpl
from detloom.specs import LossSpec

if TYPE_CHECKING:
    from detloom.detector import ElementLoss

    from .settings import OverlapBceSettings

detloom_api = (0, 1)


def ia_bce_settings() -> OverlapBceSettings:
    from .settings import OverlapBceSettings

    return OverlapBceSettings()


def build(chosen: OverlapBceSettings) -> ElementLoss:
    """(logits [N, C], overlaps [N, C], 0 where nothing is matched) -> [N, C]."""
    from functools import partial

    from detloom.losses import iou_aware_bce

    return partial(iou_aware_bce, gamma=chosen.gamma, alpha=chosen.alpha)


@hookimpl
def detloom_losses() -> Iterable[LossSpec]:
    return [
        LossSpec(
            name="ia_bce",
            summary="cross-entropy of class scores whose target lies between score and overlap",
            role="classification",
            settings=ia_bce_settings,
            build=build,
            quality=True,
        )
    ]
