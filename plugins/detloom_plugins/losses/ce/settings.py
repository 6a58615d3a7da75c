# ruff: noqa: TID253
"""Settings of the cross-entropy with label smoothing."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from detloom_schemas.base import Settings


class CrossEntropySettings(Settings):
    """Cross-entropy with label smoothing."""

    label_smoothing: Annotated[
        float, Field(ge=0, lt=1, description="share of an object's target that is spread evenly over all classes")
    ] = 0.1
