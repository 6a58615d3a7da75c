# ruff: noqa: TID253
"""Settings of the varifocal loss."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from detloom_schemas.base import Settings


class VarifocalSettings(Settings):
    """Varifocal loss."""

    gamma: Annotated[float, Field(ge=0, description="how much easy negatives are damped; 0: not at all")] = 2.0
    alpha: Annotated[float, Field(ge=0, description="weight of negatives against positives")] = 0.75
