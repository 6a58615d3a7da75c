"""What `detloom check` prints, for people and for programs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detloom.cli import console
from detloom.cli.data_sources import sources_json, sources_text

if TYPE_CHECKING:
    from detloom.data.fixing import Change
    from detloom.data.inspect import Inspection
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
        parts += [_overview(report.inspection, report), _classes(report.inspection)]
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
    lines = [f"{len(changes)} changes, listed in {out / CHANGES}/changes.txt (and .json)"]
    if left:
        lines.append(f"no copy can mend: {', '.join(sorted({finding.code for finding in left}))}")
    parts.append("\n".join([*lines, f"written to {out}; next:\n  detloom check {out}"]))
    return "\n\n".join(parts)


def _overview(found: Inspection, report: CheckReport) -> str:
    splits = ", ".join(f"{name} {count}" for name, count in found.splits.items())
    yes = {True: "yes", False: "no"}
    listed = found.num_images + report.images_left_out
    objects = f"{found.num_annotations} objects"
    if report.objects_left_out:
        objects = f"{found.num_annotations} of {found.num_annotations + report.objects_left_out} objects"
    return "\n".join(
        [
            f"{found.name}: {found.num_images} of {listed} images usable ({splits}), {objects}, "
            f"{found.num_classes} classes",
            f"boxes {yes[found.has_boxes]}, masks {yes[found.has_masks]}, keypoints {yes[found.has_keypoints]}",
        ]
    )


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
        why = f"\n  ({report.inspection.recommendation.why})" if report.inspection else ""
        return f"fit for training; next:\n  {command}{why}"
    codes = sorted({finding.code for finding in report.refused})
    leave = allowable(report.refused)
    advice = f"repair the data, or leave out what these name: --allow {' '.join(leave)}" if leave else "repair the data"
    if any(finding.images or finding.objects for finding in report.refused):
        advice += "; --fix OUT writes a corrected copy"
    return f"refused: {', '.join(codes)}\n{advice}"
