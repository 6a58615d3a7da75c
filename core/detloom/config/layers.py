"""What was written, where, and by whom: the input of the resolution. Light: no pydantic here."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from detloom.errors import Mistake

OriginKind = Literal["default", "recipe", "preset", "data", "file", "command line", "tracker"]
ORIGIN_KINDS: tuple[OriginKind, ...] = get_args(OriginKind)
USER_KINDS: tuple[OriginKind, ...] = ("file", "command line", "tracker")


class Text(str):
    """A value as it was typed, without quotes: `1e-4`, `yes`, `[a, b]`. What it means depends on the field."""

    __slots__ = ()


class Located(dict[str, Any]):
    """A mapping inside a list of a file. place: where it begins; places: where each of its keys stands."""

    def __init__(self, values: Mapping[str, Any], place: str, places: Mapping[str, str]) -> None:
        super().__init__(values)
        self.place, self.places = place, places


@dataclass(frozen=True, slots=True)
class Origin:
    """Who set a value. place: file:line:column, flag, or the name of the model or preset.

    auto: where somebody wrote `auto`, so that the value was taken from below; empty when nobody did.
    """

    kind: OriginKind
    place: str = ""
    auto: str = ""

    def __str__(self) -> str:
        text = f"{self.kind} {self.place}".strip()
        return f"{text} (auto in {self.auto})" if self.auto else text

    @property
    def by_user(self) -> bool:
        return self.kind in USER_KINDS


@dataclass(frozen=True, slots=True)
class Entry:
    """One written value: dotted key, the value (Text where its type is still open), where it stands.

    path: the keys inside each other as a file nests them, since a key may hold dots; empty for what was typed.
    """

    key: str
    value: Any
    place: str = ""
    path: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Layer:
    """What one origin says. Mistakes found while reading it are kept, so that all are reported together."""

    kind: OriginKind
    entries: tuple[Entry, ...] = ()
    mistakes: tuple[Mistake, ...] = field(default=())


def walk(
    values: Mapping[Any, Any], above: tuple[str, ...] = (), whole: Container[str] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Nested mappings to their values, each with the keys that lead to it; an empty mapping is kept as a value.

    whole: dotted keys whose mappings are values themselves.
    """
    for key, value in values.items():
        path = (*above, str(key))
        if isinstance(value, Mapping) and value and ".".join(path) not in whole:
            yield from walk(value, path, whole)
        else:
            yield path, value


def flatten(values: Mapping[Any, Any], whole: Container[str] = ()) -> Iterator[tuple[str, Any]]:
    """Nested mappings to dotted keys; an empty mapping, or one at a key of `whole`, is kept as a value."""
    return ((".".join(path), value) for path, value in walk(values, (), whole))


def nest(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys to nested dictionaries: the way back from `flatten`."""
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")
        node = nested
        for part in sections:
            node = node.setdefault(part, {})
        node[name] = value
    return nested


def mapping_layer(values: Mapping[str, Any], kind: OriginKind = "file", place: str = "") -> Layer:
    """A layer of Python values, nested or with dotted keys: for calls from code."""
    return Layer(kind, tuple(Entry(".".join(path), value, place, path) for path, value in walk(values)))


def text_layer(
    settings: Iterable[tuple[str, str, str]], kind: OriginKind = "command line", mistakes: Sequence[Mistake] = ()
) -> Layer:
    """A layer of typed text: (dotted key, text, flag). The last of two equal keys counts."""
    entries: dict[str, Entry] = {}
    for key, text, place in settings:
        entries.pop(key, None)  # the order of words counts: a whole mapping takes the place of keys before it
        entries[key] = Entry(key, Text(text), place)
    return Layer(kind, tuple(entries.values()), tuple(mistakes))
