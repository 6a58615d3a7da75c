"""The CSV format: recognise and read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from detloom.data.layout import files_in, named_folder, shown, split_folders, split_of
from detloom.data.records import ClassRecord, DataTree, Finding, ImageRecord, Sniff
from detloom_plugins.formats.csv.header import Header, parse_header

if TYPE_CHECKING:
    from detloom_plugins.formats.csv.settings import CSVSettings

SUFFIXES = (".csv", ".tsv")


class CSVFormat:
    def __init__(self, settings: CSVSettings) -> None:
        self._settings = settings

    def sniff(self, tree: DataTree) -> Sniff:
        files = find_files(tree)
        if not files:
            return Sniff(0.0, "no CSV file found")
        reasons = []
        for _, path in files:
            header = parse_header(first_line(path))
            if isinstance(header, Header):
                columns = " ".join(header.names)
                return Sniff(0.9, f"CSV: {shown(path, tree.root)}, boxes as {header.layout} ({columns})")
            reasons.append(f"{shown(path, tree.root)}: {header}")
        return Sniff(0.0, reasons[0])

    def read(self, tree: DataTree) -> Iterator[ClassRecord | ImageRecord | Finding]:
        from detloom_plugins.formats.csv.reader import read_files

        yield from read_files(find_files(tree), tree, self._settings.unit)


def find_files(tree: DataTree) -> list[tuple[str, Path]]:
    """(split, file): named ones; or train.csv, ...; or in folders of splits; or all at the top."""
    if tree.annotations:
        return [(split, path) for split, path in tree.annotations.items() if path.suffix.lower() in SUFFIXES]
    inside = [
        (split, path) for split, folder in split_folders(tree.root).items() for path in files_in(folder, *SUFFIXES)
    ]
    if inside:
        return inside
    for folder in (tree.root, named_folder(tree.root, "annotations", "labels")):
        files = files_in(folder, *SUFFIXES) if folder is not None else []
        readable = [path for path in files if isinstance(parse_header(first_line(path)), Header)] or files
        named = [(split, path) for path in readable if (split := _split_in(path.stem))]
        if readable:
            return named or [("all", path) for path in readable]
    return []


def _split_in(stem: str) -> str | None:
    """`train`, `train_labels` and `annotations-train` mean the training split."""
    parts = stem.replace("-", "_").split("_")
    return split_of(stem) or split_of(parts[0]) or split_of(parts[-1])


def first_line(path: Path) -> str:
    """Empty for a file that is no text."""
    try:
        with path.open("rb") as file:
            return file.readline(1 << 16).decode("utf-8-sig").rstrip("\r\n")
    except (OSError, UnicodeDecodeError):
        return ""
