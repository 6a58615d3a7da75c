# ruff: noqa: TID253
"""Settings of the CSV format."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from detloom_schemas.base import Settings


class CSVSettings(Settings):
    """How numbers in a CSV file are meant."""

    unit: Annotated[
        Literal["auto", "pixels", "fractions"],
        Field(
            description="of coordinates; auto: fractions for Open Images, pixels where any number is above 1, and "
            "refused where that cannot be told"
        ),
    ] = "auto"
