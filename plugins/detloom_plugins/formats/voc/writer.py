# ruff: noqa: TID253
"""A dataset as Pascal VOC files.

    Annotations/a.xml          boxes as corners from 0: width is xmax - xmin; fractions stay
    JPEGImages/a.jpg           hard links where possible
    SegmentationObject/a.png   the masks of an image, where it has some: those that do not lie on another
    ImageSets/Main/train.txt   val.txt, test.txt; none where the data are not split
    labelmap.txt               every class, also those without objects, as CVAT and Datumaro write it

Crowds are written as difficult, which means the same here: neither trained on nor counted as missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from detloom.data.dataset import Dataset, Split
from detloom.data.findings import found
from detloom.data.placing import Names, place_images, renamed
from detloom.data.records import Finding
from detloom.files import write_text
from detloom_plugins.formats.voc.masks import FOLDER, lost_masks, write_masks


def write_dataset(dataset: Dataset, dest: Path, copy_images: bool) -> list[Path]:
    """Returns the xml files. Raises DetloomError when the place cannot be written."""
    written: list[Path] = []
    names = _names()
    (dest / "Annotations").mkdir(parents=True, exist_ok=True)
    for split in dataset.splits.values():
        given = place_images(split, dest / "JPEGImages", names, copy_images)
        for index, name in enumerate(given):
            path = (dest / "Annotations" / name).with_suffix(".xml")
            masks = write_masks((dest / FOLDER / name).with_suffix(".png"), split, index)
            path.write_text(_document(dataset, split, index, name, masks), encoding="utf-8")
            written.append(path)
        if split.name != "all":
            stems = "".join(f"{Path(name).stem}\n" for name in given)
            write_text(dest / "ImageSets" / "Main" / f"{split.name}.txt", stems)
    lines = "".join(f"{name}:::\n" for name in dataset.class_map.names)
    write_text(dest / "labelmap.txt", f"# label:color_rgb:parts:actions\n{lines}")
    return written


def losses_of(dataset: Dataset) -> list[Finding]:
    """What cannot be written, with counts."""
    splits = list(dataset.splits.values())
    ordered = sorted(dataset.class_map.names, key=lambda name: (name.casefold(), name))
    counts = {
        "masks-lost": sum(lost_masks(split) for split in splits),
        "areas-lost": sum(_own_areas(split) for split in splits),
        "ids-lost": sum(_own_ids(split) for split in splits),
        "class-ids-lost": sum(
            own != index or name != ordered[index]
            for index, (own, name) in enumerate(zip(dataset.class_map.ids, dataset.class_map.names, strict=True))
        ),
        "files-renamed": renamed((image for split in splits for image in split.images), _names()),
    }
    return [found(code, count=count) for code, count in counts.items() if count]


def _names() -> Names:
    """Readers of this format look for xml files in a folder, where hidden ones count for nothing."""
    return Names(by_stem=True, flat=True, visible=True)


def _document(dataset: Dataset, split: Split, index: int, name: str, segmented: bool) -> str:
    image, rows = split.images[index], split.objects_of(index)
    objects = "".join(_object(dataset, split, row) for row in range(rows.start, rows.stop))
    return (
        "<annotation>\n"
        "\t<folder>JPEGImages</folder>\n"
        f"\t<filename>{escape(name)}</filename>\n"
        f"\t<source>\n\t\t<database>{escape(dataset.name)}</database>\n"
        "\t\t<annotation>corners from 0</annotation>\n\t</source>\n"
        f"\t<size>\n\t\t<width>{image.width}</width>\n\t\t<height>{image.height}</height>\n"
        "\t\t<depth>3</depth>\n\t</size>\n"
        f"\t<segmented>{int(segmented)}</segmented>\n{objects}</annotation>\n"
    )


def _object(dataset: Dataset, split: Split, row: int) -> str:
    sides: Sequence[float] = split.boxes[row].tolist()
    box = "".join(
        f"\t\t\t<{tag}>{_plain(value)}</{tag}>\n"
        for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), sides, strict=True)
    )
    return (
        f"\t<object>\n\t\t<name>{escape(dataset.class_map.names[int(split.labels[row])])}</name>\n"
        "\t\t<pose>Unspecified</pose>\n\t\t<truncated>0</truncated>\n"
        f"\t\t<difficult>{int(split.crowd[row])}</difficult>\n"
        f"\t\t<bndbox>\n{box}\t\t</bndbox>\n\t</object>\n"
    )


def _plain(value: float) -> str:
    """`12` rather than `12.0`: some readers take whole numbers only."""
    return str(int(value)) if value.is_integer() else repr(round(value, 6))


def _own_areas(split: Split) -> int:
    """Objects without a mask whose area is not their box's."""
    sizes = split.boxes[:, 2:] - split.boxes[:, :2]
    bare = np.array([rle is None for rle in split.rles], dtype=bool)
    return int((bare & (np.abs(sizes.prod(axis=1) - split.area) > 0.01)).sum())


def _own_ids(split: Split) -> int:
    images: Sequence[object] = [image.id for image in split.images]
    lost = 0 if images == list(range(1, len(images) + 1)) else len(images)
    return lost + (0 if list(split.object_ids) == list(range(1, len(split.labels) + 1)) else len(split.labels))
