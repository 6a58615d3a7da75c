"""Where the xml files, the images and the lists of splits lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detloom.data.layout import files_in, named_folder, split_folders
from detloom.data.records import DataTree

LOOKED_FOR = "Annotations/ beside JPEGImages/, VOC2007/Annotations/, train/ with xml files, or xml beside pictures"
_IMAGES = ("jpegimages", "images", "imgs")


@dataclass(frozen=True, slots=True)
class Place:
    """One folder of xml files. split: of all of them, or `all`. lists: ImageSets/Main, else
    ImageSets/Segmentation, where there is one.
    images: folders that images are looked up in, in order. home: what a challenge calls VOC2007."""

    split: str
    home: Path
    files: tuple[Path, ...]
    images: tuple[Path, ...]
    lists: Path | None = None


def find_places(tree: DataTree) -> list[Place]:
    if tree.annotations:
        named = next(iter(tree.annotations.values()))
        if len(tree.annotations) == 1 and named.suffix.lower() == ".xml":
            return [Place("all", named.parent, (named,), (*tree.images, named.parent, *_image_folders(named.parent)))]
        return []
    homes = [tree.root, *_challenges(tree.root), *_challenges(named_folder(tree.root, "vocdevkit"))]
    places = [place for home in homes if (place := _with_annotations(home, "all", tree)) is not None]
    for split, folder in split_folders(tree.root).items():
        place = _with_annotations(folder, split, tree) or _flat(folder, split, tree)
        places += [place] if place else []
    flat = None if places else _flat(tree.root, "all", tree)
    return [flat] if flat else places


def _challenges(folder: Path | None) -> Sequence[Path]:
    """VOC2007, VOC2012, ... in a folder."""
    return sorted(path for path in folder.glob("VOC2*") if path.is_dir()) if folder else ()


def _with_annotations(home: Path, split: str, tree: DataTree) -> Place | None:
    folder = named_folder(home, "annotations")
    files = tuple(files_in(folder, ".xml")) if folder else ()
    if not files or folder is None:
        return None
    sets = named_folder(home, "imagesets")
    lists = named_folder(sets, "main", "segmentation") if sets else None
    return Place(split, home, files, (*tree.images, *_image_folders(home), folder, home), lists)


def _flat(home: Path, split: str, tree: DataTree) -> Place | None:
    files = tuple(files_in(home, ".xml"))
    return Place(split, home, files, (*tree.images, home, *_image_folders(home))) if files else None


def _image_folders(home: Path) -> list[Path]:
    found = [named_folder(home, name) for name in _IMAGES]
    return [folder for folder in found if folder is not None]
