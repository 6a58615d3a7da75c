"""Focal loss of class scores (Lin et al. 2017)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from detloom.hookspecs import hookimpl
from detloom.specs import LossSpec

if TYPE_CHECKING:
    from detloom.detector import ElementLoss

    from .settings import FocalSettings

detloom_api = (0, 1)


def focal_settings() -> FocalSettings:
    from .settings import FocalSettings

    return FocalSettings()


def build(chosen: FocalSettings) -> ElementLoss:
    """(logits [N, C], targets [N, C] in 0..1) -> [N, C]."""
    from functools import partial

    from detloom.losses import focal_loss

    return partial(focal_loss, gamma=chosen.gamma, alpha=chosen.alpha, label_smoothing=chosen.label_smoothing)


@hookimpl
def detloom_losses() -> Iterable[LossSpec]:
    return [
        LossSpec(
            name="focal",
            summary="focal loss of class scores: easy examples count less",
            role="classification",
            settings=focal_settings,
            build=build,
        )
    ]
