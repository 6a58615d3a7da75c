"""Several sources as one: one list of classes, new ids, names that clash nowhere, the same picture once.

Two steps around the validator, which knows nothing of sources: `merged` joins what the formats read, before it;
`keep_once` joins pictures that are in several sources, when their content and their objects are known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from detloom.data.build import CheckedImage
from detloom.data.findings import FindingBook, found
from detloom.data.masks import rle_iou
from detloom.data.objects import CheckedObject
from detloom.data.overview import folded_names
from detloom.data.records import ClassRecord, Finding, ImageRecord, ObjectRecord
from detloom_schemas.base import class_key

Record = ClassRecord | ImageRecord | Finding
Conflicts = Literal["refuse", "first", "union"]

SAME_BOX_PX = 1.01
"""Boxes whose edges differ by at most this are the same: formats round, and some count pixels from 1."""

SAME_MASK_IOU = 0.95
"""Masks that share at least this are the same."""


@dataclass(frozen=True, slots=True)
class ClassRules:
    """aliases: other name to class; drop: classes to leave out. Spellings do not count (see class_key)."""

    aliases: Mapping[str, str] = field(default_factory=dict)
    drop: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(self.aliases or self.drop)

    def meaning(self, name: str) -> tuple[str, str]:
        """Key and name of the class that this name means."""
        table = {class_key(other): to for other, to in self.aliases.items()}
        key = class_key(name)
        while key in table and class_key(table[key]) != key:
            name, key = table[key], class_key(table[key])
        return key, table.get(key, name)


@dataclass(slots=True)
class Part:
    """What one source holds. name: prefix of its file names; empty for a source that is alone. classes: its names of
    classes and ours, None for one that is left out; filled while its records are read."""

    name: str
    records: Iterable[Record]
    classes: dict[str, str | None] = field(default_factory=dict)

    def said(self, where: str) -> str:
        """A place, with the source that it is in."""
        return ": ".join(text for text in (self.name, where) if text)


def merged(parts: Sequence[Part], rules: ClassRules) -> Iterator[Record]:
    """One stream of records: findings and classes first, then the images of each part in turn."""
    table = _ClassTable(rules, fold=len(parts) > 1)
    read = []
    for part in parts:
        own = _Own(part)
        for record in part.records:
            if isinstance(record, Finding):
                yield replace(record, where=part.said(record.where))
            elif isinstance(record, ClassRecord):
                own.classes.append(record)
            else:
                own.images.append(record)
        yield from table.take(own)
        read.append(own)
    yield from table.records()
    yield from table.remarks([own.part for own in read])
    numbers = _Numbers()
    left_out: Counter[str] = Counter()
    for own in read:
        yield from _images(own, numbers if len(parts) > 1 else None, left_out)
    for name, count in sorted(left_out.items()):
        yield found("class-left-out", f"{name} ({count} objects)", objects=count)


@dataclass(slots=True)
class _Own:
    """One part as it was read, and what its names and ids of classes mean here (None: left out)."""

    part: Part
    classes: list[ClassRecord] = field(default_factory=list)
    images: list[ImageRecord] = field(default_factory=list)
    by_id: dict[int, str | None] = field(default_factory=dict)
    by_name: dict[str, str | None] = field(default_factory=dict)
    spellings: dict[int, str] = field(default_factory=dict)

    def spelling(self, number: int) -> str:
        """The name of a class id, or the id itself where the source does not list it."""
        return self.spellings.get(number, str(number))


@dataclass(slots=True)
class _Merged:
    """A class of the whole."""

    name: str
    id: int
    where: str
    parts: set[str] = field(default_factory=set)
    spellings: set[str] = field(default_factory=set)


class _ClassTable:
    """Classes of all parts. The first part keeps its ids; what later ones add is counted on from there, so that a
    source at the end of the list changes no id."""

    def __init__(self, rules: ClassRules, *, fold: bool) -> None:
        self._rules, self._fold = rules, fold
        self._touched = {class_key(name) for pair in rules.aliases.items() for name in pair}
        self._dropped = {class_key(name): name for name in rules.drop}
        self._classes: dict[str, _Merged] = {}
        self._met: set[str] = set()

    def take(self, own: _Own) -> Iterator[Finding]:
        """Read the classes of a part; faults within its own list are found here, where its own ids are known."""
        names, ids = own.spellings, dict[str, int]()
        groups: dict[str, list[tuple[bool, ClassRecord, str]]] = {}
        for finding in folded_names(own.classes):
            yield replace(finding, where=own.part.said(finding.where))
        for record in own.classes:
            written = " ".join(record.name.split())
            if record.id is not None:
                if names.get(record.id, written) != written:
                    where = own.part.said(f"{record.where} ({written!r} and {names[record.id]!r})")
                    yield found("duplicate-class-id", where)
                    continue
                if ids.get(written, record.id) != record.id:
                    where = own.part.said(f"{record.where} ({written!r}: ids {ids[written]} and {record.id})")
                    yield found("duplicate-class-name", where)
                    continue
                names[record.id], ids[written] = written, record.id
            elif written in own.by_name:
                continue
            key, name = self._meaning(written)
            own.by_name[written] = None if key is None else name
            if record.id is not None:
                own.by_id[record.id] = own.by_name[written]
            own.part.classes.setdefault(written, None)
            if key is not None:
                groups.setdefault(key, []).append((class_key(written) != class_key(name), record, name))
        self._number(groups, own.part)
        for written, (key, _) in ((written, self._meaning(written)) for written in own.by_name):
            own.by_name[written] = own.part.classes[written] = None if key is None else self._classes[key].name
        own.by_id = {number: own.by_name[written] for number, written in names.items()}

    def _meaning(self, written: str) -> tuple[str | None, str]:
        """Key and name of the class; the key is None for one that is left out."""
        key = class_key(written)
        self._met.add(key)
        if key in self._dropped:
            return None, written
        meant, name = self._rules.meaning(written)
        self._met.add(meant)
        if meant in self._dropped:
            return None, written
        return (meant, name) if self._fold or key in self._touched else (f"exactly {written}", written)

    def _number(self, groups: Mapping[str, Sequence[tuple[bool, ClassRecord, str]]], part: Part) -> None:
        """Give new classes their ids: a class's own name counts before its aliases."""
        first = not self._classes
        fresh = []
        for key, members in groups.items():
            aliased, record, name = min(members, key=lambda m: (m[0], m[1].id if m[1].id is not None else -1))
            del aliased
            if key not in self._classes:
                fresh.append((record.id, name.casefold(), name, key, record.where))
        by_number = first and all(row[0] is not None for row in fresh)
        fresh.sort(key=lambda row: (row[0] or 0, row[1], row[2]) if row[0] is not None else (0, row[1], row[2]))
        following = max((known.id for known in self._classes.values()), default=-1) + 1
        for position, (number, _, name, key, where) in enumerate(fresh):
            own_id = number if by_number and number is not None else following + position
            self._classes[key] = _Merged(name, own_id, part.said(where))
        for key, members in groups.items():
            self._classes[key].parts.add(part.name)
            self._classes[key].spellings |= {" ".join(record.name.split()) for _, record, _ in members}

    def records(self) -> Iterator[ClassRecord]:
        for known in self._classes.values():
            yield ClassRecord(known.id, known.name, known.where)

    def remarks(self, parts: Sequence[Part]) -> Iterator[Finding]:
        """What the user should know of classes that were matched, and of those that were not."""
        for known in self._classes.values():
            if len(known.spellings) > 1:
                yield found("classes-joined", f"{known.name} ({', '.join(sorted(known.spellings))})")
            lacking = [part.name for part in parts if part.name not in known.parts]
            if lacking:
                yield found("class-unknown-to-source", f"{known.name} (not in {', '.join(lacking)})")
        for setting, names in (("class_aliases", self._rules.aliases), ("drop_classes", self._rules.drop)):
            for name in names:
                if class_key(name) not in self._met:
                    yield found("class-not-there", f"{name} (data.{setting})")


@dataclass(slots=True)
class _Numbers:
    """New ids of images: what had one id in one place has one again."""

    given: dict[tuple[str, str, int | str], int] = field(default_factory=dict)
    last: int = 0

    def of(self, part: str, record: ImageRecord) -> int:
        if record.id is not None and (part, record.split, record.id) in self.given:
            return self.given[part, record.split, record.id]
        self.last += 1
        if record.id is not None:
            self.given[part, record.split, record.id] = self.last
        return self.last


def _images(own: _Own, numbers: _Numbers | None, left_out: Counter[str]) -> Iterator[ImageRecord]:
    """numbers: None for a source that is alone, which keeps its ids and names."""
    part = own.part
    own.images.reverse()
    while own.images:  # each is let go when it is passed on
        record = own.images.pop()
        objects = tuple(_objects(record.objects, own, left_out, renumber=numbers is not None))
        if numbers is None:
            yield replace(record, objects=objects)
            continue
        fault = record.fault
        yield replace(
            record,
            objects=objects,
            id=numbers.of(part.name, record),
            file_name=f"{part.name}/{record.file_name}",
            where=part.said(record.where),
            source=part.name,
            fault=fault and replace(fault, where=part.said(fault.where)),
        )


def _objects(
    objects: Iterable[ObjectRecord], own: _Own, left_out: Counter[str], *, renumber: bool
) -> Iterator[ObjectRecord]:
    for item in objects:
        written, known, meant = _class_of(item, own)
        if known and meant is None:
            left_out[written] += 1
            continue
        # A class that the source does not list must not become one of another source that has its id or its name.
        name = meant if meant is not None else f"{written} (not in the classes of {own.part.name or 'the data'})"
        mine = replace(item, id=None, where=own.part.said(item.where)) if renumber else item
        yield mine if written == "" else replace(mine, class_id=None, class_name=name)


def _class_of(item: ObjectRecord, own: _Own) -> tuple[str, bool, str | None]:
    """(as written, whether the source lists it, our name). Nothing written: empty text."""
    if item.class_name is not None:
        written = " ".join(item.class_name.split())
        return written, written in own.by_name, own.by_name.get(written)
    if isinstance(item.class_id, int) and not isinstance(item.class_id, bool):
        return own.spelling(item.class_id), item.class_id in own.by_id, own.by_id.get(item.class_id)
    return ("" if item.class_id is None else str(item.class_id)), False, None


# ---- the same picture in several sources ------------------------------------------------------------------------


def keep_once(images: Sequence[CheckedImage], conflicts: Conflicts, book: FindingBook) -> list[CheckedImage]:
    """Pictures that are in several sources, kept once, where the first of them stands. The book says what became of
    each; images of one source are never compared with each other."""
    first: dict[str, int] = {}
    kept: list[CheckedImage] = []
    for image in images:
        place = first.setdefault(image.sha256, len(kept))
        if place == len(kept) or kept[place].source == image.source:
            kept.append(image)
            continue
        kept[place] = _joined(kept[place], image, conflicts, book)
    book.sight = ("", "", None)
    return kept


def _joined(kept: CheckedImage, other: CheckedImage, conflicts: Conflicts, book: FindingBook) -> CheckedImage:
    split = other.split if kept.split == "all" else kept.split
    extra = unmatched(other.objects, kept.objects)
    places = f"{kept.where} ({kept.file_name}) = {other.where} ({other.file_name})"
    book.sight = (other.split, other.file_name, other.path)
    if not extra and len(other.objects) == len(kept.objects):
        book.add("picture-in-two-sources", places, images=1, objects=len(other.objects), other=kept.path)
        return replace(kept, split=split)
    places += f": {len(kept.objects)} and {len(other.objects)} objects"
    if conflicts == "union":
        places = f"{places}, {len(kept.objects) + len(extra)} together"
        book.add("labels-joined", places, images=1, objects=len(other.objects) - len(extra), other=kept.path)
        return replace(kept, split=split, objects=(*kept.objects, *extra))
    code = "labels-of-first" if conflicts == "first" else "conflicting-labels"
    book.add(code, places, images=1, objects=len(other.objects), other=kept.path)
    return replace(kept, split=split)


def unmatched(objects: Sequence[CheckedObject], among: Sequence[CheckedObject]) -> list[CheckedObject]:
    """Those that have no equal of their own among the others: class, crowd flag, box and mask."""
    free = list(among)
    rest = []
    for item in objects:
        twin = next((other for other in free if _same(item, other)), None)
        if twin is None:
            rest.append(item)
        else:
            free.remove(twin)
    return rest


def _same(one: CheckedObject, other: CheckedObject) -> bool:
    if (one.label, one.crowd, one.rle is None) != (other.label, other.crowd, other.rle is None):
        return False
    if any(abs(a - b) > SAME_BOX_PX for a, b in zip(one.box, other.box, strict=True)):
        return False
    if one.rle is None or other.rle is None or one.rle["counts"] == other.rle["counts"]:
        return True
    return rle_iou(one.rle, other.rle) >= SAME_MASK_IOU
