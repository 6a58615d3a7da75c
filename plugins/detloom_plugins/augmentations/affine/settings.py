# ruff: noqa: TID253
"""Settings of the affine change."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from detloom_schemas.base import Probability, Settings


class RandomAffineSettings(Settings):
    """Scale, translation, rotation and shear about the middle of the picture."""

    prob: Annotated[Probability, Field(description="share of the samples that are changed")] = 1.0
    degrees: Annotated[float, Field(ge=0, le=180, description="rotation: drawn from -x to +x degrees")] = 0.0
    translate: Annotated[float, Field(ge=0, le=1, description="shift: drawn from -x to +x of the picture's sides")] = (
        0.1
    )
    scale_min: Annotated[float, Field(gt=0, le=10, description="smallest factor of size")] = 0.5
    scale_max: Annotated[float, Field(gt=0, le=10, description="largest factor of size")] = 1.5
    shear: Annotated[
        float, Field(ge=0, lt=90, description="shear: drawn from -x to +x degrees, in both directions")
    ] = 0.0
    min_visible: Annotated[
        Probability, Field(description="objects with a smaller share of their box left in the picture are dropped")
    ] = 0.1

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.scale_min > self.scale_max:
            raise ValueError(f"scale_min {self.scale_min} is above scale_max {self.scale_max}")
        return self
