"""The request schemas, read from the sources of the installed clearml and clearml-agent packages.

They are read as text, without importing either package, and kept in a file of the temporary folder under the versions
of both, since collecting them takes more than a second.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema

Schema = dict[str, Any]
PACKAGES = {"clearml": "clearml", "clearml_agent": "clearml-agent"}  # import name -> distribution
# Sent by the real SDK or agent and accepted by the real server, but absent from the published schemas.
TOLERATED = {"method", "allow_locked", "model_event", "is_daemon", "new_status", "queues"}


class Schemas:
    """Checks the body of a request against every version of the action's schema: it must fit one of them."""

    def __init__(self) -> None:
        self.versions = load()
        self._validators: dict[str, list[jsonschema.Draft7Validator]] = {}

    def mistakes(self, action: str, body: Mapping[str, Any]) -> list[str]:
        """What is wrong with the body; nothing for an action without a published schema."""
        known = {name for schema in self.versions.get(action, []) for name in schema.get("properties", {})}
        if not known:
            return []
        unknown = [
            f"unknown field {name!r}"
            for name in body
            if name not in known and name not in TOLERATED and not name.startswith("_")
        ]
        return unknown + self._misfits(action, {name: value for name, value in body.items() if value is not None})

    def _misfits(self, action: str, body: Mapping[str, Any]) -> list[str]:
        found: list[str] = []
        for validator in self._validators_of(action):
            found = [
                f"{'/'.join(map(str, error.path))}: {error.message[:200]}" for error in validator.iter_errors(body)
            ]
            if not found:
                break
        return found

    def _validators_of(self, action: str) -> list[jsonschema.Draft7Validator]:
        if action not in self._validators:
            text = json.dumps(self.versions[action])
            if action.startswith("workers."):
                # The agent sends fractions where its own schema says integer, and the real server takes them.
                text = text.replace('"integer"', '"number"')
            self._validators[action] = [jsonschema.Draft7Validator(schema) for schema in json.loads(text)]
        return self._validators[action]


def load() -> dict[str, list[Schema]]:
    """ "service.action" -> the different schemas it has had over the versions that the clients carry."""
    cache = _cache_file()
    try:
        found: dict[str, list[Schema]] = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = _collect()
        _write_whole(cache, json.dumps(found))
    return found


def _cache_file() -> Path:
    versions = "-".join(importlib.metadata.version(name) for name in PACKAGES.values())
    reader = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    owner = os.getuid() if hasattr(os, "getuid") else "all"
    return Path(tempfile.gettempdir()) / f"clearml-double-{owner}" / f"schemas-{versions}-{reader}.json"


def _write_whole(path: Path, text: str) -> None:
    """Several doubles may start at once: the file appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    Path(name).replace(path)


def _collect() -> dict[str, list[Schema]]:
    found: dict[str, list[Schema]] = {}
    for file in _service_files():
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name.endswith("Request"):
                facts = _literals(node)
                if isinstance(facts.get("_schema"), dict) and facts.get("_service"):
                    schemas = found.setdefault(f"{facts['_service']}.{facts['_action']}", [])
                    if facts["_schema"] not in schemas:
                        schemas.append(facts["_schema"])
    return found


def _service_files() -> Iterator[Path]:
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise RuntimeError(f"{package} is not installed: the double reads the request schemas from it")
        yield from sorted((Path(spec.origin).parent / "backend_api" / "services").glob("v*/*.py"))


def _literals(node: ast.ClassDef) -> dict[str, Any]:
    """The class attributes that say which request this is and what its body looks like."""
    return {
        statement.targets[0].id: ast.literal_eval(statement.value)
        for statement in node.body
        if isinstance(statement, ast.Assign)
        and isinstance(statement.targets[0], ast.Name)
        and statement.targets[0].id in ("_service", "_action", "_schema")
    }
