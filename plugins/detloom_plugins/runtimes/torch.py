"""Checkpoints, run by torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from detloom.hookspecs import hookimpl
from detloom.specs import RuntimeRequest, RuntimeSpec

if TYPE_CHECKING:
    from detloom.deploy import DetectorRuntime
    from detloom_schemas.base import Settings

detloom_api = (0, 1)


def build(settings: Settings, request: RuntimeRequest) -> DetectorRuntime:
    from detloom.deploy import DetectorRuntime
    from detloom.manifest import describe_model
    from detloom.model import load_model

    model = load_model(request.path, request.host)
    return DetectorRuntime(model.detector, request.device, describe_model(model).model_dump())


@hookimpl
def detloom_runtimes() -> Iterable[RuntimeSpec]:
    return [RuntimeSpec(name="torch", summary="checkpoints (.pt), run by torch", suffixes=(".pt",), build=build)]
