"""LabelMe: one json for each image, with polygons, rectangles, circles and masks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from detloom.hookspecs import hookimpl
from detloom.specs import FormatSpec

if TYPE_CHECKING:
    from detloom.specs import Format

detloom_api = (0, 1)


def _build(settings: Any) -> Format:
    from detloom_plugins.formats.labelme.format import LabelMeFormat

    return LabelMeFormat()


@hookimpl
def detloom_formats() -> Iterable[FormatSpec]:
    return [FormatSpec(name="labelme", summary="LabelMe: a json for each image", build=_build)]
