"""Data on this machine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from detloom.hookspecs import hookimpl
from detloom.specs import SourceSpec

if TYPE_CHECKING:
    from detloom.specs import Source
    from detloom_schemas.base import Settings

detloom_api = (0, 1)


def _settings() -> Settings:
    from detloom_schemas.data_config import LocalDataSource

    return LocalDataSource()


def _build(settings: Any) -> Source:
    from detloom_plugins.sources.local.source import LocalSource

    return LocalSource(settings)


@hookimpl
def detloom_sources() -> Iterable[SourceSpec]:
    summary = "a folder, an annotation file or an archive on this machine"
    return [SourceSpec(name="local", summary=summary, settings=_settings, build=_build)]
