"""YOLO label files: boxes and polygons, with `data.yaml`, Darknet's files or folders alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from detloom.hookspecs import hookimpl
from detloom.specs import FormatSpec

if TYPE_CHECKING:
    from detloom.specs import Format

detloom_api = (0, 1)


def _build(settings: Any) -> Format:
    from detloom_plugins.formats.yolo.format import YOLOFormat

    return YOLOFormat()


@hookimpl
def detloom_formats() -> Iterable[FormatSpec]:
    return [FormatSpec(name="yolo", summary="YOLO label files: boxes, polygons; data.yaml", build=_build)]
