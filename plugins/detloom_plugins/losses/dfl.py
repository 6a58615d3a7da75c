"""Distribution focal loss of sides that are predicted as distributions over bins (Li et al. 2020)."""

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
    """(logits [N, K], target [N] in 0..K-1) -> [N]."""
    from detloom.losses import distribution_focal_loss

    return distribution_focal_loss


@hookimpl
def detloom_losses() -> Iterable[LossSpec]:
    return [
        LossSpec(
            name="dfl",
            summary="distribution focal loss: cross-entropy with the two bins around the truth",
            role="distribution",
            build=build,
        )
    ]
