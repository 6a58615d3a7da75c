"""Lists of plugins in a configuration: `data.sources`, each element with the settings of its own plugin.

An element is `{type: s3, name: depot, format: coco, bucket: crops}`: the plugin, words that every source knows, and
the settings of the plugin. Settings of the named format stand under the format's name: `csv: {unit: pixels}`.
"""

# ruff: noqa: TID253

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from detloom.config.advice import looks_like_secret
from detloom.config.compose import SPEC_OF_KIND, LeafField, leaves_of, settings_of
from detloom.config.files import parse_flow
from detloom.config.layers import Entry, Located, Text, flatten, nest
from detloom.config.values import ValueRefusedError, convert, literal, natural, says_nothing
from detloom.errors import Mistake, PluginError
from detloom.host import PluginHost
from detloom.specs import FormatSpec, SourceSpec, Spec
from detloom_schemas.base import Settings

WORDS = ("type", "name", "format")
"""What every element may say beside its plugin's settings."""

_NAME = re.compile(r"[\w][\w .+-]*")


@dataclass(frozen=True, slots=True)
class Element:
    """A source of a list. name: as the user wrote it, or empty; format: None when it is to be found by looking."""

    spec: SourceSpec
    settings: Settings
    name: str = ""
    format: FormatSpec | None = None
    format_settings: Settings | None = None


def elements_of(host: PluginHost, values: Sequence[Mapping[str, Any]], default_format: str = "auto") -> list[Element]:
    """The sources that a checked list names. default_format: of those that name none."""
    return [_built(host, dict(value), default_format) for value in values]


def _built(host: PluginHost, value: dict[str, Any], default_format: str) -> Element:
    spec = host.get(SourceSpec, str(value.pop("type")))
    name, wanted = str(value.pop("name", "")), str(value.pop("format", default_format))
    chosen = None if wanted == "auto" else host.get(FormatSpec, wanted)
    below = value.pop(chosen.settings_key, {}) if chosen is not None else {}
    made = settings_of(host, spec)
    if chosen is None:
        return Element(spec, _with(made, value), name)
    return Element(spec, _with(made, value), name, chosen, _with(settings_of(host, chosen), below))


def _with(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """The same settings with some values changed, which were checked before."""
    keys = {leaf.key for leaf in leaves_of(type(settings))}
    old = dict(flatten(settings.model_dump(by_alias=True), keys))
    return type(settings).model_validate(nest(old | dict(flatten(values, keys))))


def convert_elements(
    host: PluginHost, leaf: LeafField, entry: Entry, default_format: str = "auto"
) -> tuple[list[dict[str, Any]], list[Mistake]]:
    """The list as it is kept (plain values, only what was written), and every mistake in it with its place."""
    raw = [] if says_nothing(natural(entry.value)) else entry.value
    if isinstance(raw, Text):
        try:
            raw = parse_flow(raw) if raw.strip().startswith("[") else None
        except ValueError:
            raw = None
    if not isinstance(raw, list | tuple):
        found = literal(entry.value)
        hint = "for example: [{type: local, path: more}, {type: s3, bucket: crops}]"
        return [], [Mistake(leaf.key, entry.place, f"found {found!r}; allowed: a list of sources", hint)]
    reader = _Reader(host, default_format)
    for number, item in enumerate(raw):
        reader.read(item, f"{leaf.key}[{number}]", entry.place)
    return reader.kept, reader.mistakes


@dataclass(slots=True)
class _Reader:
    """What was read so far. names: of the elements, folded, each with its key."""

    host: PluginHost
    default_format: str
    kept: list[dict[str, Any]] = field(default_factory=list)
    mistakes: list[Mistake] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)

    def read(self, item: Any, key: str, place: str) -> None:
        if isinstance(item, str):
            item = {"type": "local", "path": item}
        place = item.place or place if isinstance(item, Located) else place
        if not isinstance(item, Mapping):
            message = f"found {literal(item)!r}; allowed: keys with values, or a path"
            self.mistakes.append(Mistake(key, place, message, "for example: {type: local, path: more}"))
            return
        values = dict(_flat(item, place))
        written = {"type": self._word(values, "type", "local"), "format": self._word(values, "format", "")}
        name = self._name(values, key)
        spec = self._found(SourceSpec, written["type"], f"{key}.type", values.get("type", ("", place))[1])
        wanted = written["format"] or self.default_format
        chosen = None
        if wanted != "auto":
            at = values.get("format", ("", place))[1]
            chosen = self._found(FormatSpec, wanted, f"{key}.format", at) if written["format"] else self._quiet(wanted)
        if spec is None or (written["format"] not in ("", "auto") and chosen is None):
            return
        leaves = self._leaves(spec, chosen)
        rest = {inner: pair for inner, pair in _flat(item, place, leaves) if inner not in WORDS}
        plain = self._settings(spec, chosen, leaves, rest, key)
        head = {"type": self.host.qualified(spec), "name": name, "format": written["format"]}
        if chosen is not None and written["format"]:
            head["format"] = self.host.qualified(chosen)
        self.kept.append({word: value for word, value in head.items() if value} | plain)

    def _word(self, values: Mapping[str, tuple[Any, str]], word: str, default: str) -> str:
        return str(literal(values[word][0])).strip() if word in values else default

    def _name(self, values: Mapping[str, tuple[Any, str]], key: str) -> str:
        if "name" not in values:
            return ""
        raw, place = values["name"]
        name = str(literal(raw)).strip()
        if not _NAME.fullmatch(name) or name != name.rstrip(". "):
            message = f"found {name!r}; allowed: letters, digits, blanks and . _ + -"
            self.mistakes.append(Mistake(f"{key}.name", place, message, "it becomes the folder of file names"))
        elif name.casefold() in self.names:
            other = self.names[name.casefold()]
            self.mistakes.append(Mistake(f"{key}.name", place, f"{name!r} is the name of {other} too"))
        self.names.setdefault(name.casefold(), key)
        return name

    def _found(self, kind: type[Any], name: str, key: str, place: str) -> Any:
        """The plugin, or None after a mistake."""
        try:
            spec = self.host.find(kind, name)
        except PluginError as error:
            self.mistakes.append(Mistake(key, place, error.message, error.hint))
            return None
        if spec is None:
            hint = "\n    ".join(self.host.advice(kind, name))
            self.mistakes.append(Mistake(key, place, f"there is no {kind.kind} named {name!r}", hint))
        return spec

    def _quiet(self, name: str) -> FormatSpec | None:
        """The format of `data.format`, whose own mistakes are reported where it stands."""
        try:
            return self.host.find(FormatSpec, name)
        except PluginError:
            return None

    def _leaves(self, spec: SourceSpec, chosen: FormatSpec | None) -> dict[str, LeafField]:
        """What may be set of a source and of its format, whose settings stand below its name."""
        made = settings_of(self.host, spec)
        leaves = {leaf.key: leaf for leaf in leaves_of(type(made), made)}
        if clash := sorted(set(WORDS) & {name.partition(".")[0] for name in leaves}):
            label = self.host.plugin_of(spec).label
            raise PluginError(f"plugin {label}: {spec.name} has a setting {clash[0]!r}, which cannot be in a list")
        if chosen is not None:
            below = settings_of(self.host, chosen)
            prefix = f"{chosen.settings_key}."
            leaves |= {leaf.key: leaf for leaf in leaves_of(type(below), below, prefix)}
        return leaves

    def _settings(
        self,
        spec: SourceSpec,
        chosen: FormatSpec | None,
        leaves: Mapping[str, LeafField],
        rest: Mapping[str, tuple[Any, str]],
        key: str,
    ) -> dict[str, Any]:
        """The settings of the source, and of its format, that were written."""
        plain: dict[str, Any] = {}
        for name, (raw, place) in rest.items():
            if looks_like_secret(name):
                hint = "write secrets to .env or the environment; a configuration is shown, stored and shared"
                self.mistakes.append(Mistake(f"{key}.{name}", place, "a secret has no place here", hint))
            elif name not in leaves:
                message = f"{self.host.qualified(spec)} has no such setting"
                self.mistakes.append(Mistake(f"{key}.{name}", place, message, self._advice(name, leaves, spec)))
            else:
                try:
                    plain[name] = _plain(convert(raw, leaves[name].info, leaves[name].owner))
                except ValueRefusedError as problem:
                    self.mistakes.append(Mistake(f"{key}.{name}", place, problem.message, problem.hint))
        kept: dict[str, Any] = nest(plain)
        self._check_together(spec, settings_of(self.host, spec), kept, chosen, key, rest)
        return kept

    def _check_together(
        self,
        spec: SourceSpec,
        made: Settings,
        kept: Mapping[str, Any],
        chosen: FormatSpec | None,
        key: str,
        rest: Mapping[str, tuple[Any, str]],
    ) -> None:
        """Rules across the settings of one plugin."""
        own = {name: value for name, value in kept.items() if chosen is None or name != chosen.settings_key}
        try:
            _with(made, own)
        except ValidationError as error:
            place = next((pair[1] for pair in rest.values()), "")
            for fault in error.errors(include_url=False):
                said = str(fault.get("ctx", {}).get("error", fault["msg"]))
                self.mistakes.append(Mistake(f"{key} ({self.host.qualified(spec)})", place, said))

    def _advice(self, name: str, leaves: Mapping[str, LeafField], spec: SourceSpec) -> str:
        near = get_close_matches(name, [*leaves, *WORDS], n=1, cutoff=0.7)
        if near:
            return f"did you mean {near[0]}?"
        for other in self.host.specs(SourceSpec):
            if other is not spec and name in {leaf.key for leaf in leaves_of(type(settings_of(self.host, other)))}:
                return f"that is a setting of the {other.name} source: write `type: {self.host.qualified(other)}`"
        return f"its settings: {', '.join([*WORDS, *leaves])}"


def _flat(
    item: Mapping[Any, Any], place: str, whole: Container[str] = (), prefix: str = ""
) -> Iterator[tuple[str, tuple[Any, str]]]:
    """Dotted key to (value, place). whole: keys whose mappings are values themselves."""
    places = item.places if isinstance(item, Located) else {}
    for name, value in item.items():
        here, key = places.get(str(name), place), f"{prefix}{name}"
        if isinstance(value, Mapping) and value and key not in whole:
            yield from _flat(value, here, whole, f"{key}.")
        else:
            yield key, (value, here)


def _plain(value: Any) -> Any:
    """What JSON could hold, without the marks of how it was written."""
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return natural(value) if isinstance(value, Text) else value


def specs_of(host: PluginHost, values: Sequence[Mapping[str, Any]]) -> list[Spec]:
    """The plugins that a checked list names."""
    found: list[Spec] = []
    for value in values:
        for kind, name in (("source", value.get("type")), ("format", value.get("format", "auto"))):
            spec = None if name in (None, "auto") else host.find(SPEC_OF_KIND[kind], str(name))
            if spec is not None and spec not in found:
                found.append(spec)
    return found
