"""Data in a bucket of MinIO or of any other S3 server."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from detloom.errors import PluginError
from detloom.hookspecs import hookimpl
from detloom.specs import SourceSpec

if TYPE_CHECKING:
    from detloom.specs import Source
    from detloom_schemas.base import Settings

detloom_api = (0, 1)


def _settings() -> Settings:
    from detloom_schemas.data_config import MinIODataSource

    return MinIODataSource()


def _build(settings: Any) -> Source:
    try:
        from detloom_integrations.s3.source import S3Source
    except ModuleNotFoundError as error:
        if error.name not in ("minio", "urllib3", "certifi"):
            raise
        raise PluginError(
            f"data in a bucket need the package {error.name}, which is not installed", hint="pip install minio"
        ) from error
    return S3Source(settings)


@hookimpl
def detloom_sources() -> Iterable[SourceSpec]:
    return [SourceSpec(name="s3", summary="a bucket of MinIO or any S3 server", settings=_settings, build=_build)]
