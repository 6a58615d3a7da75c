"""The LabelMe format: recognise and read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from detloom.data.layout import files_in, hidden_files, named_folder, shown, split_folders, walk
from detloom.data.records import ClassRecord, DataTree, Finding, ImageRecord, Sniff

LOOKED_FOR = "json files with `shapes` and `imagePath`, at the top, in annotations/ or in the folders of splits"


class LabelMeFormat:
    def sniff(self, tree: DataTree) -> Sniff:
        files = find_files(tree)
        for _, path in files[:3]:
            if looks_like_labelme(path):
                folders = dict.fromkeys(f"{shown(path.parent, tree.root)}/" for _, path in files)
                return Sniff(0.9, f"LabelMe: {len(files)} json files in {', '.join(list(folders)[:4])}")
        return Sniff(0.0, f"no LabelMe json found (looked for {LOOKED_FOR})")

    def read(self, tree: DataTree) -> Iterator[ClassRecord | ImageRecord | Finding]:
        from detloom_plugins.formats.labelme.reader import read_files, read_hidden

        files = find_files(tree)
        yield from read_files(files, tree)
        if not tree.annotations:
            yield from read_hidden(hidden_beside(files), tree)


def find_files(tree: DataTree) -> list[tuple[str, Path]]:
    """(split, json file)."""
    if tree.annotations:
        return [(split, path) for split, path in tree.annotations.items() if path.suffix.lower() == ".json"]
    folders = split_folders(tree.root)
    inside = [
        (split, image.path)
        for split, folder in folders.items()
        for image in walk(folder, frozenset({".json"}), tree.root)
        if image.path is not None
    ]
    if inside:
        return inside
    for folder in (tree.root, named_folder(tree.root, "annotations", "labels", "json", "jsons")):
        files = files_in(folder, ".json") if folder is not None else []
        if files:
            return [("all", path) for path in files]
    return []


def hidden_beside(files: Sequence[tuple[str, Path]]) -> list[Path]:
    """LabelMe files in the same folders that are passed over for their names."""
    folders = dict.fromkeys(path.parent for _, path in files)
    hidden = [path for folder in folders for path in hidden_files(folder, frozenset({".json"}), deep=False)]
    return [path for path in hidden if looks_like_labelme(path)]


def looks_like_labelme(path: Path) -> bool:
    """`"shapes"` and `"imagePath"` as keys; between them may stand a whole picture in text."""
    try:
        with path.open("rb") as file:
            head = file.read(1 << 16)
            rest = file.seek(0, 2)
            file.seek(max(0, rest - (1 << 26)))
            return b'"shapes"' in head and b'"imagePath"' in head + file.read()
    except OSError:
        return False
