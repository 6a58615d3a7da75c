"""The Pascal VOC format: recognise, read, write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detloom.data.layout import shown
from detloom.data.markup import root_of
from detloom.data.records import ClassRecord, DataTree, Finding, ImageRecord, Sniff
from detloom_plugins.formats.voc.places import LOOKED_FOR, find_places

if TYPE_CHECKING:
    from detloom.data.dataset import Dataset
    from detloom_plugins.formats.voc.settings import VOCSettings

SAMPLED = 8
"""Files of each folder that are looked into: one may be broken."""


class VOCFormat:
    def __init__(self, settings: VOCSettings) -> None:
        self._settings = settings

    def sniff(self, tree: DataTree) -> Sniff:
        places = find_places(tree)
        if not places:
            return Sniff(0.0, f"no Pascal VOC xml found (looked for {LOOKED_FOR})")
        looked = [path for place in places for path in place.files[:SAMPLED]]
        if all(root_of(path) != "annotation" for path in looked):
            first = looked[0]
            return Sniff(0.0, f"no Pascal VOC: {shown(first, tree.root)} begins with <{root_of(first)}>")
        count = sum(len(place.files) for place in places)
        folders = ", ".join(dict.fromkeys(shown(place.files[0].parent, tree.root) + "/" for place in places))
        return Sniff(0.9, f"Pascal VOC: {count} xml files in {folders}")

    def read(self, tree: DataTree) -> Iterator[ClassRecord | ImageRecord | Finding]:
        from detloom_plugins.formats.voc.reader import read_places

        yield from read_places(find_places(tree), tree, self._settings)

    def write(self, dataset: Dataset, dest: Path, copy_images: bool = False) -> Sequence[Path]:
        """`Annotations/`, `JPEGImages/`, `ImageSets/Main/` and `labelmap.txt`; boxes as corners from 0."""
        from detloom_plugins.formats.voc.writer import write_dataset

        return write_dataset(dataset, dest, copy_images)

    def losses(self, dataset: Dataset) -> Sequence[Finding]:
        from detloom_plugins.formats.voc.writer import losses_of

        return losses_of(dataset)
