"""What the check says of the data as a whole: classes, splits, and pictures that are in two of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from detloom.data.codes import CODES, FILE_FAULTS
from detloom.data.findings import FindingBook, found
from detloom.data.layout import brief
from detloom.data.objects import label_of
from detloom.data.records import ClassRecord, Finding, ImageRecord

if TYPE_CHECKING:
    from detloom.data.dataset import ClassMap, Split
    from detloom.data.facts import ImageFacts


@dataclass(slots=True)
class Told:
    """Where findings about the whole go. book: as they are; follow: what is only so because of what other findings
    left out."""

    book: FindingBook
    follow: FindingBook

    def add(self, own: bool, code: str, where: str = "") -> None:
        (self.book if own else self.follow).add(code, where)


@dataclass(slots=True)
class Written:
    """What the annotations list, before anything is left out. labels: split to class indices; train: whether the
    training split lists an object that is no crowd; masked, plain: objects with and without a mask."""

    labels: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    images: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    train: bool = False
    masked: int = 0
    plain: int = 0


def written_in(records: Iterable[ImageRecord], labels: Mapping[int | str, int]) -> Written:
    """labels: class id or name to index."""
    sums = Written()
    for record in records:
        sums.images[record.split] += 1
        held = sums.labels[record.split]
        for item in record.objects:
            label = label_of(item, labels)
            if label is not None:
                held.add(label)
            if not item.crowd:
                sums.train = sums.train or record.split in ("train", "all")
                masked = item.segmentation not in (None, [], {})
                sums.masked += masked
                sums.plain += not masked
    return sums


def folded_names(classes: Iterable[ClassRecord]) -> Iterator[Finding]:
    """Names that are not read as they are written, each once."""
    for name, where in {record.name: record.where for record in reversed(list(classes))}.items():
        single = " ".join(name.split())
        if single != name:
            yield found("class-name-spaces", f"{where} ({brief(name)}, read as {brief(single)})")


def similar_classes(names: Sequence[str], book: FindingBook) -> None:
    owners: dict[str, str] = {}
    for name in names:
        other = owners.setdefault(" ".join(name.casefold().replace("_", " ").replace("-", " ").split()), name)
        if other != name:
            book.add("similar-classes", f"{other!r} and {name!r}")


def conflicting_classes(classes: Sequence[ClassRecord], book: FindingBook) -> dict[int, str]:
    """Id to name of classes that have both; of clashing ones the first counts."""
    by_id: dict[int, str] = {}
    by_name: dict[str, int] = {}
    for record in classes:
        assert record.id is not None
        name = " ".join(record.name.split())
        if by_id.get(record.id, name) != name:
            book.add("duplicate-class-id", f"{record.where} ({name!r} and {by_id[record.id]!r})")
        elif by_name.get(name, record.id) != record.id:
            book.add("duplicate-class-name", f"{record.where} ({name!r}: ids {by_name[name]} and {record.id})")
        else:
            by_id[record.id] = name
            by_name[name] = record.id
    return by_id


def compare_classes(splits: Mapping[str, Split], class_map: ClassMap, written: Written, told: Told) -> None:
    """Classes and splits that lack something."""
    present = {name: {int(label) for label in split.labels} for name, split in splits.items()}
    anywhere = set().union(*present.values())
    listed = set().union(*written.labels.values())
    sure = not told.book.codes() & FILE_FAULTS
    if not anywhere:
        told.add(sure and not listed, "no-annotations")
        return
    train = splits.get("train")
    if train is not None and not (~train.crowd).any():
        told.add(sure and not written.train, "train-without-objects")
        del present["train"]
    for index, name in enumerate(class_map.names):
        if index not in anywhere:
            told.add(sure and index not in listed, "class-without-objects", name)
            continue
        lacking = [split for split, labels in present.items() if index not in labels]
        # Images without a split of their own were given one here: what the annotations list says nothing of it.
        own = any(index not in written.labels[split] for split in lacking) or "all" in written.labels
        if lacking:
            told.add(sure and own, "class-missing-in-split", f"{name} (not in {', '.join(lacking)})")


def compare_masks(splits: Mapping[str, Split], written: Written, told: Told) -> None:
    rows = [(rle is not None) for split in splits.values() for rle, crowd in _objects(split) if not crowd]
    masked = sum(rows)
    plain = len(rows) - masked
    if masked and plain:
        own = bool(written.masked and written.plain)
        message = f"{CODES['partial-masks'].message}: {masked} with a mask, {plain} without"
        (told.book if own else told.follow).add("partial-masks", message=message, count=plain)


def _objects(split: Split) -> Iterable[tuple[object, bool]]:
    return zip(split.rles, split.crowd.tolist(), strict=True)


def missing_splits(splits: Iterable[str], written: Written, empty_allowed: bool, told: Told) -> None:
    """A training needs two splits. empty_allowed: whether `empty-split` may be passed over."""
    unsure = bool(told.book.codes() & {*FILE_FAULTS, "empty-split", "bad-record"})
    for split, code in (("train", "no-training-split"), ("val", "no-validation-split")):
        if split in splits:
            continue
        if split not in written.images:
            # A folder without its annotation file says why the split is missing.
            folder = told.book.take_back("split-without-annotations", f"{split}/") if split == "train" else ""
            told.add(not unsure, code, f"{folder} has no annotation file" if folder else "")
        elif empty_allowed:
            told.add(False, code)


def compare_pictures(splits: Mapping[str, Split], book: FindingBook) -> None:
    """The same file content twice."""
    owners: dict[str, tuple[str, str, Path]] = {}
    for split in splits.values():
        for image in split.images:
            book.sight = (split.name, image.file_name, image.path)
            name, file_name, path = owners.setdefault(image.sha256, (split.name, image.file_name, image.path))
            if name != split.name:
                book.add("leakage", f"{name}/{file_name} = {split.name}/{image.file_name}", other=path)
            elif file_name != image.file_name:
                book.add("same-picture", f"{name}: {file_name} = {image.file_name}", other=path)


def compare_looks(splits: Mapping[str, Split], facts: Mapping[Path, ImageFacts], book: FindingBook) -> None:
    """Pictures of one split that are nearly one of another: each is told once, with the nearest."""
    from detloom.data.similar import CERTAIN_BITS, MAX_LOOKS, near_pairs, same_to_the_eye

    order = [splits[name] for name in ("train", "val", "test") if name in splits]
    prints = [[facts[image.path].fingerprint for image in split.images] for split in order]
    looks = 0
    for later in range(1, len(order)):
        for earlier in range(later):
            one, two = order[earlier], order[later]
            for pair in near_pairs(prints[earlier], prints[later]):
                first, second = one.images[pair.first], two.images[pair.second]
                if first.sha256 == second.sha256:
                    continue
                looks += 1
                near = same_to_the_eye(first.path, second.path) if looks <= MAX_LOOKS else pair.bits <= CERTAIN_BITS
                if near:
                    book.sight = (two.name, second.file_name, second.path)
                    where = f"{one.name}/{first.file_name} ~ {two.name}/{second.file_name}"
                    book.add("near-leakage", where, other=first.path)
