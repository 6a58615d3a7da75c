# ruff: noqa: TID253
"""Settings of the colour change."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from detloom_schemas.base import Probability, Settings


class HSVJitterSettings(Settings):
    """Hue, saturation and brightness; each drawn evenly from -x to +x around no change."""

    prob: Annotated[Probability, Field(description="share of the samples that are changed")] = 1.0
    h: Annotated[float, Field(ge=0, le=0.5, description="hue: largest turn, as a fraction of the colour circle")] = (
        0.015
    )
    s: Annotated[Probability, Field(description="saturation: largest change, as a fraction")] = 0.7
    v: Annotated[Probability, Field(description="brightness: largest change, as a fraction")] = 0.4
