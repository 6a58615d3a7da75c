"""Configurations of earlier runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detloom.config.layers import ORIGIN_KINDS, Entry, Layer, Origin
from detloom.config.resolution import restore
from detloom.config.resolved import ResolvedConfig
from detloom.errors import DetloomError
from detloom.host import PluginHost


def load_saved(source: str | Path | Mapping[str, Any], host: PluginHost) -> ResolvedConfig:
    """A run's configuration, from its folder, its config.yaml, or the mapping kept in a checkpoint.

    Values and origins are as they were, also where a recipe or default has changed since. `with_data` and
    `with_tracker` then keep what the user had set and derive everything else again. Raises ConfigError when a
    plugin that it names is not here, and DetloomError when it cannot be read.
    """
    document = source if isinstance(source, Mapping) else _read(Path(source))
    rows = document.get("origins")
    if not isinstance(rows, Mapping):
        raise DetloomError("the saved configuration has no `origins`", hint="it was not written by a run of Detloom")
    origins = {str(key): _origin(row) for key, row in rows.items()}
    pinned = {}
    for key, origin in origins.items():
        value = _at(document, key)
        if value is not _MISSING:
            pinned[key] = (value, origin)
    return restore(host, _layers(pinned), pinned)


def _read(path: Path) -> Mapping[str, Any]:
    import yaml

    file = path / "config.yaml" if path.is_dir() else path
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DetloomError(f"cannot read {file}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DetloomError(f"{file} is not readable as YAML") from error
    if not isinstance(document, Mapping):
        raise DetloomError(f"{file} holds no configuration")
    return document


def _origin(row: Any) -> Origin:
    if not isinstance(row, list) or not row or row[0] not in ORIGIN_KINDS:
        raise DetloomError(f"the saved configuration has an unreadable origin: {row!r}")
    return Origin(*[str(part) for part in row])  # type: ignore[arg-type]


def _layers(pinned: Mapping[str, tuple[Any, Origin]]) -> list[Layer]:
    """What the user had written: set values, and `auto` where it stood."""
    found: dict[str, list[Entry]] = {}
    for key, (value, origin) in pinned.items():
        if origin.auto:
            kind = next((kind for kind in ORIGIN_KINDS if origin.auto.startswith(kind)), "file")
            found.setdefault(kind, []).append(Entry(key, "auto", origin.auto.removeprefix(kind).strip()))
        elif origin.by_user or origin.kind == "data":
            found.setdefault(origin.kind, []).append(Entry(key, value, origin.place))
    return [Layer(kind, tuple(found[kind])) for kind in ORIGIN_KINDS if kind in found]


_MISSING = object()


def _at(document: Mapping[str, Any], key: str) -> Any:
    node: Any = document
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return _MISSING
        node = node[part]
    return node
