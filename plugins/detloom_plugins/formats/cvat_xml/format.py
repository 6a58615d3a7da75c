"""The CVAT XML format: recognise and read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from detloom.data.layout import files_in, shown
from detloom.data.markup import root_of
from detloom.data.records import ClassRecord, DataTree, Finding, ImageRecord, Sniff

LOOKED_FOR = "annotations.xml, or one xml with <annotations>"


class CVATFormat:
    def sniff(self, tree: DataTree) -> Sniff:
        files = find_files(tree)
        if not files:
            return Sniff(0.0, f"no CVAT XML found (looked for {LOOKED_FOR})")
        names = ", ".join(shown(path, tree.root) for path in files[:4])
        return Sniff(0.9, f"CVAT XML: {names}{f' and {len(files) - 4} more' if len(files) > 4 else ''}")

    def read(self, tree: DataTree) -> Iterator[ClassRecord | ImageRecord | Finding]:
        from detloom_plugins.formats.cvat_xml.reader import read_files

        yield from read_files(find_files(tree), tree)


def find_files(tree: DataTree) -> list[Path]:
    """`annotations.xml` at the top or in folders right below it (one for each task), or any xml of the right kind."""
    if tree.annotations:
        named = list(tree.annotations.values())
        return named if all(root_of(path) == "annotations" for path in named) else []
    own = tree.root / "annotations.xml"
    candidates = [own] if own.is_file() else sorted(tree.root.glob("*/annotations.xml")) or files_in(tree.root, ".xml")
    return [path for path in candidates if root_of(path) == "annotations"]
