"""TorchScript files: for libtorch in C++ and on phones, without Python."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from detloom.hookspecs import hookimpl
from detloom.specs import ExporterSpec

if TYPE_CHECKING:
    from detloom_schemas.base import Settings

    from .writer import TorchScriptExporter

detloom_api = (0, 1)


def build(settings: Settings) -> TorchScriptExporter:
    from .writer import TorchScriptExporter

    return TorchScriptExporter()


@hookimpl
def detloom_exporters() -> Iterable[ExporterSpec]:
    return [
        ExporterSpec(
            name="torchscript",
            summary="TorchScript, any batch size, 32 bits",
            suffix=".torchscript",
            runtime="torchscript",
            build=build,
            half=False,
        )
    ]
