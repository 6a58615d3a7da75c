"""Matchability-aware loss of class scores, from DEIM (Huang et al. 2024, arXiv 2412.04234)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from detloom.hookspecs import hookimpl
from detloom.specs import LossSpec

if TYPE_CHECKING:
    from detloom.detector import ElementLoss

    from .settings import MatchabilitySettings

detloom_api = (0, 1)


def mal_settings() -> MatchabilitySettings:
    from .settings import MatchabilitySettings

    return MatchabilitySettings()


def build(chosen: MatchabilitySettings) -> ElementLoss:
    """(logits [N, C], overlaps [N, C], 0 where nothing is matched) -> [N, C]."""
    from functools import partial

    from detloom.losses import matchability_loss

    return partial(matchability_loss, gamma=chosen.gamma, alpha=chosen.alpha)


@hookimpl
def detloom_losses() -> Iterable[LossSpec]:
    return [
        LossSpec(
            name="mal",
            summary="matchability-aware loss of class scores: poor matches are pushed down too",
            role="classification",
            settings=mal_settings,
            build=build,
            quality=True,
        )
    ]
