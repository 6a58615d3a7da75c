"""OpenVINO files, run by OpenVINO. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from detloom.hookspecs import hookimpl
from detloom.specs import RuntimeRequest, RuntimeSpec

if TYPE_CHECKING:
    from detloom_schemas.base import Settings

    from .model import OpenVinoRuntime

detloom_api = (0, 1)


def build(precision: str, settings: Settings, request: RuntimeRequest) -> OpenVinoRuntime:
    from .model import OpenVinoRuntime

    return OpenVinoRuntime(request.path, request.device, precision)


@hookimpl
def detloom_runtimes() -> Iterable[RuntimeSpec]:
    # The first is the one that a file's suffix means. OpenVINO's own default on new processors is bf16, which moves
    # the scores of transformers so far that other boxes win: it has to be asked for.
    return [
        RuntimeSpec(
            name="openvino",
            summary="OpenVINO files (.xml with .bin), computed in 32 bits (needs the extra `openvino`)",
            suffixes=(".xml",),
            build=partial(build, "f32"),
        ),
        RuntimeSpec(
            name="openvino-bf16",
            summary="OpenVINO files computed in bf16, where the processor has it: faster, less exact",
            suffixes=(".xml",),
            build=partial(build, "bf16"),
        ),
    ]
