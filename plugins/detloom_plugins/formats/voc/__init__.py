"""Pascal VOC: one xml for each image."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from detloom.hookspecs import hookimpl
from detloom.specs import FormatSpec

if TYPE_CHECKING:
    from detloom.specs import Format
    from detloom_schemas.base import Settings

detloom_api = (0, 1)


def _settings() -> Settings:
    from detloom_plugins.formats.voc.settings import VOCSettings

    return VOCSettings()


def _build(settings: Any) -> Format:
    from detloom_plugins.formats.voc.format import VOCFormat

    return VOCFormat(settings)


@hookimpl
def detloom_formats() -> Iterable[FormatSpec]:
    return [
        FormatSpec(name="voc", summary="Pascal VOC: an xml for each image, boxes", settings=_settings, build=_build)
    ]
