"""CVAT XML 1.1: images with boxes, polygons and masks, and tracks of videos."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from detloom.hookspecs import hookimpl
from detloom.specs import FormatSpec

if TYPE_CHECKING:
    from detloom.specs import Format

detloom_api = (0, 1)


def _build(settings: Any) -> Format:
    from detloom_plugins.formats.cvat_xml.format import CVATFormat

    return CVATFormat()


@hookimpl
def detloom_formats() -> Iterable[FormatSpec]:
    return [FormatSpec(name="cvat-xml", summary="CVAT XML 1.1: boxes, polygons, masks, tracks", build=_build)]
