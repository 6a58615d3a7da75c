"""The COCO format: recognise, read, write."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detloom.data.records import ClassRecord, DataTree, Finding, ImageRecord, Sniff

if TYPE_CHECKING:
    from detloom.data.dataset import Dataset

_SPLIT_NAMES = {"train": "train", "valid": "val", "val": "val", "validation": "val", "test": "test"}
_ROBOFLOW = "_annotations.coco.json"
LOOKED_FOR = (
    f"train/ valid/ test/ with {_ROBOFLOW}, train.json val.json test.json, annotations/instances_*.json, or one json"
)


class COCOFormat:
    def sniff(self, tree: DataTree) -> Sniff:
        files = find_annotations(tree)
        if not files:
            return Sniff(0.0, f"no COCO json found (looked for {LOOKED_FOR})")
        names = ", ".join(_shown(path, tree.root) for path in files.values())
        strange = [path for path in files.values() if not _looks_like_coco(path)]
        if strange:
            return Sniff(0.1, f"{_shown(strange[0], tree.root)} does not look like COCO (no `images`)")
        return Sniff(0.9, f"COCO json: {names}")

    def read(self, tree: DataTree) -> Iterator[ClassRecord | ImageRecord | Finding]:
        from detloom.data.findings import found
        from detloom_plugins.formats.coco.reader import read_files

        files = find_annotations(tree)
        for folder in folders_without_annotations(tree, files):
            yield found("split-without-annotations", f"{folder.name}/")
        yield from read_files(tree, files)

    def write(self, dataset: Dataset, dest: Path, copy_images: bool = False) -> Sequence[Path]:
        """`train/`, `valid/`, `test/`, each with its images and `_annotations.coco.json`, and train.json, ..."""
        from detloom_plugins.formats.coco.writer import write_dataset

        return write_dataset(dataset, dest, copy_images)

    def losses(self, dataset: Dataset) -> Sequence[Finding]:
        from detloom_plugins.formats.coco.writer import losses_of

        return losses_of(dataset)


def find_annotations(tree: DataTree) -> dict[str, Path]:
    """Split name (`train`, `val`, `test` or `all`) to annotation file."""
    if tree.annotations:
        return dict(tree.annotations)
    for finder in (_split_folders, _named_files, _only_file):
        files = finder(tree.root)
        if files:
            return files
    return {}


def _split_folders(root: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for name, split in _SPLIT_NAMES.items():
        folder = root / name
        own = folder / _ROBOFLOW
        candidates = [own] if own.is_file() else sorted(folder.glob("*.json"))
        if len(candidates) == 1 and split not in files:
            files[split] = candidates[0]
    return files


def folders_without_annotations(tree: DataTree, files: Mapping[str, Path]) -> list[Path]:
    """Folders of splits that were passed over, where others have their annotations inside."""
    if tree.annotations or not any(path.parent.name in _SPLIT_NAMES for path in files.values()):
        return []
    folders = [(tree.root / name, split) for name, split in _SPLIT_NAMES.items()]
    return [folder for folder, split in folders if folder.is_dir() and split not in files]


def _named_files(root: Path) -> dict[str, Path]:
    for folder in (root, root / "annotations"):
        files: dict[str, Path] = {}
        for path in sorted(folder.glob("*.json")):
            stem = path.stem.lower().removeprefix("instances_").rstrip("0123456789").rstrip("_-")
            split = _SPLIT_NAMES.get(stem)
            if split is not None:
                files.setdefault(split, path)
        if files:
            return files
    return {}


def _only_file(root: Path) -> dict[str, Path]:
    for folder in (root, root / "annotations"):
        found = sorted(folder.glob("*.json"))
        coco = found if len(found) == 1 else [path for path in found if _looks_like_coco(path)]
        if len(coco) == 1:
            return {"all": coco[0]}
    return {}


def _looks_like_coco(path: Path) -> bool:
    """`"images"` as a key near the beginning or the end; the list itself may be hundreds of megabytes."""
    try:
        with path.open("rb") as file:
            head = file.read(1 << 20)
            file.seek(max(0, os.fstat(file.fileno()).st_size - (1 << 20)))
            tail = file.read()
    except OSError:
        return False
    return b'"images"' in head or b'"images"' in tail


def _shown(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def image_folders(tree: DataTree, annotations: Path) -> list[Path]:
    """Where images of an annotation file are looked up, in order."""
    beside = annotations.parent
    stem = annotations.stem.removeprefix("instances_")
    around: Mapping[Path, None] = dict.fromkeys(
        [
            *tree.images,  # whoever names a folder means it, also where others hold pictures of the same name
            beside,
            beside / "images",
            tree.root / "images",
            tree.root / stem,
            tree.root / "images" / stem,
            tree.root,
        ]
    )
    return list(around)
