"""The YOLO format: recognise, read, write."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from detloom.data.layout import read_text, shown
from detloom.data.records import ClassRecord, DataTree, Finding, ImageRecord, Sniff
from detloom_plugins.formats.yolo.description import Description, describe_tree
from detloom_plugins.formats.yolo.labels import MAX_LABELS, looks_like_labels, looks_oriented
from detloom_plugins.formats.yolo.places import Place, label_of, places_of

if TYPE_CHECKING:
    from detloom.data.dataset import Dataset

SAMPLED = 64
"""Label files that are looked into to tell what kind of labels they are."""


class YOLOFormat:
    def sniff(self, tree: DataTree) -> Sniff:
        description, tree = described(tree)
        if isinstance(description, str):
            return Sniff(0.0, description)
        labels = _sample(description, tree)
        what = description.what
        if not labels:
            sure = 0.2 if description.names else 0.0  # folders called images/ and labels/ say nothing by themselves
            return Sniff(sure, f"{what}, but no label file was found (images/a.jpg belongs to labels/a.txt)")
        texts = list(_texts(labels, tree.root))
        if not any(looks_like_labels(text) for text in texts):
            return Sniff(0.1, f"{what}, but {shown(labels[0], tree.root)} holds no lines of class and numbers")
        if description.task == "obb" or looks_oriented(texts):
            return Sniff(0.8, f"{what}: oriented boxes, which are not trained on")
        if not description.names:
            return Sniff(0.6, f"{what}, but nothing names the classes (data.yaml or classes.txt)")
        return Sniff(0.9, f"{what}, label files such as {shown(labels[0], tree.root)}")

    def read(self, tree: DataTree) -> Iterator[ClassRecord | ImageRecord | Finding]:
        from detloom.data.findings import found
        from detloom_plugins.formats.yolo.reader import read_places

        description, tree = described(tree)
        if isinstance(description, str):
            yield found("unreadable-file", description)
            return
        yield from description.findings
        for class_id, name, where in description.names:
            yield ClassRecord(class_id, name, where)
        labels = _sample(description, tree)
        if description.task == "obb" or looks_oriented(_texts(labels, tree.root)):
            where = shown(labels[0], tree.root) if labels else "task: obb"
            yield found("oriented-boxes", f"{description.what}: {where}")
            return
        yield from read_places(description, tree)

    def write(self, dataset: Dataset, dest: Path, copy_images: bool = False) -> Sequence[Path]:
        """`images/train/`, `labels/train/`, ... and `data.yaml`; masks become polygons."""
        from detloom_plugins.formats.yolo.writer import write_dataset

        return write_dataset(dataset, dest, copy_images)

    def losses(self, dataset: Dataset) -> Sequence[Finding]:
        from detloom_plugins.formats.yolo.writer import losses_of

        return losses_of(dataset)


def described(tree: DataTree) -> tuple[Description | str, DataTree]:
    """What describes the data, or why nothing does; and where they lie: whoever names a data.yaml and a folder of
    images (`path` leads out of the yaml's own folder) means that folder."""
    description = describe_tree(tree)
    if isinstance(description, str) or not (tree.annotations and tree.images):
        return description, tree
    root = tree.images[0]
    if not Path(os.path.realpath(description.base)).is_relative_to(root.resolve()):
        description.base = root
    description.home = root
    return description, replace(tree, root=root)


def _sample(description: Description, tree: DataTree) -> list[Path]:
    """Some label files that are there and not empty."""
    found: list[Path] = []
    for place in places_of(description, tree):
        if isinstance(place, Place):
            for image in place.images(description, tree):
                label = label_of(image.path, tree.root) if image.path else None
                if label is not None and label.is_file() and label.stat().st_size:
                    found.append(label)
                if len(found) >= SAMPLED:
                    return found
    return found


def _texts(labels: Sequence[Path], root: Path) -> Iterator[str]:
    for path in labels:
        text = read_text(path, shown(path, root), MAX_LABELS)
        if isinstance(text, str):
            yield text
