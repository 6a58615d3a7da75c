"""What was written, where, and by whom: the input of the resolution. Light: no pydantic here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    """One written value: dotted key, the value (Text where its type is still open), where it stands."""

    key: str
    value: Any
    place: str = ""


@dataclass(frozen=True, slots=True)
class Layer:
    """What one origin says. Mistakes found while reading it are kept, so that all are reported together."""

    kind: OriginKind
    entries: tuple[Entry, ...] = ()
    mistakes: tuple[Mistake, ...] = field(default=())


def flatten(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings to dotted keys; an empty mapping is kept as a value."""
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{dotted}.")
        else:
            yield dotted, value


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
    return Layer(kind, tuple(Entry(key, value, place) for key, value in flatten(values)))


def text_layer(
    settings: Iterable[tuple[str, str, str]], kind: OriginKind = "command line", mistakes: Sequence[Mistake] = ()
) -> Layer:
    """A layer of typed text: (dotted key, text, flag). The last of two equal keys counts."""
    entries = {key: Entry(key, Text(text), place) for key, text, place in settings}
    return Layer(kind, tuple(entries.values()), tuple(mistakes))
