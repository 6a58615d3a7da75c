# ruff: noqa: TID253
"""Settings of the matchability-aware loss."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from detloom_schemas.base import Settings


class MatchabilitySettings(Settings):
    """Matchability-aware loss."""

    gamma: Annotated[
        float, Field(ge=0, description="a match learns its overlap to this power; easy negatives are damped by it")
    ] = 1.5
    alpha: Annotated[float | None, Field(ge=0, description="weight of negatives against positives; none: 1")] = None
