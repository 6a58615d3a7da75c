"""A dataset as COCO json, in two spellings of the same content.

    train/_annotations.coco.json   beside its images, as Roboflow writes it (valid/ and test/ likewise)
    train.json                     the same, with file names relative to the top (val.json and test.json likewise)

Class ids, image ids, object ids, crowds, areas and masks (as RLE) are the dataset's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detloom.data.findings import found
from detloom.data.placing import Names, place_images, renamed
from detloom.files import write_json

if TYPE_CHECKING:
    from detloom.data.dataset import Dataset, Split
    from detloom.data.records import Finding

_FOLDERS = {"val": "valid"}


def write_dataset(dataset: Dataset, dest: Path, copy_images: bool) -> list[Path]:
    """Images become hard links where the file system can, else copies; the source is never changed.

    Returns the annotation files. Raises DetloomError when the place cannot be written.
    """
    written = []
    for split in dataset.splits.values():
        folder = _FOLDERS.get(split.name, split.name)
        names = place_images(split, dest / folder, Names(), copy_images)
        for path, prefix in (
            (dest / folder / "_annotations.coco.json", ""),
            (dest / f"{split.name}.json", f"{folder}/"),
        ):
            write_json(path, _document(dataset, split, [prefix + name for name in names]))
            written.append(path)
    return written


def losses_of(dataset: Dataset) -> list[Finding]:
    """What cannot be written, with counts."""
    count = sum(renamed(split.images, Names()) for split in dataset.splits.values())
    return [found("files-renamed", count=count)] if count else []


def _document(dataset: Dataset, split: Split, file_names: Sequence[str]) -> dict[str, Any]:
    classes = zip(dataset.class_map.ids, dataset.class_map.names, strict=True)
    return {
        "info": {"description": f"{dataset.name}, {split.name}"},
        "categories": [{"id": class_id, "name": name, "supercategory": ""} for class_id, name in classes],
        "images": [
            {"id": image.id, "file_name": name, "width": image.width, "height": image.height}
            for image, name in zip(split.images, file_names, strict=True)
        ],
        "annotations": [_annotation(dataset, split, row) for row in range(len(split.labels))],
    }


def _annotation(dataset: Dataset, split: Split, row: int) -> dict[str, Any]:
    x1, y1, x2, y2 = split.boxes[row].tolist()
    rle: Mapping[str, Any] | None = split.rles[row]
    return {
        "id": split.object_ids[row],
        "image_id": split.images[int(split.image_index[row])].id,
        "category_id": dataset.class_map.ids[int(split.labels[row])],
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": float(split.area[row]),
        "iscrowd": int(split.crowd[row]),
        "segmentation": [] if rle is None else dict(rle),
    }
