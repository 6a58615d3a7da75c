"""OpenVINO files: for Intel processors, their graphics and neural units."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from detloom.hookspecs import hookimpl
from detloom.specs import ExporterSpec

if TYPE_CHECKING:
    from detloom_schemas.base import Settings

    from .writer import OpenVinoExporter

detloom_api = (0, 1)


def build(settings: Settings) -> OpenVinoExporter:
    from .writer import OpenVinoExporter

    return OpenVinoExporter()


@hookimpl
def detloom_exporters() -> Iterable[ExporterSpec]:
    return [
        ExporterSpec(
            name="openvino",
            summary="OpenVINO (.xml with its .bin), any batch size, 32 or 16 bits (needs the extra `openvino`)",
            suffix=".xml",
            companions=(".bin",),
            runtime="openvino",
            finishes=True,
            build=build,
        )
    ]
