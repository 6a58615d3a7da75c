"""The same kind of pictures as YOLO text files and as Pascal VOC xml, written by hand, to be merged with COCO ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from data_tools import HEIGHT, WIDTH, picture
from detloom.config import ResolvedConfig, mapping_layer, resolve
from detloom.data.dataset import Dataset
from detloom.data.load import CheckReport, check
from detloom.host import PluginHost, discover

Box = tuple[str, int, int, int, int]
"""Class, and corners in pixels."""


def boxes_of(number: int, names: tuple[str, str]) -> list[Box]:
    """What is on picture `number`: two boxes."""
    return [(names[0], 4, 5, 24, 15), (names[1], 30 + number % 15, 20, 46 + number % 15, 32)]


def yolo_data(root: Path, names: tuple[str, str], seeds: range, val: int) -> Path:
    """images/ and labels/ with train and val below; the last `val` pictures are for validation."""
    for place, seed in enumerate(seeds):
        split = "val" if place >= len(seeds) - val else "train"
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(seed)).save(root / "images" / split / f"{seed}.png")
        lines = [
            f"{names.index(name)} {(x1 + x2) / 128} {(y1 + y2) / 96} {(x2 - x1) / 64} {(y2 - y1) / 48}"
            for name, x1, y1, x2, y2 in boxes_of(place, names)
        ]
        assert (WIDTH, HEIGHT) == (64, 48)
        (root / "labels" / split / f"{seed}.txt").write_text("\n".join(lines) + "\n")
    listed = "\n".join(f"  {number}: {name}" for number, name in enumerate(names))
    (root / "data.yaml").write_text(f"path: .\ntrain: images/train\nval: images/val\nnames:\n{listed}\n")
    return root


def voc_data(root: Path, names: tuple[str, str], seeds: range, first: int = 0) -> Path:
    """Annotations/ and JPEGImages/, not split. first: number of the first pixel."""
    for kind in ("Annotations", "JPEGImages"):
        (root / kind).mkdir(parents=True)
    for place, seed in enumerate(seeds):
        Image.fromarray(picture(seed)).save(root / "JPEGImages" / f"{seed}.png")
        objects = "".join(
            f"<object><name>{name}</name><bndbox><xmin>{x1 + first}</xmin><ymin>{y1 + first}</ymin>"
            f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            for name, x1, y1, x2, y2 in boxes_of(place, names)
        )
        (root / "Annotations" / f"{seed}.xml").write_text(
            f"<annotation><filename>{seed}.png</filename><size><width>{WIDTH}</width><height>{HEIGHT}</height>"
            f"<depth>3</depth></size>{objects}</annotation>"
        )
    return root


def config_of(host: PluginHost, sources: list[Any], **data: Any) -> ResolvedConfig:
    values = {f"data.{key.replace('__', '.')}": value for key, value in data.items()}
    listed = [str(source) if isinstance(source, Path) else source for source in sources]
    return resolve(host, [mapping_layer({"data.sources": listed, "export.format": [], **values})])


def look_at_all(sources: list[Any], **data: Any) -> CheckReport:
    host = discover()
    return check(config_of(host, sources, **data), host)


def whole(report: CheckReport) -> Dataset:
    assert report.dataset is not None, report.findings
    return report.dataset


def boxes_by_picture(dataset: Dataset) -> dict[str, list[tuple[Any, ...]]]:
    """File name to (class, rounded corners) of each object."""
    return {
        image.file_name: sorted(
            (dataset.class_map.names[int(split.labels[row])], *split.boxes[row].round().astype(int).tolist())
            for row in range(split.objects_of(number).start, split.objects_of(number).stop)
        )
        for split in dataset.splits.values()
        for number, image in enumerate(split.images)
    }
