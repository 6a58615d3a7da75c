# ruff: noqa: TID253
"""Settings of the cross-entropy aware of overlaps."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from detloom_schemas.base import Settings


class OverlapBceSettings(Settings):
    """Cross-entropy aware of overlaps."""

    gamma: Annotated[float, Field(ge=0, description="how much easy negatives are damped; 0: not at all")] = 2.0
    alpha: Annotated[
        float, Field(ge=0, le=1, description="share of its own score in what a match learns, the rest is its overlap")
    ] = 0.25
