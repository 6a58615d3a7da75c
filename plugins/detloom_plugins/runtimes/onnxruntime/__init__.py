"""ONNX files, run by onnxruntime. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from detloom.hookspecs import hookimpl
from detloom.specs import RuntimeRequest, RuntimeSpec

if TYPE_CHECKING:
    from detloom_schemas.base import Settings

    from .session import OnnxRuntime

detloom_api = (0, 1)


def build(settings: Settings, request: RuntimeRequest) -> OnnxRuntime:
    from .session import OnnxRuntime

    return OnnxRuntime(request.path, request.device)


@hookimpl
def detloom_runtimes() -> Iterable[RuntimeSpec]:
    return [
        RuntimeSpec(
            name="onnxruntime",
            summary="ONNX files (.onnx) on CPU or CUDA (needs the extra `onnx`)",
            suffixes=(".onnx",),
            build=build,
        )
    ]
