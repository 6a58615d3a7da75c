# ruff: noqa: TID253
"""Settings of the ONNX exporter."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from detloom_schemas.base import Settings


class OnnxSettings(Settings):
    """ONNX files."""

    opset: Annotated[
        int, Field(ge=13, le=20, description="version of the operator set; older runtimes want older ones")
    ] = 17
    dynamic_batch: Annotated[
        bool, Field(description="take any number of images at once; false: exactly one, as some converters want")
    ] = True
