"""From the rules of `data.split` to the split of every image."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from detloom.data.build import CheckedImage
from detloom.data.findings import FindingBook
from detloom.data.layout import split_of
from detloom.data.splitting import SPLITS, SplitShares, assign_splits
from detloom.errors import DataError

SPLIT_FILE = "split.json"
"""What `detloom split` writes beside the data: who went where, and by which rules."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """Splits that were decided before. names: file name to split, each with the place where it is written; contents:
    sha256 to split."""

    names: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    contents: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.names or self.contents)


@dataclass(frozen=True, slots=True)
class SplitRules:
    """anew: all images are split, whatever the data say. group: see DataSplitConfig. recorded: images that are named
    there keep their split."""

    shares: SplitShares = field(default_factory=SplitShares)
    anew: bool = False
    group: str = ""
    recorded: Recorded = field(default_factory=Recorded)


def divide(
    images: Sequence[CheckedImage], declared: Mapping[str, set[str]], rules: SplitRules, book: FindingBook
) -> tuple[list[CheckedImage], str]:
    """The images in the splits that a training uses, and a sentence about the division, empty when none was made.

    declared: by source, the splits that its annotations speak of. A source with a validation split keeps its splits;
    one that is not split at all is; what has only a training part is split when no source has a validation split.
    """
    fixed = _recorded(images, rules.recorded, book)
    pool = [number for number, image in enumerate(images) if rules.anew or fixed[number] or _open(image, declared)]
    tests = set().union(*declared.values()) if not rules.anew else set()
    shares = replace(rules.shares, test=0.0) if "test" in tests else rules.shares
    free = [number for number in pool if not fixed[number]]
    if not any(fixed) and not rules.anew and (shares.val == 0 or len(free) < 2):
        pool = []
    places = _assigned([images[number] for number in pool], [fixed[number] for number in pool], shares, rules, book)
    found = dict(zip(pool, places, strict=True))
    moved = [replace(image, split=found.get(number, image.split)) for number, image in enumerate(images)]
    divided = [replace(image, split="train") if image.split == "all" else image for image in moved]
    return divided, _told(places, fixed, shares, rules) if pool else ""


def _open(image: CheckedImage, declared: Mapping[str, set[str]]) -> bool:
    """Whether nobody has said yet which split the image belongs to."""
    if image.split == "all":
        return "val" not in declared[image.source]
    return image.split == "train" and not any("val" in splits for splits in declared.values())


def _assigned(
    images: Sequence[CheckedImage], fixed: Sequence[str], shares: SplitShares, rules: SplitRules, book: FindingBook
) -> list[str]:
    return assign_splits(
        [image.sha256 for image in images],
        [frozenset(item.label for item in image.objects) for image in images],
        shares,
        groups=_groups(images, rules.group, book),
        fixed=fixed,
    )


def _told(places: Sequence[str], fixed: Sequence[str], shares: SplitShares, rules: SplitRules) -> str:
    counts = Counter(places)
    parts = [", ".join(f"{counts[split]} {split}" for split in SPLITS if split in counts)]
    parts += [f"{sum(map(bool, fixed))} as recorded"] if any(fixed) else []
    parts += ["stratified"] if shares.stratify else []
    parts += [f"in groups by {rules.group}"] if rules.group else []
    return "; ".join([*parts, f"seed {shares.seed}"])


# ---- groups -------------------------------------------------------------------------------------------------------


def _groups(images: Sequence[CheckedImage], rule: str, book: FindingBook) -> list[str]:
    """The group of each image; empty for one without."""
    if not rule:
        return [""] * len(images)
    of = _by_field(rule.removeprefix("field:").strip()) if rule.startswith("field:") else _by_name(rule)
    groups = [of(image) for image in images]
    for image, group in zip(images, groups, strict=True):
        if not group:
            book.add("no-group", image.file_name)
    return groups


def _by_field(name: str) -> Callable[[CheckedImage], str]:
    def group(image: CheckedImage) -> str:
        value = (image.fields or {}).get(name)
        return "" if value is None else str(value)

    return group


def _by_name(rule: str) -> Callable[[CheckedImage], str]:
    expression = re.compile(rule)

    def group(image: CheckedImage) -> str:
        match = expression.search(_own_name(image))
        if match is None:
            return ""
        return "\x1f".join(part or "" for part in match.groups()) if match.groups() else match.group()

    return group


def _own_name(image: CheckedImage) -> str:
    """The file name in its source, so that a rule does not depend on what the source is merged with."""
    return image.file_name.removeprefix(f"{image.source}/") if image.source else image.file_name


# ---- splits that were decided before --------------------------------------------------------------------------------


def _recorded(images: Sequence[CheckedImage], recorded: Recorded, book: FindingBook) -> list[str]:
    """The recorded split of each image, by content, else by name; empty for none."""
    found = [recorded.contents.get(image.sha256, "") for image in images]
    if not recorded.names:
        return found
    index = _index(images)
    for name, (split, place) in recorded.names.items():
        numbers = _meant(name, images, index)
        if not numbers:
            book.add("split-name-unknown", f"{place} ({name})")
        elif len({images[number].sha256 for number in numbers}) > 1:
            shown = ", ".join(images[number].file_name for number in numbers[:3])
            book.add("split-name-unclear", f"{place} ({name}: {shown})")
        for number in numbers:
            found[number] = found[number] or split
    return found


def _index(images: Sequence[CheckedImage]) -> dict[str, list[int]]:
    """Images by the last part of their names, with and without suffix."""
    index: dict[str, list[int]] = defaultdict(list)
    for number, image in enumerate(images):
        last = PurePosixPath(image.file_name.replace("\\", "/"))
        for key in {last.name, last.stem}:
            index[key].append(number)
    return index


def _meant(name: str, images: Sequence[CheckedImage], index: Mapping[str, list[int]]) -> list[int]:
    """The images that a written name may mean: exactly, else by its last parts, else without suffix."""
    wanted = PurePosixPath(name.replace("\\", "/"))
    near = index.get(wanted.name, [])
    ranks = [(_likeness(PurePosixPath(images[n].file_name.replace("\\", "/")), wanted), n) for n in near]
    best = max((rank for rank, _ in ranks), default=0)
    return [number for rank, number in ranks if rank == best and rank]


def _likeness(path: PurePosixPath, wanted: PurePosixPath) -> int:
    """How surely a written name means a path; 0: not at all."""
    if path == wanted:
        return 4
    if path.parts[-len(wanted.parts) :] == wanted.parts:
        return 3
    if path.with_suffix("").parts[-len(wanted.parts) :] == wanted.parts:
        return 2
    # A list may say images/train/a.jpg where the annotations say a.jpg.
    return 1 if wanted.parts[-len(path.parts) :] == path.parts else 0


def read_recorded(place: Path) -> Recorded:
    """split.json of an earlier division (or the folder that holds one), or a folder with lists of file names.

    Raises DataError naming the file and the line.
    """
    if place.is_dir() and (place / SPLIT_FILE).is_file():
        place /= SPLIT_FILE
    if place.is_file() and place.suffix.lower() == ".json":
        return _read_json(place)
    if not place.is_dir():
        what = "does not exist" if not place.exists() else "is neither a folder nor a json file"
        raise DataError(f"{place} {what} (data.split.files)", hint=f"name a {SPLIT_FILE}, or a folder with train.txt")
    names: dict[str, tuple[str, str]] = {}
    files = [path for path in sorted(place.glob("*.txt")) if split_of(path.stem)]
    if not files:
        raise DataError(f"{place} holds no train.txt, val.txt or test.txt (data.split.files)")
    for path in files:
        split = str(split_of(path.stem))
        for number, name in _lines(path):
            before = names.setdefault(name, (split, f"{path.name}:{number}"))
            if before[0] != split:
                raise DataError(f"{path}:{number}: {name} is in {before[1]} too (data.split.files)", hint="keep one")
    return Recorded(names)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line number and name; the columns that PASCAL VOC writes behind a name (`a 1`, `b -1`) do not belong to it."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error} (data.split.files)") from error
    for number, line in enumerate(text.splitlines(), start=1):
        name = re.sub(r"\s+-?[01]$", "", line.strip())
        if name and not name.startswith("#"):
            yield number, name


def _read_json(place: Path) -> Recorded:
    try:
        document = json.loads(place.read_text(encoding="utf-8-sig"))
        rows = [(split_of(str(split)), row) for split, entries in document["splits"].items() for row in entries]
        pairs = [(split, str(row["file_name"]), str(row.get("sha256", ""))) for split, row in rows]
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {place}: {error} (data.split.files)") from error
    except (KeyError, TypeError, AttributeError):
        hint = '{"splits": {"train": [{"file_name": "a.jpg", "sha256": "..."}], "val": [...]}}'
        raise DataError(f"{place} is not a record of splits (data.split.files)", hint=f"expected {hint}") from None
    unknown = sorted({str(split) for split in document["splits"] if split_of(str(split)) is None})
    if unknown:
        raise DataError(f"{place}: {', '.join(unknown)} is no split (data.split.files)", hint="train, val or test")
    contents = {sha: str(split) for split, _, sha in pairs if sha}
    return Recorded({name: (str(split), place.name) for split, name, sha in pairs if not sha}, contents)
