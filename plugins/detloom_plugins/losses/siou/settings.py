# ruff: noqa: TID253
"""Settings of the SIoU loss."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from detloom_schemas.base import Settings


class SiouSettings(Settings):
    """SIoU loss."""

    shape_power: Annotated[
        float, Field(ge=2, le=6, description="how little small differences of width and height matter (theta)")
    ] = 4.0
