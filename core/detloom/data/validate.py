"""The one validator: records of any format become a Dataset, and whatever was not used becomes a finding."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from detloom.data.build import CheckedImage, build_split, digest_of
from detloom.data.dataset import ClassMap, Dataset, Split
from detloom.data.facts import ImageFacts, Progress, gather_facts
from detloom.data.findings import FindingBook
from detloom.data.objects import CheckedObject, Frame, check_object, drop_duplicates
from detloom.data.records import ClassRecord, Finding, ImageRecord
from detloom.data.splitting import SplitShares, assign_splits


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """for_training: a training and a validation split must be there or be made; without it splits stay as they
    are."""

    shares: SplitShares = field(default_factory=SplitShares)
    for_training: bool = True
    progress: Progress | None = None


@dataclass(slots=True)
class _Records:
    classes: list[ClassRecord] = field(default_factory=list)
    images: list[ImageRecord] = field(default_factory=list)


def validate(
    name: str, records: Iterable[ClassRecord | ImageRecord | Finding], options: ReadOptions
) -> tuple[Dataset | None, tuple[Finding, ...]]:
    """The dataset without anything that a finding says is left out, or None when nothing can be built."""
    book = FindingBook()
    read = _collect(records, book)
    class_map = _class_map(read.classes, book)
    images = _check_images(read.images, class_map, book, options.progress)
    if class_map is None:
        return None, book.findings()
    if not images:
        book.add("no-images")
        return None, book.findings()
    declared = {record.split for record in read.images}
    for split in sorted(declared - {image.split for image in images}):
        book.add("empty-split", f"{split} (none of its images can be used)")
    if options.for_training and "val" not in declared:
        images = _split(images, options.shares, book)
    if options.for_training:
        images = [replace(image, split="train") if image.split == "all" else image for image in images]
    splits = _build_splits(images)
    _compare_splits(splits, class_map, book)
    objects = [item for image in images for item in image.objects]
    _look_over(objects, splits, options, book)
    findings = book.findings()
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


def _class_map(classes: Sequence[ClassRecord], book: FindingBook) -> ClassMap | None:
    """Index = ascending id; formats without ids: by normalised name."""
    if not classes:
        book.add("no-classes")
        return None
    if any(record.id is None for record in classes):
        names = sorted({" ".join(record.name.split()) for record in classes}, key=lambda n: (n.casefold(), n))
        return ClassMap(tuple(range(len(names))), tuple(names))
    by_id: dict[int, str] = {}
    by_name: dict[str, int] = {}
    for record in classes:
        assert record.id is not None
        if by_id.get(record.id, record.name) != record.name:
            book.add("duplicate-class-id", f"{record.where} ({record.name!r} and {by_id[record.id]!r})")
        elif by_name.get(record.name, record.id) != record.id:
            book.add(
                "duplicate-class-name", f"{record.where} ({record.name!r}: ids {by_name[record.name]} and {record.id})"
            )
        else:
            by_id[record.id] = record.name
            by_name[record.name] = record.id
    ids = tuple(sorted(by_id))
    return ClassMap(ids, tuple(by_id[class_id] for class_id in ids))


def _check_images(
    records: Sequence[ImageRecord], class_map: ClassMap | None, book: FindingBook, progress: Progress | None
) -> list[CheckedImage]:
    for record in records:
        if record.path is None:
            book.add("missing-image", f"{record.where} ({record.file_name})")
    present = [record for record in records if record.path is not None]
    facts = gather_facts([record.path for record in present if record.path is not None], progress)
    labels = _labels(class_map)
    checked = []
    seen: dict[tuple[str, object], object] = {}
    for record in present:
        assert record.path is not None
        frame = _frame(record, facts[record.path], book)
        if frame is None:
            continue
        key = (record.split, record.path)
        if key in seen and seen[key] != record.id:
            book.add("duplicate-image-file", f"{record.where} ({record.file_name})")
        seen[key] = record.id
        checked.append(_check_image(record, facts[record.path], frame, labels, book))
    return checked


def _labels(class_map: ClassMap | None) -> Mapping[int | str, int]:
    if class_map is None:
        return {}
    by_id: dict[int | str, int] = {class_id: index for index, class_id in enumerate(class_map.ids)}
    return by_id | {name: index for index, name in enumerate(class_map.names)}


def _frame(record: ImageRecord, facts: ImageFacts, book: FindingBook) -> Frame | None:
    """None when the picture is unusable or is not the one that was annotated."""
    if facts.fault:
        book.add(facts.fault, f"{record.where} ({record.file_name}: {facts.reason})")
        return None
    written, upright = (record.width, record.height), (facts.width, facts.height)
    if None in written or written == upright:
        if facts.orientation != 1:
            book.add("exif-orientation", record.file_name)
        return Frame(facts.width, facts.height)
    if written == (facts.raw_width, facts.raw_height):
        book.add("exif-raw-boxes", f"{record.where} ({record.file_name}: EXIF orientation {facts.orientation})")
        return Frame(facts.width, facts.height, facts.orientation)
    book.add(
        "size-mismatch",
        f"{record.where} ({record.file_name}: written {record.width}x{record.height}, "
        f"the picture has {facts.width}x{facts.height})",
    )
    return None


def _check_image(
    record: ImageRecord, facts: ImageFacts, frame: Frame, labels: Mapping[int | str, int], book: FindingBook
) -> CheckedImage:
    objects = [check_object(item, frame, labels, book) for item in record.objects]
    kept = drop_duplicates([item for item in objects if item is not None], record.file_name, book)
    if not record.objects:
        book.add("image-without-objects", record.file_name)
    assert record.path is not None
    return CheckedImage(
        record.split,
        record.id,
        record.file_name,
        record.path,
        frame.width,
        frame.height,
        facts.sha256,
        tuple(kept),
        record.where,
    )


def _split(images: list[CheckedImage], shares: SplitShares, book: FindingBook) -> list[CheckedImage]:
    """Data without a validation split are split; `test` stays what it is."""
    present = {image.split for image in images}
    pool = [image for image in images if image.split in ("all", "train")]
    if shares.val == 0 or len(pool) < 2:
        return images
    wanted = replace(shares, test=0.0) if "test" in present else shares
    hashes = [image.sha256 for image in pool]
    places = assign_splits(hashes, [frozenset(item.label for item in image.objects) for image in pool], wanted)
    counts = {name: places.count(name) for name in ("train", "val", "test") if name in places}
    text = ", ".join(f"{count} {name}" for name, count in counts.items())
    book.add("split-made", f"{text}; seed {shares.seed}")
    moved = [replace(image, split=place) for image, place in zip(pool, places, strict=True)]
    return moved + [image for image in images if image.split not in ("all", "train")]


def _build_splits(images: Sequence[CheckedImage]) -> dict[str, Split]:
    groups: dict[str, list[CheckedImage]] = defaultdict(list)
    for image in images:
        groups[image.split].append(image)
    order = [name for name in ("train", "val", "test", "all") if name in groups]
    return {name: build_split(name, groups[name]) for name in (*order, *sorted(set(groups) - set(order)))}


def _compare_splits(splits: Mapping[str, Split], class_map: ClassMap, book: FindingBook) -> None:
    """The same picture twice, and classes that a split lacks."""
    owners: dict[str, tuple[str, str]] = {}
    for split in splits.values():
        for image in split.images:
            split_name, file_name = owners.setdefault(image.sha256, (split.name, image.file_name))
            if split_name != split.name:
                book.add("leakage", f"{split_name}/{file_name} = {split.name}/{image.file_name}")
            elif file_name != image.file_name:
                book.add("same-picture", f"{split.name}: {file_name} = {image.file_name}")
    present = {name: {int(label) for label in split.labels} for name, split in splits.items()}
    anywhere = set().union(*present.values())
    for index, name in enumerate(class_map.names):
        if index not in anywhere:
            book.add("class-without-objects", name)
            continue
        lacking = [split for split, labels in present.items() if index not in labels]
        if lacking:
            book.add("class-missing-in-split", f"{name} (not in {', '.join(lacking)})")


def _look_over(
    objects: Sequence[CheckedObject], splits: Mapping[str, Split], options: ReadOptions, book: FindingBook
) -> None:
    if not objects:
        book.add("no-annotations")
    masked = sum(item.rle is not None for item in objects if not item.crowd)
    plain = sum(item.rle is None for item in objects if not item.crowd)
    if masked and plain:
        book.add("partial-masks", f"{masked} with a mask, {plain} without", count=plain)
    train = splits.get("train")
    if options.for_training and objects and train is not None and not (~train.crowd).any():
        book.add("train-without-objects")
    if options.for_training and "train" not in splits:
        book.add("no-training-split")
    if options.for_training and "val" not in splits:
        book.add("no-validation-split")
