"""Configuration files: YAML, JSON and TOML to layers whose entries know their line and column."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from detloom.config.layers import Entry, Layer, Located, Text, walk
from detloom.errors import Mistake

SUFFIXES = (".yaml", ".yml", ".json", ".toml")


class _FileError(Exception):
    """Mistakes that end the reading of a file."""

    def __init__(self, *mistakes: Mistake) -> None:
        super().__init__(*mistakes)
        self.mistakes = mistakes


def file_layer(path: str | Path) -> Layer:
    """Read one file. Never raises: what is wrong with it is kept in the layer as mistakes.

    A `config.yaml` written by a run is accepted too: of it, only what its user had set is taken.
    """
    name = str(path)
    try:
        entries, mistakes = _read(Path(path), name)
    except _FileError as error:
        return Layer("file", (), error.mistakes)
    return Layer("file", tuple(_without_derived(entries)), tuple(mistakes))


def _read(path: Path, name: str) -> tuple[list[Entry], list[Mistake]]:
    if path.suffix.lower() not in SUFFIXES:
        raise _FileError(Mistake(name, "--config", "is no configuration file", f"allowed: {', '.join(SUFFIXES)}"))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise _FileError(Mistake(name, "--config", "there is no such file")) from None
    except UnicodeDecodeError as error:
        raise _FileError(Mistake(name, "--config", f"is not UTF-8 text (byte {error.start})")) from None
    except OSError as error:
        raise _FileError(Mistake(name, "--config", f"cannot be read: {error.strerror}")) from None
    if path.suffix.lower() == ".toml":
        return _read_toml(text, name), []
    if path.suffix.lower() == ".json":
        return _read_json(text, name)
    return _read_yaml(text, name)


def _without_derived(entries: list[Entry]) -> Iterator[Entry]:
    """Drop the `origins` of a saved configuration, and the values that its user had not set."""
    derived = {"default", "recipe", "preset", "data"}
    skipped = set()
    for entry in entries:
        if entry.key.startswith("origins.") and isinstance(entry.value, list) and entry.value[0] in derived:
            skipped.add(entry.key.removeprefix("origins."))
    for entry in entries:
        parts = entry.key.split(".")
        above = (".".join(parts[:length]) for length in range(1, len(parts) + 1))  # a mapping was taken apart
        if not entry.key.startswith("origins.") and skipped.isdisjoint(above):
            yield entry


# --- YAML ---


def _read_yaml(text: str, name: str) -> tuple[list[Entry], list[Mistake]]:
    node = _compose(text, name)
    if node is None:
        return [], []
    if not isinstance(node, yaml.MappingNode):
        raise _FileError(Mistake(name, _place(node, name), "must hold keys and values", "for example `training:`"))
    mistakes: list[Mistake] = []
    return list(_entries(node, name, (), mistakes, {})), mistakes


class _Loader(yaml.SafeLoader):
    """YAML without aliases: a place in a file then means one value, and nothing can contain itself."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases are not supported; write the value out", problem_mark=mark)
        return super().compose_node(parent, index)


def _compose(text: str, name: str) -> yaml.Node | None:
    try:
        node: yaml.Node | None = yaml.compose(text, Loader=_Loader)
        return node
    except RecursionError:
        raise _FileError(Mistake(name, name, "is nested too deeply")) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        reason = " ".join(part for part in (error.problem, error.context) if part)
        raise _FileError(Mistake(name, place, f"is not readable as YAML: {reason}")) from None
    except yaml.YAMLError as error:
        raise _FileError(Mistake(name, name, f"is not readable as YAML: {str(error).splitlines()[0]}")) from None


def _entries(
    node: yaml.MappingNode, name: str, above: tuple[str, ...], mistakes: list[Mistake], seen: dict[str, str]
) -> Iterator[Entry]:
    """Walk a mapping. above: the keys that lead to it; seen: dotted key of each value so far to its place."""
    for key_node, value_node in node.value:
        place = _place(key_node, name)
        if not isinstance(key_node, yaml.ScalarNode) or key_node.value == "<<":
            mistakes.append(Mistake(".".join((*above, "<<")), place, "keys are plain names", "write the values out"))
            continue
        path = (*above, str(key_node.value))
        if isinstance(value_node, yaml.MappingNode) and value_node.value:
            yield from _entries(value_node, name, path, mistakes, seen)
            continue
        key = ".".join(path)
        if key in seen:
            mistakes.append(Mistake(key, place, f"is written twice; first at {seen[key]}", "keep one of them"))
            continue
        seen[key] = place
        try:
            yield Entry(key, _value(value_node, name), place, path)
        except ValueError as error:
            mistakes.append(Mistake(key, _place(value_node, name), str(error)))


def _value(node: yaml.Node, name: str = "") -> Any:
    """name: of the file, for the places of mappings; empty for text without places."""
    if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.startswith("tag:yaml.org,2002:python"):
        raise ValueError(f"the tag {node.tag} is not allowed")
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, name) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        values: dict[str, Any] = {}
        for key, below in node.value:
            if (text := str(_value(key))) in values:
                raise ValueError(f"{text} is written twice in one mapping")
            values[text] = _value(below, name)
        places = {str(_value(key)): _place(key, name) for key, _ in node.value}
        return Located(values, _place(node, name), places) if name else values
    # Plain scalars stay text until their field is known: YAML 1.1 would make `1e-4` a string and `no` false.
    plain = isinstance(node, yaml.ScalarNode) and node.style is None
    return Text(node.value) if plain else str(node.value)


def _place(node: yaml.Node, name: str) -> str:
    return f"{name}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"


def parse_flow(text: str) -> Any:
    """`[a, b]`, `{a: 1}` or `"quoted"` as typed on a command line. Raises ValueError when it is none of them."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError("not a list") from error
    if node is None:
        raise ValueError("empty")
    return _value(node)


# --- JSON ---


def _read_json(text: str, name: str) -> tuple[list[Entry], list[Mistake]]:
    try:
        values = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        place = f"{name}:{error.lineno}:{error.colno}"
        raise _FileError(Mistake(name, place, f"is not readable as JSON: {error.msg}")) from None
    except ValueError as error:
        raise _FileError(Mistake(name, name, f"is not readable as JSON: {error}")) from None
    if not isinstance(values, dict):
        raise _FileError(Mistake(name, f"{name}:1:1", "must hold an object with the sections of a configuration"))
    # JSON is YAML, once its tabs are gone: that parser knows where each key stands.
    mistakes: list[Mistake] = []
    try:
        located, mistakes = _read_yaml(text.replace("\t", " "), name)
    except _FileError:
        located = []
    places = {entry.key: entry for entry in located}
    entries = []
    for path, value in walk(values):
        key = ".".join(path)
        twin = places.get(key, Entry(key, value, name))
        entries.append(Entry(key, _located(value, twin.value), twin.place, path))
    return entries, mistakes


def _located(value: Any, twin: Any) -> Any:
    """The value with the places of its twin, which was read from the same text by a parser that knows them."""
    if isinstance(value, list) and isinstance(twin, list) and len(value) == len(twin):
        return [_located(one, other) for one, other in zip(value, twin, strict=True)]
    if isinstance(value, dict) and isinstance(twin, Located):
        return Located({key: _located(below, twin.get(key)) for key, below in value.items()}, twin.place, twin.places)
    return value


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON number")


# --- TOML ---

_TOML_TABLE = re.compile(r"\s*\[\s*(?P<name>[^\[\]]+?)\s*\]")
_TOML_ELEMENT = re.compile(r"\s*\[\[\s*(?P<name>[^\[\]]+?)\s*\]\]")
_TOML_KEY = re.compile(r"(?P<indent>\s*)(?P<key>[A-Za-z0-9_.\"'-]+)\s*=")


def _read_toml(text: str, name: str) -> list[Entry]:
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"\s*\(at line (\d+), column (\d+)\)", str(error))
        place = f"{name}:{found[1]}:{found[2]}" if found else name
        reason = re.sub(r"\s*\(at .*\)$", "", str(error))
        raise _FileError(Mistake(name, place, f"is not readable as TOML: {reason}")) from None
    places = _toml_places(text, name)
    entries = []
    for path, value in walk(values):
        key = ".".join(path)
        entries.append(Entry(key, _in_table(value, key, places, name), _nearest(key, places, name), path))
    return entries


def _in_table(value: Any, key: str, places: dict[str, str], name: str) -> Any:
    """Elements of an array of tables, `[[data.sources]]`, with their places."""
    if not isinstance(value, list) or not any(isinstance(item, dict) for item in value):
        return value
    located = []
    for number, item in enumerate(value):
        prefix = f"{key}[{number}]"
        own = {inner: _nearest(f"{prefix}.{inner}", places, name) for inner in item} if isinstance(item, dict) else {}
        located.append(Located(item, _nearest(prefix, places, name), own) if isinstance(item, dict) else item)
    return located


def _toml_places(text: str, name: str) -> dict[str, str]:
    """Dotted key to place, by reading line by line: tomllib keeps no positions."""
    places: dict[str, str] = {}
    table, elements = "", Counter[str]()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _TOML_ELEMENT.match(line):
            array = header["name"].replace('"', "")
            table = f"{array}[{elements[array]}]."
            elements[array] += 1
            places.setdefault(array, f"{name}:{number}:1")
            places[table[:-1]] = f"{name}:{number}:1"
        elif header := _TOML_TABLE.match(line):
            table = header["name"].replace('"', "") + "."
        elif pair := _TOML_KEY.match(line):
            key = table + re.sub(r"[\"']", "", pair["key"])
            places.setdefault(key, f"{name}:{number}:{len(pair['indent']) + 1}")
    return places


def _nearest(key: str, places: dict[str, str], name: str) -> str:
    """The place of the key, or of the inline table that it stands in."""
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        if place := places.get(".".join(parts[:length])):
            return place
    return name
