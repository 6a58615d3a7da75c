# ruff: noqa: TID253
"""Settings of the formats that datumaro reads."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from detloom_schemas.base import Settings


class DatumaroSettings(Settings):
    """Which of datumaro's formats the data have."""

    reader: Annotated[
        str,
        Field(
            description="datumaro's name of the format, such as kitti or wider_face; auto: as it detects", min_length=1
        ),
    ] = "auto"
