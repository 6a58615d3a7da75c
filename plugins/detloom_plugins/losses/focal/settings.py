# ruff: noqa: TID253
"""Settings of the focal loss."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from detloom_schemas.base import Settings


class FocalSettings(Settings):
    """Focal loss."""

    gamma: Annotated[float, Field(ge=0, description="how much easy examples are damped; 0: not at all")] = 2.0
    alpha: Annotated[
        float | None, Field(ge=0, le=1, description="weight of positives against negatives; none: both 1")
    ] = 0.25
    label_smoothing: Annotated[float, Field(ge=0, lt=1, description="targets move by this share towards 0.5")] = 0.0
