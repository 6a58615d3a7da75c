"""What `detloom check` prints, for people and for programs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detloom.cli import console
from detloom.cli.data_sources import sources_json, sources_text
from detloom.counting import counted

if TYPE_CHECKING:
    from detloom.data.fixing import Change
    from detloom.data.inspect import Inspection, Spread
    from detloom.data.load import CheckReport
    from detloom.data.records import Finding

_STYLES = {"error": "red", "warning": "yellow", "info": "blue"}


def as_json(
    report: CheckReport, command: str, fix: tuple[Path, Sequence[Change], Sequence[Finding]] | None = None
) -> dict[str, Any]:
    """fix: where a corrected copy was written, what was changed, and which warnings it still has."""
    content = {
        "name": report.name,
        "ok": not report.refused,
        "refused": sorted({finding.code for finding in report.refused}),
        "findings": [asdict(finding) for finding in report.findings],
        "images": _sums(report.images, report.images_left_out),
        "objects": _sums(report.objects, report.objects_left_out),
        "inspection": report.inspection.to_dict() if report.inspection else None,
        "digest": report.dataset.digest if report.dataset else None,
        "sources": sources_json(report.dataset) if report.dataset else [],
        "next": command,
    }
    if fix is not None:
        out, changes, left = fix
        rows = [asdict(change) for change in changes]
        content["fix"] = {"out": str(out), "changes": rows, "remaining": sorted({finding.code for finding in left})}
    return content


def _sums(used: int, left_out: int) -> dict[str, int]:
    return {"listed": used + left_out, "used": used, "left_out": left_out}


def as_text(report: CheckReport, command: str) -> str:
    parts = []
    if report.inspection is not None:
        parts += [
            _overview(report.inspection, report),
            _numbers(report.inspection, report),
            _classes(report.inspection),
        ]
    if report.dataset is not None and (sources := sources_text(report.dataset)):
        parts.append(sources)
    if report.findings:
        parts.append("\n".join(_finding(finding) for finding in report.findings))
    parts.append(_verdict(report, command))
    return "\n\n".join(parts)


def fixed_text(report: CheckReport, out: Path, changes: Sequence[Change], left: Sequence[Finding]) -> str:
    from detloom.data.fixing import CHANGES

    parts = [_overview(report.inspection, report)] if report.inspection is not None else []
    if report.findings:
        parts.append("\n".join(_finding(finding) for finding in report.findings))
    lines = [f"{counted(len(changes), 'change')}, listed in {out / CHANGES}/changes.txt (and .json)"]
    if left:
        lines.append(f"no copy can mend: {', '.join(sorted({finding.code for finding in left}))}")
    parts.append("\n".join([*lines, f"written to {out}; next:\n  detloom check {out}"]))
    return "\n\n".join(parts)


def _overview(found: Inspection, report: CheckReport) -> str:
    splits = ", ".join(f"{name} {count}" for name, count in found.splits.items())
    yes = {True: "yes", False: "no"}
    listed = found.num_images + report.images_left_out
    objects = counted(found.num_annotations, "object")
    if report.objects_left_out:
        objects = f"{found.num_annotations:,} of {counted(found.num_annotations + report.objects_left_out, 'object')}"
    masks = yes[found.has_masks]
    if found.has_masks and found.without_masks:
        masks = f"of {counted(found.whole.masks, 'object')} ({found.without_masks} without)"
    return "\n".join(
        [
            f"{found.name}: {found.num_images:,} of {counted(listed, 'image')} usable ({splits}), {objects}, "
            f"{counted(found.num_classes, 'class')}",
            f"boxes {yes[found.has_boxes]}, masks {masks}, keypoints {yes[found.has_keypoints]}",
        ]
    )


def _numbers(found: Inspection, report: CheckReport) -> str:
    """Sizes of pictures and objects in three lines."""
    whole = found.whole
    sizes = ", ".join(f"{size} ({count})" for size, count in whole.image_sizes.items())
    rest = whole.images - sum(whole.image_sizes.values())
    more = f" and {rest} of other sizes" if rest else ""
    side, each = whole.box_side_px, whole.objects_per_image
    crowds = f", {counted(whole.crowd, 'crowd')}" if whole.crowd else ""
    # The finding speaks of images that are annotated so; others lost all their objects to other findings.
    written = sum(finding.count for finding in report.findings if finding.code == "image-without-objects")
    lost = whole.images_without_objects - written
    bare = f"{counted(whole.images_without_objects, 'image')} without{f' ({lost} lost all)' if lost > 0 else ''}"
    lines = [
        f"pictures  {sizes}{more}; width by height {_range(whole.aspect, '.2f')}",
        f"objects   {_range(each, '.0f')} an image, {bare}; "
        f"side {_range(side, '.0f')} px; {whole.small} small, {whole.medium} medium, {whole.large} large{crowds}",
    ]
    if found.num_classes > 1:
        times = "as" if found.imbalance == 1 else f"{found.imbalance:g} times as"
        lines.append(f"classes   the most frequent has {times} many objects as the rarest")
    return "\n".join(lines)


def _range(spread: Spread, digits: str) -> str:
    if format(spread.min, digits) == format(spread.max, digits):
        return format(spread.min, digits)
    return f"{spread.min:{digits}} to {spread.max:{digits}} (median {spread.median:{digits}})"


def _classes(found: Inspection) -> str:
    rows = [(str(c.id), c.name, str(c.objects), f"{c.percent:.1f} %", str(c.images)) for c in found.classes]
    return console.table(("id", "class", "objects", "share", "images"), rows)


def _finding(finding: Finding) -> str:
    severity = console.paint(f"{finding.severity:<7}", _STYLES[finding.severity], sys.stdout)
    lines = [f"{severity}  {finding.code} x{finding.count}: {finding.message}"]
    if finding.where:
        lines.append(f"         {finding.where}")
    if finding.remedy:
        lines.append(f"         -> {finding.remedy}")
    return "\n".join(lines)


def _verdict(report: CheckReport, command: str) -> str:
    from detloom.data.findings import allowable

    if not report.refused:
        fitting = report.inspection.recommendation if report.inspection else None
        lines = [fitting.why, *fitting.notes] if fitting else []
        return "\n".join(["fit for training; next:", f"  {command}", *(f"  ({line})" for line in lines)])
    codes = sorted({finding.code for finding in report.refused})
    leave = allowable(report.refused)
    advice = f"repair the data, or leave out what these name: --allow {' '.join(leave)}" if leave else "repair the data"
    if any(finding.images or finding.objects for finding in report.refused):
        advice += "; --fix OUT writes a corrected copy"
    return f"refused: {', '.join(codes)}\n{advice}"
