"""CSV: a line for each box, columns found by their names."""

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
    from detloom_plugins.formats.csv.settings import CSVSettings

    return CSVSettings()


def _build(settings: Any) -> Format:
    from detloom_plugins.formats.csv.format import CSVFormat

    return CSVFormat(settings)


@hookimpl
def detloom_formats() -> Iterable[FormatSpec]:
    return [FormatSpec(name="csv", summary="CSV with a header: a box a line", settings=_settings, build=_build)]
