# ruff: noqa: TID253
"""Settings of the vertical flip."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from detloom_schemas.base import Probability, Settings


class VerticalFlipSettings(Settings):
    """Mirror top to bottom."""

    prob: Annotated[Probability, Field(description="share of the samples that are mirrored top to bottom")] = 0.5
