"""ONNX files: for onnxruntime, and what most other runtimes convert from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from detloom.hookspecs import hookimpl
from detloom.specs import ExporterSpec

if TYPE_CHECKING:
    from .settings import OnnxSettings
    from .writer import OnnxExporter

detloom_api = (0, 1)


def onnx_settings() -> OnnxSettings:
    from .settings import OnnxSettings

    return OnnxSettings()


def build(chosen: OnnxSettings) -> OnnxExporter:
    from .writer import OnnxExporter

    return OnnxExporter(chosen)


@hookimpl
def detloom_exporters() -> Iterable[ExporterSpec]:
    return [
        ExporterSpec(
            name="onnx",
            summary="ONNX, any batch size, 32 or 16 bits (needs the extra `onnx`)",
            settings=onnx_settings,
            suffix=".onnx",
            runtime="onnxruntime",
            finishes=True,
            build=build,
        )
    ]
