"""Splitting by image content: the same picture always lands in the same split, also when others are added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from detloom.rng import stable_key


@dataclass(frozen=True, slots=True)
class SplitShares:
    """val, test: shares of the images, 0 to 1. seed: another seed gives another split."""

    val: float = 0.2
    test: float = 0.0
    seed: int = 0


def assign_splits(hashes: Sequence[str], classes: Sequence[frozenset[int]], shares: SplitShares) -> list[str]:
    """`train`, `val` or `test` for each image.

    hashes: of the image contents; classes: indices of the classes in each image. An image's place follows from its
    content and the seed alone; afterwards a few images move so that no split is empty and every class of at least
    two pictures is in `train` and in each other split, where the pictures suffice.
    """
    keys = {content: stable_key("split", shares.seed, content) / 2**64 for content in hashes}
    held: dict[str, set[int]] = {}
    for content, present in zip(hashes, classes, strict=True):
        held.setdefault(content, set()).update(present)
    places = {content: _place(key, shares) for content, key in keys.items()}
    wanted = ["train", *(name for name in ("val", "test") if getattr(shares, name) > 0)]
    if len(places) >= len(wanted):
        for name in wanted:
            _fill(name, places, keys, held)
    return [places[content] for content in hashes]


def _place(key: float, shares: SplitShares) -> str:
    if key < shares.val:
        return "val"
    return "test" if key < shares.val + shares.test else "train"


def _fill(name: str, places: dict[str, str], keys: Mapping[str, float], held: Mapping[str, set[int]]) -> None:
    """Give a split one picture of each class it lacks, rarest class first, without emptying another of it."""
    count: dict[int, int] = {}
    for present in held.values():
        for index in present:
            count[index] = count.get(index, 0) + 1
    for index in sorted(count, key=lambda c: (count[c], c)):
        if count[index] < 2 or any(places[c] == name and index in held[c] for c in places):
            continue
        _move_one([c for c in places if index in held[c]], name, places, keys, held)
    if name not in places.values():
        _move_one(list(places), name, places, keys, held)


def _move_one(
    candidates: Sequence[str],
    name: str,
    places: dict[str, str],
    keys: Mapping[str, float],
    held: Mapping[str, set[int]],
) -> None:
    for content in sorted(candidates, key=lambda c: keys[c]):
        origin = places[content]
        others = [c for c in places if places[c] == origin and c != content]
        left_behind = set().union(*(held[c] for c in others)) if others else set()
        # The split that gives must keep a picture, and each class that it had.
        if others and held[content] <= left_behind:
            places[content] = name
            return
