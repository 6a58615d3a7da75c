"""TorchScript files, run by torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from detloom.hookspecs import hookimpl
from detloom.specs import RuntimeRequest, RuntimeSpec

if TYPE_CHECKING:
    from detloom_schemas.base import Settings

    from .module import TorchScriptRuntime

detloom_api = (0, 1)


def build(settings: Settings, request: RuntimeRequest) -> TorchScriptRuntime:
    from .module import TorchScriptRuntime

    return TorchScriptRuntime(request.path, request.device)


@hookimpl
def detloom_runtimes() -> Iterable[RuntimeSpec]:
    return [
        RuntimeSpec(
            name="torchscript",
            summary="TorchScript files (.torchscript), run by torch",
            suffixes=(".torchscript",),
            build=build,
        )
    ]
