"""What the library `datumaro` reads: KITTI, WIDER Face, LabelMe's xml, MOT, VoTT and many others. Named, never guessed:
data.format=datumaro."""

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
    from detloom_plugins.formats.datumaro.settings import DatumaroSettings

    return DatumaroSettings()


def _build(settings: Any) -> Format:
    from detloom_plugins.formats.datumaro.format import DatumaroFormat

    return DatumaroFormat(settings)


@hookimpl
def detloom_formats() -> Iterable[FormatSpec]:
    summary = "what datumaro reads (KITTI, WIDER Face, MOT, ...); detloom[datumaro]"
    return [FormatSpec(name="datumaro", summary=summary, settings=_settings, build=_build)]
