"""Flags for data that are not in a folder of this machine, the same in every command that reads data. Light."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detloom.errors import Mistake
    from detloom.host import PluginHost


@dataclass(frozen=True, slots=True)
class SourceFlag:
    """A flag for a setting of a source, by the source's name: using it chooses the source."""

    flag: str
    source: str
    setting: str
    metavar: str
    help: str
    several: bool = False

    @property
    def dest(self) -> str:
        return self.flag.removeprefix("--").replace("-", "_")


SOURCE_FLAGS = (
    SourceFlag("--cvat-task-ids", "cvat", "task_ids", "ID", "data of these CVAT tasks", several=True),
    SourceFlag("--minio-bucket", "s3", "bucket", "NAME", "data in this bucket (MinIO, or any S3 server)"),
    SourceFlag("--minio-prefix", "s3", "prefix", "PREFIX", "where in the bucket: a folder, or one archive"),
    SourceFlag("--minio-endpoint", "s3", "endpoint", "URL", "the server; else the environment's MINIO_ENDPOINT"),
)
"""Secrets have no flags: they come from the environment."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a flag says about the configuration."""

    key: str
    value: str | list[str]
    flag: str

    @property
    def text(self) -> str:
        """As `--set` takes it."""
        return self.value if isinstance(self.value, str) else f"[{', '.join(self.value)}]"


def says_where(key: str) -> bool:
    """True for `data.source`, `data.sources` and the settings of sources such as `data.local.path`."""
    if key in ("data.source", "data.sources"):
        return True
    return key.startswith("data.") and key.count(".") > 1 and not key.startswith(("data.split.", "data.class_aliases."))


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    for flag in SOURCE_FLAGS:
        nargs = "+" if flag.several else None
        parser.add_argument(flag.flag, dest=flag.dest, metavar=flag.metavar, nargs=nargs, help=flag.help)


def given_flags(args: argparse.Namespace) -> list[SourceFlag]:
    return [flag for flag in SOURCE_FLAGS if getattr(args, flag.dest, None) is not None]


def written_sources(args: argparse.Namespace, host: PluginHost) -> tuple[list[Written], list[Mistake]]:
    """Entries of the configuration, and a mistake for each source that no plugin provides."""
    from detloom.errors import Mistake
    from detloom.specs import SourceSpec

    entries: list[Written] = []
    mistakes: list[Mistake] = []
    missing: set[str] = set()
    for flag in given_flags(args):
        spec = host.find(SourceSpec, flag.source)
        if spec is None:
            if flag.source not in missing:
                known = ", ".join(host.qualified(other) for other in host.specs(SourceSpec)) or "none"
                hint = f"sources here: {known}; data in a folder need only its path"
                mistakes.append(Mistake("data.source", flag.flag, f"this version has no `{flag.source}` source", hint))
            missing.add(flag.source)
            continue
        first_party = host.plugin_of(spec).origin == "first-party"
        section = f"data.{spec.settings_key}" if first_party else f"data.plugins.{spec.settings_key}"
        entries.append(Written("data.source", host.qualified(spec), flag.flag))
        entries.append(Written(f"{section}.{flag.setting}", getattr(args, flag.dest), flag.flag))
    return entries, mistakes


def sources_as_arguments(args: argparse.Namespace) -> str:
    """The flags as they are typed."""
    parts: list[str] = []
    for flag in given_flags(args):
        value: str | Sequence[str] = getattr(args, flag.dest)
        parts += [flag.flag, *([value] if isinstance(value, str) else value)]
    return shlex.join(parts)
