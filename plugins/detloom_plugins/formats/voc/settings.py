# ruff: noqa: TID253
"""Settings of the Pascal VOC format."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from detloom_schemas.base import Settings


class VOCSettings(Settings):
    """How boxes in Pascal VOC files are meant."""

    pixels: Annotated[
        Literal["auto", "corners", "from-one"],
        Field(
            description="corners: xmin to xmax as LabelImg, CVAT and Roboflow write them, from 0; from-one: as the "
            "VOC challenges, counted from 1 with the last pixel included; auto: from-one where <source> names a "
            "PASCAL VOC challenge, else corners"
        ),
    ] = "auto"
    difficult: Annotated[
        Literal["ignore", "keep"],
        Field(description="difficult objects: like crowds, neither trained on nor counted as missed; or as any other"),
    ] = "ignore"
