# ruff: noqa: TID253
"""Settings of the horizontal flip."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from detloom_schemas.base import Probability, Settings


class HorizontalFlipSettings(Settings):
    """Mirror left to right."""

    prob: Annotated[Probability, Field(description="share of the samples that are mirrored left to right")] = 0.5
