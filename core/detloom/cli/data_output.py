"""Data sets that commands write: a new folder, whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from detloom.errors import DetloomError, UsageError

if TYPE_CHECKING:
    from detloom.config import ResolvedConfig
    from detloom.data.dataset import Dataset
    from detloom.host import PluginHost
    from detloom.specs import WritableFormat


def refuse_used(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists and is not an empty folder", hint="name a new folder")


def refuse_nested(out: Path, config: ResolvedConfig) -> None:
    """Raises UsageError when what is to be written would become a part of the data that are read, or hold them."""
    from detloom.data.fetch import chosen_sources
    from detloom_schemas.data_config import LocalDataSource

    for element in chosen_sources(config):
        if not isinstance(element.settings, LocalDataSource) or not element.settings.path:
            continue
        place = Path(element.settings.path).expanduser()
        data, target = place.resolve(), out.resolve()
        if place.is_dir() and (target.is_relative_to(data) or data.is_relative_to(target)):
            lies, in_ = (out, place) if target.is_relative_to(data) else (place, out)
            raise UsageError(
                f"{lies} lies inside of {in_}: the data would be mixed with what is made of them",
                hint="name a new folder beside the data",
            )


def writer_of(host: PluginHost, name: str, flag: str) -> WritableFormat:
    from detloom.specs import FormatSpec, WritableFormat

    spec = host.get(FormatSpec, name)
    built = spec.build(spec.settings())
    if not isinstance(built, WritableFormat):
        every = [(other, other.build(other.settings())) for other in host.specs(FormatSpec)]
        names = ", ".join(host.qualified(other) for other, made in every if isinstance(made, WritableFormat))
        raise UsageError(f"the format {name} cannot be written", hint=f"choose another with {flag}: {names}")
    return built


class Writer(Protocol):
    def write(self, dataset: Dataset, dest: Path, copy_images: bool = False) -> Sequence[Path]: ...


def write_whole(dataset: Dataset, writer: Writer, out: Path, copy_images: bool) -> list[Path]:
    """All or nothing: written beside the place and moved there when complete. Returns the annotation files."""
    part: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".part"))
        part.chmod(0o755)
        written = writer.write(dataset, part, copy_images)
        if out.exists():
            out.rmdir()
        part.rename(out)
        return [out / path.relative_to(part) for path in written]
    except OSError as error:
        raise DetloomError(
            f"cannot write {out}: {error.strerror or error}", hint="nothing half-written was left behind"
        ) from error
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
