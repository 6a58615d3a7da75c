"""A source: a zip file, unpacked once."""

import hashlib
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import detloom


def settings():
    from typing import Annotated

    from pydantic import Field

    class ZipSettings(detloom.Settings):
        """A zip file."""

        path: Annotated[str, Field(description="the zip file")] = ""

    return ZipSettings()


class ZipSource:
    def __init__(self, settings):
        self.path = Path(settings.path)

    def plan(self):
        if not zipfile.is_zipfile(self.path):
            raise detloom.DataError(f"{self.path} is no zip file", hint="name one in data.plugins.zip.path")
        return detloom.SourcePlan(str(self.path), hashlib.sha256(self.path.read_bytes()).hexdigest())

    def fetch(self, plan, dest, context):
        if not dest.is_dir():
            dest.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=dest.parent) as part, zipfile.ZipFile(self.path) as archive:
                for name in archive.namelist():
                    if not (Path(part) / name).resolve().is_relative_to(Path(part).resolve()):
                        raise detloom.DataError(f"{self.path}: the member {name!r} leads out of the archive")
                archive.extractall(Path(part) / "data")
                (Path(part) / "data").rename(dest)
        return detloom.DataTree(dest, name=self.path.stem)


@detloom.hookimpl
def detloom_sources():
    yield detloom.SourceSpec(name="zip", summary="a zip file", settings=settings, build=ZipSource)
