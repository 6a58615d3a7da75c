"""A corrected copy of a data set, and the list of everything in it that is not as it was written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from detloom.data.codes import CODES
from detloom.data.dataset import Dataset, select_images
from detloom.data.findings import Box, Mark, found
from detloom.data.records import Finding
from detloom.files import write_json, write_text

CHANGES = "changes"
"""Folder of the list of changes: at the top of the copy a json file would look like annotations."""

_ALSO = frozenset(
    {
        "area-mismatch",
        "placeholder-class",
        "case-clash",
        "class-name-spaces",
        "picture-in-two-sources",
        "labels-of-first",
        "labels-joined",
        "class-left-out",
    }
)
"""No fault that mends or drops, and yet the copy is different there."""


@dataclass(frozen=True, slots=True)
class Change:
    """One place. action: what was done; image: file name; where: as in findings; before, after: boxes, xyxy in pixels
    of the upright picture."""

    code: str
    action: str
    split: str
    image: str
    where: str
    count: int = 1
    before: Box | None = None
    after: Box | None = None


class Writer(Protocol):
    def write(self, dataset: Dataset, dest: Path, copy_images: bool = False) -> Sequence[Path]: ...


@dataclass(frozen=True, slots=True)
class FixedCopy:
    """A format that also writes the list of changes. remaining: warnings that no copy can mend."""

    writer: Writer
    changes: Sequence[Change]
    remaining: Sequence[Finding]

    def write(self, dataset: Dataset, dest: Path, copy_images: bool = False) -> Sequence[Path]:
        written = self.writer.write(dataset, dest, copy_images)
        folder = dest / CHANGES
        folder.mkdir()
        write_json(folder / "changes.json", changes_json(dataset.name, self.changes, self.remaining))
        write_text(folder / "changes.txt", _as_text(dataset.name, self.changes, self.remaining))
        return written


def changes_json(name: str, changes: Sequence[Change], remaining: Sequence[Finding]) -> dict[str, Any]:
    return {
        "name": name,
        "changes": [asdict(change) for change in changes],
        "remaining": [asdict(finding) for finding in remaining],
    }


def fixed(dataset: Dataset, findings: Sequence[Finding], marks: Sequence[Mark]) -> tuple[Dataset, list[Change]]:
    """The data as they are to be written, and what was done to them. findings, marks: of the check that made them."""
    severities = {finding.code: finding.severity for finding in findings}
    changes = [_change(mark) for mark in marks if mark.code in severities and _is_change(mark.code)]
    dataset, leaks = _without_leaks(dataset)
    if dataset.has_keypoints:
        lost = found("keypoints-lost")
        changes.append(Change(lost.code, lost.message, "", "", dataset.name))
    return dataset, changes + leaks


def remaining(findings: Sequence[Finding]) -> list[Finding]:
    """Warnings that the copy still has."""
    return [f for f in findings if f.severity == "warning" and not _is_change(f.code) and f.code != "leakage"]


def _is_change(code: str) -> bool:
    known = CODES.get(code)
    return known is not None and (known.severity == "error" or known.mends or bool(known.leaves) or code in _ALSO)


def _change(mark: Mark) -> Change:
    known = CODES[mark.code]
    action = "left out" if known.severity == "error" else known.remedy
    if mark.code == "case-clash":
        action = "renamed"
    return Change(mark.code, action, mark.split, mark.file_name, mark.where, mark.count, mark.box, mark.after)


def _without_leaks(dataset: Dataset) -> tuple[Dataset, list[Change]]:
    """A picture that is in two splits stays in the one that is measured on: in test, else in val."""
    splits = dict(dataset.splits)
    changes: list[Change] = []
    taken: dict[str, str] = {}
    for name in sorted(splits, key=lambda name: ("test", "val").index(name) if name in ("test", "val") else 2):
        split = splits[name]
        keep = [n for n, image in enumerate(split.images) if taken.get(image.sha256, name) == name]
        for image in split.images:
            owner = taken.setdefault(image.sha256, name)
            if owner != name:
                action = f"left out of {name}: the same picture is in {owner}"
                changes.append(Change("leakage", action, name, image.file_name, f"{name}: {image.file_name}"))
        splits[name] = split if len(keep) == len(split) else select_images(split, keep)
    return replace(dataset, splits=splits), changes


def _as_text(name: str, changes: Sequence[Change], left: Sequence[Finding]) -> str:
    lines = [f"{name}: {len(changes)} changes"]
    for change in changes:
        box = f" {_numbers(change.before)}" if change.before else ""
        after = f" -> {_numbers(change.after)}" if change.after else ""
        lines.append(f"{change.code}: {change.action}: {change.where or change.image}{box}{after}")
    if left:
        lines += ["", "not changed, because no copy can mend it:"]
        lines += [f"{finding.code} x{finding.count}: {finding.message}: {finding.where}" for finding in left]
    return "\n".join(lines) + "\n"


def _numbers(box: Box) -> str:
    return "[" + ", ".join(f"{value:g}" for value in box) + "]"
