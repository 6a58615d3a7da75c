"""Varifocal loss of class scores (Zhang et al. 2020, arXiv 2008.13367), in the form of RT-DETR."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from detloom.hookspecs import hookimpl
from detloom.specs import LossSpec

if TYPE_CHECKING:
    from detloom.detector import ElementLoss

    from .settings import VarifocalSettings

detloom_api = (0, 1)


def varifocal_settings() -> VarifocalSettings:
    from .settings import VarifocalSettings

    return VarifocalSettings()


def build(chosen: VarifocalSettings) -> ElementLoss:
    """(logits [N, C], overlaps [N, C], 0 where nothing is matched) -> [N, C]."""
    from functools import partial

    from detloom.losses import varifocal_loss

    return partial(varifocal_loss, gamma=chosen.gamma, alpha=chosen.alpha)


@hookimpl
def detloom_losses() -> Iterable[LossSpec]:
    return [
        LossSpec(
            name="varifocal",
            summary="varifocal loss of class scores: a score learns how well its box fits",
            role="classification",
            settings=varifocal_settings,
            build=build,
            quality=True,
        )
    ]
