"""What an earlier run says of its data: which revisions they were, and from where its relative paths begin."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from detloom.data.records import SourcePlan

if TYPE_CHECKING:
    from detloom.config import ResolvedConfig
    from detloom_schemas.base import Settings
    from detloom_schemas.run_files import RunRecord

S = TypeVar("S", bound="Settings")


@dataclass(frozen=True, slots=True)
class Before:
    """plans: by source, empty when they are not known. folders: where the run may have been started, the likeliest
    first; empty when that is not known, or not on this machine (any more)."""

    plans: tuple[SourcePlan, ...] = ()
    folders: tuple[Path, ...] = ()


def data_of_run(place: Path, config: ResolvedConfig) -> Before:
    """place: the folder of a run, or a file in it (a checkpoint, an export). Empty when the run says nothing, or when
    the configuration now names other data than the run's."""
    home, record = _record(place)
    if record is None or _of_source(record.configuration) != _of_source(config.values()):
        return Before()
    plans = [SourcePlan(use.identity, use.revision) for use in record.data.sources]
    plans = plans or [SourcePlan(record.data.source, record.data.revision)]
    known = all(plan.identity and plan.revision for plan in plans)
    return Before(tuple(plans) if known else (), tuple(start_folders(record, home)))


def start_folders(record: RunRecord, home: Path) -> list[Path]:
    """Where a run may have been started, the likeliest first: from its own folder `home` the way that it was then (a
    project that was moved or copied takes its data along), then the folder itself. Only those that are there."""
    if not record.started_in:
        return []
    found = [Path(record.started_in)]
    if record.folder:
        way = os.path.relpath(record.started_in, record.folder)
        found.insert(0, Path(os.path.normpath(home.absolute() / way)))
    return [folder for folder in dict.fromkeys(found) if folder.is_dir()]


def _record(place: Path) -> tuple[Path, RunRecord | None]:
    """The run's folder and what its run.json says."""
    from pydantic import ValidationError

    from detloom_schemas.run_files import RunRecord

    for folder in (place, place.parent, place.parent.parent):
        file = folder / "run.json"
        if file.is_file():
            try:
                return folder, RunRecord.model_validate_json(file.read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError, ValidationError):
                return folder, None
    return place, None


def _of_source(values: Mapping[str, Any]) -> dict[str, Any]:
    """The sources and their settings."""
    keys = [
        key for key in values if key.startswith("data.") and key.count(".") > 1 and not key.startswith("data.split.")
    ]
    found = {key: values[key] for key in ("data.source", *keys) if key in values}
    return {**found, "data.sources": values.get("data.sources") or []}


def located(settings: S, folders: Sequence[Path]) -> S:
    """The same settings, whose relative paths begin in the first of the folders where something lies that they name.

    A path that is there below another path of the same settings stays as it is (images beside annotations). An empty
    one, which means the current folder, becomes that folder when it is where the others are.
    """
    from detloom.config.layers import nest

    paths = dict(_paths(settings))
    named = [path for path in paths.values() if path]
    folder = next((one for one in folders if any((one / path).exists() for path in named)), None)
    if folder is None:
        return settings
    moved = {key: str(folder / path) for key, path in paths.items() if path and (folder / path).exists()}
    homes = [Path(path) for path in moved.values() if Path(path).is_dir()]
    moved = {key: path for key, path in moved.items() if not any((home / paths[key]).exists() for home in homes)}
    if not moved:
        return settings
    moved |= {key: str(folder) for key, path in paths.items() if not path}
    values = settings.model_dump(by_alias=True)
    return type(settings).model_validate(_joined(values, nest(moved)))


def _paths(settings: Settings) -> Iterator[tuple[str, str]]:
    """Dotted key and text of each setting that is a relative path, or empty."""
    from detloom.config.compose import leaves_of

    for leaf in leaves_of(type(settings)):
        extra: Any = leaf.info.json_schema_extra
        value: Any = settings.model_dump(by_alias=True)
        for part in leaf.key.split("."):
            value = value[part]
        is_path = isinstance(extra, dict) and extra.get("local_path") and isinstance(value, str)
        if is_path and value not in extra["words"] and not Path(value).expanduser().is_absolute():
            yield leaf.key, value


def _joined(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **old,
        **{key: _joined(old[key], value) if isinstance(value, Mapping) else value for key, value in new.items()},
    }
