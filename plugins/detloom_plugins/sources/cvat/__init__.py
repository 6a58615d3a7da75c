"""Data from CVAT: tasks, projects and jobs."""

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
    from detloom_schemas.data_config import CVATDataSource

    return CVATDataSource()


def _build(settings: Any) -> Source:
    from detloom_integrations.cvat.source import CVATSource

    return CVATSource(settings)


@hookimpl
def detloom_sources() -> Iterable[SourceSpec]:
    return [SourceSpec(name="cvat", summary="tasks, projects and jobs of CVAT", settings=_settings, build=_build)]
