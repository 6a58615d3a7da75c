# ruff: noqa: TID253
"""Settings of the distance of the sides of boxes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from detloom_schemas.base import Settings


class DistanceSettings(Settings):
    """Distance of the sides of boxes."""

    scale_px: Annotated[
        float, Field(gt=0, description="pixels of the network input that count as 1, all four sides together")
    ] = 64.0
