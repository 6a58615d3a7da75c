"""COCO annotation files: also in the layout of Roboflow, and one json for everything."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from detloom.hookspecs import hookimpl
from detloom.specs import FormatSpec

if TYPE_CHECKING:
    from detloom.specs import Format

detloom_api = (0, 1)


def _build(settings: Any) -> Format:
    from detloom_plugins.formats.coco.format import COCOFormat

    return COCOFormat()


@hookimpl
def detloom_formats() -> Iterable[FormatSpec]:
    return [FormatSpec(name="coco", summary="COCO json: boxes, polygons, RLE, crowds", build=_build)]
