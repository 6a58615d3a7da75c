"""The one validator: records of any format become a Dataset, and whatever was not used becomes a finding."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from detloom.data.build import CheckedImage, build_split, digest_of
from detloom.data.codes import FILE_FAULTS
from detloom.data.dataset import ClassMap, Dataset, Split
from detloom.data.dividing import SplitRules, divide
from detloom.data.facts import Progress, gather_facts
from detloom.data.findings import FindingBook, Mark
from detloom.data.memory import collector_at_rest
from detloom.data.merging import Conflicts, keep_once
from detloom.data.mistaken import mistaken_splits
from detloom.data.objects import Frame, check_object, compare_objects, drop_duplicates
from detloom.data.overview import (
    Told,
    Written,
    compare_classes,
    compare_looks,
    compare_masks,
    compare_pictures,
    conflicting_classes,
    folded_names,
    missing_splits,
    similar_classes,
    written_in,
)
from detloom.data.pictures import Facts, Sizes, compare_names, frame_of, is_there, remark
from detloom.data.policy import Policy
from detloom.data.records import ClassRecord, Finding, ImageRecord


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """for_training: a training and a validation split must be there or be made; without it splits stay as they
    are. near_duplicates: look for pictures of one split that are nearly in another. marks: gets every single place of
    every finding. conflicts: what becomes of a picture that has other objects in two sources. sizes:
    what a written size means that is not the picture's."""

    split: SplitRules = field(default_factory=SplitRules)
    for_training: bool = True
    progress: Progress | None = None
    policy: Policy = field(default_factory=Policy)
    near_duplicates: bool = True
    marks: list[Mark] | None = None
    conflicts: Conflicts = "refuse"
    sizes: Sizes = "refuse"


@dataclass(slots=True)
class _Records:
    classes: list[ClassRecord] = field(default_factory=list)
    images: list[ImageRecord] = field(default_factory=list)


def validate(
    name: str, records: Iterable[ClassRecord | ImageRecord | Finding], options: ReadOptions
) -> tuple[Dataset | None, tuple[Finding, ...]]:
    """The dataset without anything that a finding says is left out, or None when nothing can be built; and what was
    found, as it counts under the policy."""
    told = Told(FindingBook(options.marks), FindingBook())
    with collector_at_rest():
        read = _collect(records, told.book)
    class_map = _class_map(read.classes, told)
    labels = _labels(class_map, read.classes)
    facts = _facts(read.images, options.progress)
    with collector_at_rest():
        written = written_in(read.images, labels)
        images = (
            _check_images(read.images, facts, labels, options.sizes, told)
            if labels
            else _look_only(read.images, facts, options.sizes, told)
        )
    told.book.sight = told.follow.sight = ("", "", None)
    if class_map is None or not images:
        if class_map is not None:
            told.add(not (told.book.codes() & {*FILE_FAULTS, "empty-split"} or read.images), "no-images")
        used = sum(len(image.objects) for image in images)
        return None, _settled(told, options.policy, len(images), used)
    images = _place(images, read.images, options, told)
    with collector_at_rest():
        splits = _build_splits(images)
    _look_over(splits, class_map, written, facts, options, told)
    objects = [item for image in images for item in image.objects]
    findings = _settled(told, options.policy, len(images), len(objects))
    dataset = Dataset(
        name=name,
        class_map=class_map,
        splits=splits,
        digest=digest_of(splits, class_map.names),
        findings=findings,
        has_boxes=any(item.had_box for item in objects),
        has_masks=any(item.rle is not None and not item.crowd for item in objects),
        has_keypoints=any(item.keypoints for item in objects),
    )
    return dataset, findings


def _settled(told: Told, policy: Policy, images: int, objects: int) -> tuple[Finding, ...]:
    return policy.settle(told.book.findings(), told.follow.findings(), images, objects)


def _collect(records: Iterable[ClassRecord | ImageRecord | Finding], book: FindingBook) -> _Records:
    read = _Records()
    for record in records:
        if isinstance(record, Finding):
            book.take(record)
        elif isinstance(record, ClassRecord):
            read.classes.append(record)
        else:
            read.images.append(record)
    return read


def _class_map(classes: Sequence[ClassRecord], told: Told) -> ClassMap | None:
    """Index = ascending id; formats without ids: by normalised name."""
    if not classes:
        told.add(not told.book.codes() & {*FILE_FAULTS, "bad-class"}, "no-classes")
        return None
    for finding in folded_names(classes):
        told.book.take(finding)
    if any(record.id is None for record in classes):
        names = sorted({" ".join(record.name.split()) for record in classes}, key=lambda n: (n.casefold(), n))
        similar_classes(names, told.book)
        return ClassMap(tuple(range(len(names))), tuple(names))
    by_id = conflicting_classes(classes, told.book)
    ids = tuple(sorted(by_id))
    similar_classes([by_id[class_id] for class_id in ids], told.book)
    return ClassMap(ids, tuple(by_id[class_id] for class_id in ids))


def _labels(class_map: ClassMap | None, classes: Sequence[ClassRecord]) -> Mapping[int | str, int]:
    """Class id and name to index. Those that contradict the map (an error of their own) mean what their other half
    says: their objects are not told as well."""
    if class_map is None:
        return {}
    labels: dict[int | str, int] = {class_id: index for index, class_id in enumerate(class_map.ids)}
    labels |= {name: index for index, name in enumerate(class_map.names)}
    for record in classes:
        name = " ".join(record.name.split())
        if record.id is not None and record.id not in labels and name in labels:
            labels[record.id] = labels[name]
    return labels


def _facts(records: Sequence[ImageRecord], progress: Progress | None) -> Facts:
    paths = [record.path for record in records if record.path is not None and record.fault is None]
    return gather_facts(paths, progress)


def _check_images(
    records: list[ImageRecord], facts: Facts, labels: Mapping[int | str, int], sizes: Sizes, told: Told
) -> list[CheckedImage]:
    """Images that can be used, with their objects; the records' own objects are gone then, so that large data do not
    lie in memory twice."""
    compare_names(records, told.book)
    frames = [frame for _, frame in _frames(records, facts, sizes, told.book)]
    there = [(n, frame) for n, frame in enumerate(frames) if frame is not None]
    mistaken = mistaken_splits(((records[n], frame) for n, frame in there), told.book)
    checked = []
    for n, frame in there:
        record, records[n] = records[n], replace(records[n], objects=())
        # What is said of boxes that mean something else altogether is no news.
        book = told.follow if (record.source, record.split) in mistaken else told.book
        checked.append(_check_image(record, facts, frame, labels, book))
    return checked


def _look_only(records: Sequence[ImageRecord], facts: Facts, sizes: Sizes, told: Told) -> list[CheckedImage]:
    """Without classes nothing can be said of objects."""
    list(_frames(records, facts, sizes, told.book))
    return []


def _frames(
    records: Sequence[ImageRecord], facts: Facts, sizes: Sizes, book: FindingBook
) -> Iterable[tuple[ImageRecord, Frame | None]]:
    """Of every record; None for those that cannot be used."""
    for record in records:
        if is_there(record, book):
            assert record.path is not None
            yield record, frame_of(record, facts[record.path], sizes, book)
        else:
            yield record, None


def _check_image(
    record: ImageRecord, facts: Facts, frame: Frame, labels: Mapping[int | str, int], book: FindingBook
) -> CheckedImage:
    assert record.path is not None
    book.sight = (record.split, record.file_name, record.path)
    remark(record, facts[record.path], book)
    objects = [check_object(item, frame, labels, book) for item in record.objects]
    kept = drop_duplicates([item for item in objects if item is not None], record.file_name, book)
    compare_objects(kept, record.file_name, book)
    return CheckedImage(
        record.split,
        record.id,
        record.file_name,
        record.path,
        frame.width,
        frame.height,
        facts[record.path].sha256,
        tuple(kept),
        record.where,
        record.source,
        record.fields,
    )


def _place(
    images: list[CheckedImage], records: Sequence[ImageRecord], options: ReadOptions, told: Told
) -> list[CheckedImage]:
    """Every image in the split that it is used in, and each picture of several sources once."""
    declared: dict[str, set[str]] = defaultdict(set)
    for record in records:
        declared[record.source].add(record.split)
    for split in sorted(set().union(*declared.values()) - {image.split for image in images}):
        told.add(False, "empty-split", f"{split} (none of its images can be used)")
    images = keep_once(images, options.conflicts, told.book)
    if not options.for_training:
        return _with_parts_named(images, told)
    divided, text = divide(images, declared, options.split, told.book)
    if text:
        unsure = told.book.codes() & {*FILE_FAULTS, "empty-split"}
        told.add(not unsure, "split-made", text)
    return divided


def _with_parts_named(images: list[CheckedImage], told: Told) -> list[CheckedImage]:
    """What belongs to no split is `all` where nothing else is there; beside splits it would be lost in most formats."""
    loose = sum(image.split == "all" for image in images)
    if loose in (0, len(images)):
        return images
    told.book.add("part-not-split", count=loose)
    return [replace(image, split="train") if image.split == "all" else image for image in images]


def _build_splits(images: Sequence[CheckedImage]) -> dict[str, Split]:
    groups: dict[str, list[CheckedImage]] = defaultdict(list)
    for image in images:
        groups[image.split].append(image)
    order = [name for name in ("train", "val", "test", "all") if name in groups]
    return {name: build_split(name, groups[name]) for name in (*order, *sorted(set(groups) - set(order)))}


def _look_over(
    splits: Mapping[str, Split],
    class_map: ClassMap,
    written: Written,
    facts: Facts,
    options: ReadOptions,
    told: Told,
) -> None:
    compare_pictures(splits, told.book)
    if options.near_duplicates:
        compare_looks(splits, facts, told.book)
    told.book.sight = told.follow.sight = ("", "", None)
    compare_classes(splits, class_map, written, told)
    compare_masks(splits, written, told)
    if options.for_training:
        missing_splits(splits, written, "empty-split" in options.policy.allow, told)
