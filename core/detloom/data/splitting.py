# ruff: noqa: TID253
"""Who goes where: by image content, so that an image keeps its split when others are added.

An image's place follows from a hash of its content (or of its group) and the seed. Where it is asked to stratify, the
splitter then moves as few of them as it takes to give each split its share of every class (the aim of the iterative
stratification of Sechidis et al., ECML 2011, which starts from nothing instead). What has a recorded place stays there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from detloom.data.polishing import Task, polished
from detloom.rng import stable_key

SPLITS = ("train", "val", "test")

CANDIDATES = 256
"""Images that are compared for one move: enough for a good one, and few enough for a hundred thousand images."""

FEW = 64
"""Units of which every move and every exchange of two is looked at in the end."""


@dataclass(frozen=True, slots=True)
class SplitShares:
    """val, test: shares of the images, 0 to 1. seed: another seed gives another split. stratify: each split gets its
    share of every class, for which other images may have to move when some are added; without it only content
    decides."""

    val: float = 0.2
    test: float = 0.0
    seed: int = 0
    stratify: bool = False

    def of(self, split: str) -> float:
        return {"train": 1 - self.val - self.test, "val": self.val, "test": self.test}[split]

    @property
    def wanted(self) -> list[str]:
        return [split for split in SPLITS if split == "train" or self.of(split) > 0]


def assign_splits(
    hashes: Sequence[str],
    classes: Sequence[frozenset[int]],
    shares: SplitShares,
    *,
    groups: Sequence[str] = (),
    fixed: Sequence[str] = (),
) -> list[str]:
    """`train`, `val` or `test` for each image.

    hashes: of the image contents; classes: indices of the classes in each image; groups: what must stay together,
    empty text for an image without group; fixed: the split that an image must have, empty text for none. Images of
    equal content stay together, and so do whole groups (then a fixed place of one is that of all; of several the most
    frequent). In the end a few images move so that no split is empty and every class of at least two pictures is in
    `train` and in each other split, where the pictures suffice.
    """
    units = _units(hashes, classes, groups or [""] * len(hashes), fixed or [""] * len(hashes), shares.seed)
    for unit in units:
        unit.split = unit.fixed or _place(unit.key, shares)
    balance = _Balance(units, shares)
    if shares.stratify:
        balance.settle()
    if len(units) >= len(shares.wanted):
        for split in shares.wanted:
            _fill(split, units, balance)
        if shares.stratify and len(units) <= FEW:
            _polish(units, balance)
    places = [""] * len(hashes)
    for unit in units:
        for number in unit.members:
            places[number] = unit.split
    return places


@dataclass(slots=True, eq=False)
class _Unit:
    """Images that stay together. key: 0 to 1, from content and seed; labels: how many of its images hold each class,
    -1 standing for images without any and -2 for all of them; fixed: split that was decided elsewhere."""

    key: float
    members: list[int]
    labels: dict[int, int]
    fixed: str = ""
    split: str = ""

    def holds(self) -> Iterable[int]:
        return (label for label in self.labels if label >= 0)


def _units(
    hashes: Sequence[str], classes: Sequence[frozenset[int]], groups: Sequence[str], fixed: Sequence[str], seed: int
) -> list[_Unit]:
    """In the order of their keys, which does not depend on the order of the images."""
    names = _components(hashes, groups)
    members: dict[str, list[int]] = defaultdict(list)
    for number, name in enumerate(names):
        members[name].append(number)
    held: dict[str, set[int]] = defaultdict(set)
    for content, present in zip(hashes, classes, strict=True):
        held[content].update(present)
    units = []
    for name, numbers in members.items():
        labels: Counter[int] = Counter()
        for content in {hashes[number] for number in numbers}:  # a picture that is there twice counts once
            labels.update([*(held[content] or (-1,)), -2])
        decided = Counter(fixed[number] for number in numbers if fixed[number])
        place = min(decided, key=lambda split: (-decided[split], split)) if decided else ""
        units.append(_Unit(stable_key("split", seed, name) / 2**64, numbers, dict(labels), place))
    return sorted(units, key=lambda unit: unit.key)


def _components(hashes: Sequence[str], groups: Sequence[str]) -> list[str]:
    """A name for each image, equal for those that content or group ties together: the content of an image without
    group, else the first group in the alphabet of all that are tied."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for content, group in zip(hashes, groups, strict=True):
        # A group sorts before a content, so that it names what they tie together.
        one, other = sorted((root(f"2{content}"), root(f"1{group}" if group else f"2{content}")))
        parent[other] = one
    return [root(f"2{content}")[1:] for content in hashes]


def _place(key: float, shares: SplitShares) -> str:
    if key < shares.val:
        return "val"
    return "test" if key < shares.val + shares.test else "train"


@dataclass(slots=True)
class _Balance:
    """How far each split is from its share of each label, in images."""

    units: Sequence[_Unit]
    shares: SplitShares
    off: dict[tuple[str, int], float] = field(init=False)
    total: Counter[int] = field(init=False)

    def __post_init__(self) -> None:
        self.total = Counter()
        for unit in self.units:
            self.total.update(unit.labels)
        self.off = {(s, label): -self.shares.of(s) * n for label, n in self.total.items() for s in self.shares.wanted}
        for unit in self.units:
            for label, count in unit.labels.items():
                self._add(unit.split, label, count)

    def _add(self, split: str, label: int, count: int) -> None:
        self.off[split, label] = self.off.get((split, label), 0.0) + count

    def move(self, unit: _Unit, split: str) -> None:
        for label, count in unit.labels.items():
            self._add(unit.split, label, -count)
            self._add(split, label, count)
        unit.split = split

    def gain(self, unit: _Unit, split: str) -> float:
        """How much a move brings all labels nearer to their shares: squares of distances, rare labels as dear as
        frequent ones."""
        gained = 0.0
        for label, count in unit.labels.items():
            here, there = self.off[unit.split, label], self.off.get((split, label), 0.0)
            change = here**2 + there**2 - (here - count) ** 2 - (there + count) ** 2
            gained += change / self.total[label] ** 0.5
        return gained

    def settle(self) -> None:
        """Move units while a move helps the label that is farthest from its share. Rare labels come first: frequent
        ones find other images to move."""
        holders: dict[int, list[_Unit]] = defaultdict(list)
        for unit in self.units:
            if not unit.fixed:
                for label in unit.labels:
                    holders[label].append(unit)
        for _ in range(3):  # a later label may have moved what an earlier one had settled
            moved = False
            for label in sorted(self.total, key=lambda label: (self.total[label], label)):
                while self._help(label, holders[label]):
                    moved = True
            if not moved:
                return

    def _help(self, label: int, holders: Sequence[_Unit]) -> bool:
        """One move for this label, or False when its shares are right to one image or nothing helps."""
        wanted = self.shares.wanted
        full = max(wanted, key=lambda split: self.off[split, label])
        lean = min(wanted, key=lambda split: self.off[split, label])
        if self.off[full, label] < 1 and self.off[lean, label] > -1:
            return False
        best: tuple[float, float] | None = None
        chosen: _Unit | None = None
        for unit in islice((unit for unit in holders if unit.split == full), CANDIDATES):
            gain = self.gain(unit, lean)
            if gain > 1e-9 and (best is None or (-gain, unit.key) < best):
                best, chosen = (-gain, unit.key), unit
        if chosen is None:
            return False
        self.move(chosen, lean)
        return True


def _fill(split: str, units: Sequence[_Unit], balance: _Balance) -> None:
    """Give a split one picture of each class it lacks, rarest class first, without emptying another of it."""
    count = Counter(label for unit in units for label in unit.holds())
    inside = {label for unit in units if unit.split == split for label in unit.holds()}
    for label in sorted(count, key=lambda c: (count[c], c)):
        if count[label] >= 2 and label not in inside:
            _move_one([unit for unit in units if label in unit.labels], split, units, balance)
            inside = {other for unit in units if unit.split == split for other in unit.holds()}
    if not any(unit.split == split for unit in units):
        _move_one(units, split, units, balance)


def _move_one(candidates: Iterable[_Unit], split: str, units: Sequence[_Unit], balance: _Balance) -> None:
    for unit in candidates:
        others = [other for other in units if other.split == unit.split and other is not unit]
        left_behind = {label for other in others for label in other.holds()}
        # The split that gives must keep a picture, and each class that it had.
        if not unit.fixed and others and left_behind.issuperset(unit.holds()):
            balance.move(unit, split)
            return


def _polish(units: Sequence[_Unit], balance: _Balance) -> None:
    splits, labels = balance.shares.wanted, sorted(balance.total)
    holders = Counter(label for unit in units for label in unit.labels)
    inside = [unit for unit in units if unit.split in splits]  # a recorded place may be in a split of no share
    task = Task(
        labels=np.array([[unit.labels.get(label, 0) for label in labels] for unit in inside], dtype=np.int64),
        total=np.array([balance.total[label] for label in labels]),
        shares=np.array([balance.shares.of(split) for split in splits]),
        classes=np.array([label >= 0 for label in labels]),
        several=np.array([label >= 0 and holders[label] > 1 for label in labels]),
        places=np.array([splits.index(unit.split) for unit in inside], dtype=np.int64),
        free=np.array([not unit.fixed for unit in inside]),
    )
    for unit, place in zip(inside, polished(task).tolist(), strict=True):
        if splits[place] != unit.split:
            balance.move(unit, splits[place])
