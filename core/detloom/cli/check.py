"""`detloom check DATA`: every finding, what is in the data, and what to do next."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from detloom.cli import console
from detloom.cli.data_arguments import add_data_arguments, as_arguments, resolve_data
from detloom.cli.data_options import add_file_arguments
from detloom.cli.data_sources import sources_json, sources_text
from detloom.progress import Reading

if TYPE_CHECKING:
    from detloom.data.inspect import Inspection
    from detloom.data.load import CheckReport
    from detloom.data.records import Finding

REFUSED = 3
_STYLES = {"error": "red", "warning": "yellow", "info": "blue"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_arguments(parser, several=True)
    add_file_arguments(parser)
    parser.add_argument(
        "--allow", nargs="+", default=[], metavar="CODE", help="errors that do not count; what they name is left out"
    )
    parser.add_argument("--strict", action="store_true", help="warnings count as errors")
    parser.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace) -> int:
    """0: fit for training; 3: refused."""
    from detloom.data.load import check
    from detloom.host import discover

    host = discover()
    more = {"data.allow": ("[" + ", ".join(args.allow) + "]", "--allow")} if args.allow else {}
    config = resolve_data(args, host, more)
    with Reading("reading the data") as reading:
        report = check(config, host, progress=reading.update)
    refused = _refused(report, args.strict)
    command = _next_command(report, args)
    if args.json:
        console.write_json(_as_json(report, refused, command))
    else:
        console.write(_as_text(report, refused, command))
    return REFUSED if refused else 0


def _refused(report: CheckReport, strict: bool) -> list[Finding]:
    warnings = [f for f in report.findings if strict and f.severity == "warning" and f.code not in report.allow]
    return [*report.refused, *warnings]


def _next_command(report: CheckReport, args: argparse.Namespace) -> str:
    """The training that fits the data; empty when nothing can be trained on."""
    if report.inspection is None:
        return ""
    advice = report.inspection.recommendation
    height, width = advice.resolution
    size = str(height) if height == width else f"{height}x{width}"
    parts = ["detloom train", as_arguments(args), f"--model {advice.model}", f"--resolution {size}"]
    if args.allow:
        parts.append(f"--set 'data.allow=[{', '.join(args.allow)}]'")
    return " ".join(part for part in parts if part)


def _as_json(report: CheckReport, refused: list[Finding], command: str) -> dict[str, Any]:
    return {
        "name": report.name,
        "ok": not refused,
        "refused": sorted({finding.code for finding in refused}),
        "findings": [asdict(finding) for finding in report.findings],
        "inspection": report.inspection.to_dict() if report.inspection else None,
        "digest": report.dataset.digest if report.dataset else None,
        "sources": sources_json(report.dataset) if report.dataset else [],
        "next": command,
    }


def _as_text(report: CheckReport, refused: list[Finding], command: str) -> str:
    parts = []
    if report.inspection is not None:
        parts += [_overview(report.inspection, report), _classes(report.inspection)]
    if report.dataset is not None and (sources := sources_text(report.dataset)):
        parts.append(sources)
    if report.findings:
        parts.append("\n".join(_finding(finding) for finding in report.findings))
    parts.append(_verdict(report, refused, command))
    return "\n\n".join(parts)


def _overview(found: Inspection, report: CheckReport) -> str:
    splits = ", ".join(f"{name} {count}" for name, count in found.splits.items())
    yes = {True: "yes", False: "no"}
    listed = found.num_images + report.images_left_out
    return "\n".join(
        [
            f"{found.name}: {found.num_images} of {listed} images usable ({splits}), {found.num_annotations} objects, "
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


def _verdict(report: CheckReport, refused: list[Finding], command: str) -> str:
    from detloom.data.findings import allowable

    if not refused:
        why = f"\n  ({report.inspection.recommendation.why})" if report.inspection else ""
        return f"fit for training; next:\n  {command}{why}"
    codes = sorted({finding.code for finding in refused})
    leave = allowable(refused)
    advice = f"repair the data, or leave out what these name: --allow {' '.join(leave)}" if leave else "repair the data"
    return f"refused: {', '.join(codes)}\n{advice}"
