"""`detloom convert DATA... OUT --to yolo`: data in another format, and what of them that format cannot carry."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detloom.cli import console
from detloom.cli.data_arguments import add_data_arguments, resolve_data
from detloom.cli.data_options import add_file_arguments
from detloom.cli.data_output import refuse_nested, refuse_used, write_whole, writer_of
from detloom.cli.data_sources import sources_json, sources_text
from detloom.cli.source_options import given_flags, says_where
from detloom.errors import UsageError
from detloom.progress import Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from detloom.data.dataset import Dataset
    from detloom.data.records import Finding
    from detloom.specs import WritableFormat

_STYLES = {"error": "red", "warning": "yellow", "info": "blue"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "detloom convert DATA [DATA ...] OUT --to NAME [options]"
    add_data_arguments(parser, several=True)
    add_file_arguments(parser)
    parser.add_argument("--to", required=True, metavar="NAME", help="format to write: coco, yolo, voc, ...")
    parser.add_argument("--from", dest="format", metavar="NAME", help="format to read; else found by looking")
    parser.add_argument(
        "--allow", nargs="+", default=[], metavar="CODE", help="errors that do not count; what they name is left out"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--link", action="store_true", help="images are hard links where possible (default)")
    how.add_argument("--copy", action="store_true", help="images are copied")
    parser.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace) -> int:
    """0: written; 3: the data were refused. Splits stay as they are."""
    from detloom.data.load import load_dataset
    from detloom.host import discover

    out = _take_out(args)
    refuse_used(out)
    host = discover()
    more = {"data.allow": ("[" + ", ".join(args.allow) + "]", "--allow")} if args.allow else {}
    if args.format:
        more["data.format"] = (args.format, "--from")
    config = resolve_data(args, host, more)
    refuse_nested(out, config)
    writer = writer_of(host, args.to, "--to")
    with Reading("reading the data") as reading:
        dataset = load_dataset(config, host, progress=reading.update, for_training=False)
    losses = losses_of(dataset, writer)
    files = write_whole(dataset, writer, out, args.copy)
    if args.json:
        console.write_json(_as_json(dataset, args.to, out, files, losses))
    else:
        console.write(_as_text(dataset, args.to, out, losses))
    return 0


def _take_out(args: argparse.Namespace) -> Path:
    """The last of the places that were typed; the others are data. Raises UsageError when there are too few."""
    elsewhere = given_flags(args) or args.config or any(says_where(one.partition("=")[0].strip()) for one in args.set)
    if len(args.data) < (1 if elsewhere else 2):
        raise UsageError(
            "detloom convert takes two places: the data, and a new folder",
            hint="detloom convert DATA OUT --to yolo (several DATA become one data set; with --minio-bucket, "
            "--cvat-task-ids or --config only OUT is typed)",
        )
    return Path(args.data.pop()).expanduser()


def losses_of(dataset: Dataset, writer: WritableFormat) -> list[Finding]:
    """What is read but not written: by this format, and by any."""
    from detloom.data.findings import found

    own: Callable[[Dataset], Sequence[Finding]] = getattr(writer, "losses", lambda dataset: ())
    return [*([found("keypoints-lost", dataset.name)] if dataset.has_keypoints else []), *own(dataset)]


def _left_out(dataset: Dataset) -> list[Finding]:
    """What the reading already changed, as `detloom check` says in full."""
    return [finding for finding in dataset.findings if finding.severity != "info"]


def _as_json(dataset: Dataset, name: str, out: Path, files: Sequence[Path], losses: list[Finding]) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "format": name,
        "out": str(out),
        "annotation_files": len(files),
        "images": {split.name: len(split) for split in dataset.splits.values()},
        "objects": {split.name: len(split.labels) for split in dataset.splits.values()},
        "classes": list(dataset.class_map.names),
        "digest": dataset.digest,
        "sources": sources_json(dataset),
        "losses": [asdict(finding) for finding in losses],
        "findings": [asdict(finding) for finding in _left_out(dataset)],
    }


def _as_text(dataset: Dataset, name: str, out: Path, losses: list[Finding]) -> str:
    rows = [(split.name, str(len(split)), str(len(split.labels))) for split in dataset.splits.values()]
    parts = [console.table(("split", "images", "objects"), rows)]
    if sources := sources_text(dataset):
        parts.append(sources)
    lines = [_line(finding) for finding in _left_out(dataset)]
    if lines:
        parts.append("while reading:\n" + "\n".join(lines))
    lines = [_line(finding) for finding in losses]
    parts.append(f"{name} does not carry:\n" + "\n".join(lines) if lines else f"{name} carries everything")
    parts.append(f"written to {out}; next:\n  detloom check {out}")
    return "\n\n".join(parts)


def _line(finding: Finding) -> str:
    severity = console.paint(f"{finding.severity:<7}", _STYLES[finding.severity], sys.stdout)
    remedy = f" -> {finding.remedy}" if finding.remedy else ""
    return f"  {severity}  {finding.code} x{finding.count}: {finding.message}{remedy}"
