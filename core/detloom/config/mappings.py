"""Settings that are mappings, such as `data.class_aliases`: written whole, or key by key.

A value for the whole mapping takes the place of what lower layers and earlier words of its own layer say. A value for
a key below it, `data.class_aliases.bike`, sets that key in what stands so far. In a file a mapping is one value,
whichever way its lines are written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from detloom.config.compose import LeafField
from detloom.config.layers import Entry, Layer, Origin
from detloom.config.values import as_mapping, mapping_depth
from detloom.errors import Mistake


@dataclass(frozen=True, slots=True)
class Word:
    """What a layer says of a value. below: the keys, one inside the other, that it sets in a mapping; empty: all."""

    layer: Layer
    entry: Entry
    below: tuple[str, ...] = ()


def words_below(leaf: LeafField, layers: Sequence[Layer]) -> tuple[list[Word], list[Mistake]]:
    """Everything that these layers say of a value and of keys below it, in order."""
    words: list[Word] = []
    mistakes: list[Mistake] = []
    for layer in layers:
        said: list[Word] = []
        for together, group in groupby(_said(leaf, layer), lambda pair: pair[1]):
            pieces = [word for word, _ in group]
            said += [_joined(leaf.key, pieces, mistakes)] if together else pieces
        if layer.kind == "file" and len(said) > 1:
            mistakes.append(_twice(leaf.key, said[1].entry.place, said[0].entry.place))
        words += said
    return words, mistakes


def _said(leaf: LeafField, layer: Layer) -> Iterator[tuple[Word, bool]]:
    """Each word of a layer about this value, and whether it is a part of a mapping that was written as one."""
    depth = mapping_depth(leaf.info.annotation)
    for entry in layer.entries:
        if entry.key == leaf.key:
            yield Word(layer, entry), False
        elif entry.key.startswith(f"{leaf.key}."):
            keys, inside = _keys_below(entry, leaf.key, depth)
            yield Word(layer, entry, keys), inside or layer.kind == "file" or not depth


def with_key(standing: Any, word: Word, leaf: LeafField) -> dict[str, Any]:
    """The mapping that stands, with the key that the word sets. Raises ValueRefusedError for what is no mapping."""
    value = as_mapping(standing, leaf.info, leaf.owner)
    _put(value, word.below, word.entry.value)
    return value


def joint(last: Origin, before: Origin) -> Origin:
    """Who set a mapping: the last word, and those before it that still have a part in it."""
    if before.kind == last.kind and last.place in before.place.split(", with "):
        return before
    return replace(last, place=f"{last.place}, with {before}")


def _keys_below(entry: Entry, key: str, depth: int) -> tuple[tuple[str, ...], bool]:
    """The keys inside the mapping, and whether the entry is a part of a mapping that was written as such.

    Of `a.b`, typed without its nesting, as many dots part keys as the field has mappings inside each other.
    """
    path = entry.path or (entry.key,)
    for count in range(1, len(path) + 1):
        head = ".".join(path[:count])
        if head == key:
            return path[count:], True
        if head.startswith(f"{key}."):
            return (*head.removeprefix(f"{key}.").split(".", max(depth - 1, 0)), *path[count:]), False
    raise AssertionError(f"{entry.key} is not below {key}")


def _joined(key: str, pieces: Sequence[Word], mistakes: list[Mistake]) -> Word:
    """The mapping that these are the parts of. Of two that exclude each other the second is a mistake."""
    value: dict[str, Any] = {}
    places: dict[tuple[str, ...], str] = {}
    for word in pieces:
        keys, entry = word.below, word.entry
        clash = next((place for other, place in places.items() if _within(other, keys) or _within(keys, other)), None)
        if clash is not None:
            mistakes.append(_twice(entry.key, entry.place, clash))
            continue
        places[keys] = entry.place
        _put(value, keys, entry.value)
    return Word(pieces[0].layer, Entry(key, value, pieces[0].entry.place))


def _within(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    return other[: len(one)] == one


def _put(value: dict[str, Any], keys: Sequence[str], below: Any) -> None:
    for key in keys[:-1]:
        inner = value.get(key)
        value[key] = dict(inner) if isinstance(inner, dict) else {}
        value = value[key]
    value[keys[-1]] = below


def _twice(key: str, place: str, first: str) -> Mistake:
    return Mistake(key, place, f"is written twice; first at {first}", "keep one of them: in a file it is one value")
