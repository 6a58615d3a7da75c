"""Reading 10,000 images with 70,000 boxes in COCO, YOLO and Pascal VOC: our readers against a plain parse of the files,
and against datumaro and supervision where these are installed (an environment of their own: datumaro pins versions).

    python benchmarks/formats.py [IMAGES]

The plain parse opens the same files and makes lists of numbers, without a single check: json.load for COCO, split and
float for YOLO, xml.etree for Pascal VOC. Reading gives records, which is what the libraries give, with places and
findings; the whole load adds the check of every object and knows the pictures already, as any second look at data does.
The ways of reading take turns: each round measures every one of them once, and the boxes of all are counted.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
from common import record

from detloom.config import mapping_layer, resolve
from detloom.data.load import load_dataset
from detloom.data.records import DataTree
from detloom.host import discover
from detloom.specs import FormatSpec

WIDTH, HEIGHT, CLASSES, BOXES = 160, 120, 8, 7
ROUNDS = 3


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DETLOOM_CACHE"] = str(Path(folder) / "cache")
        places = {name: Path(folder) / name for name in ("coco", "yolo", "voc")}
        make(places, count)
        digests = {load(name, place) for name, place in places.items()}  # and the pictures become known
        ways = every_way()
        boxes = {key: boxes_of(way(places[key[1]])) for key, way in ways.items() if key[0] in COUNTED}
        seconds: dict[Key, list[float]] = {key: [] for key in ways}
        for _ in range(ROUNDS):
            for key, way in ways.items():
                seconds[key].append(cpu_seconds(way, places[key[1]]))
        medians = {key: statistics.median(values) for key, values in seconds.items()}
        record("formats", report(medians, boxes, count, len(digests) == 1))


Key = tuple[str, str]
"""Who reads, and which format."""
COUNTED = ("reading", "datumaro", "supervision")


def every_way() -> dict[Key, Callable[[Path], Any]]:
    plain = {"coco": plain_coco, "yolo": plain_yolo, "voc": plain_voc}
    ways: dict[Key, Callable[[Path], Any]] = {("plain parse", name): way for name, way in plain.items()}
    for name in plain:
        ways["reading", name] = lambda root, name=name: list(read(name, root))  # type: ignore[misc]
        ways["whole load", name] = lambda root, name=name: load(name, root)  # type: ignore[misc]
    return ways | others()


def report(medians: dict[Key, float], boxes: dict[Key, int], count: int, same: bool) -> list[str]:
    who = list(dict.fromkeys(key[0] for key in medians))
    names = ("coco", "yolo", "voc")
    lines = [
        f"{count:,} images, {count * BOXES:,} boxes; median of {ROUNDS} rounds, seconds of CPU time; "
        f"{', '.join(versions()) or 'no other library is installed'}",
        "",
        f"| | {' | '.join(names)} |",
        f"|---|{'---|' * len(names)}",
    ]
    lines += [f"| {one} | {' | '.join(f'{medians[one, name]:.2f}' for name in names)} |" for one in who]
    loads = [medians["whole load", name] for name in names]
    lines += [
        "",
        f"The slowest whole load takes {max(loads) / min(loads):.2f} times the fastest; "
        f"the digests are {'the same' if same else 'DIFFERENT'}.",
    ]
    wrong = {key: found for key, found in boxes.items() if found != count * BOXES}
    return [*lines, "All found the same number of boxes." if not wrong else f"Other numbers of boxes: {wrong}."]


def versions() -> list[str]:
    return [
        f"{name} {importlib.metadata.version(name)}"
        for name in ("datumaro", "supervision")
        if importlib.util.find_spec(name)
    ]


def others() -> dict[Key, Callable[[Path], Any]]:
    """Loading with other libraries, where they are installed."""
    ways: dict[Key, Callable[[Path], Any]] = {}
    if importlib.util.find_spec("datumaro"):
        from datumaro import Dataset  # type: ignore[import-not-found]

        for name in ("coco", "yolo", "voc"):
            ways["datumaro", name] = lambda root, name=name: list(Dataset.import_from(str(root), name))  # type: ignore[misc]
    if importlib.util.find_spec("supervision"):
        import supervision  # type: ignore[import-not-found]

        kind = supervision.DetectionDataset

        def coco(root: Path) -> list[Any]:
            files = sorted((root / "annotations").glob("*.json"))
            return [kind.from_coco(str(root / "images"), str(file)) for file in files]

        def yolo(root: Path) -> list[Any]:
            at = [(str(root / "images" / split), str(root / "labels" / split)) for split in ("train", "val")]
            return [kind.from_yolo(images, labels, str(root / "data.yaml")) for images, labels in at]

        def voc(root: Path) -> list[Any]:
            return [kind.from_pascal_voc(str(root / "JPEGImages"), str(root / "Annotations"))]

        ways |= {("supervision", "coco"): coco, ("supervision", "yolo"): yolo, ("supervision", "voc"): voc}
    return ways


def boxes_of(found: list[Any]) -> int:
    """Of records, of datumaro's items, of supervision's data sets."""
    count = 0
    for one in found:
        if hasattr(one, "objects"):
            count += len(one.objects)
        elif hasattr(one, "media"):
            count += sum(annotation.type.name == "bbox" for annotation in one.annotations)
        elif hasattr(one, "image_paths"):
            count += sum(len(detections) for detections in one.annotations.values())
    return count


# ---- ours


def read(name: str, root: Path) -> Iterable[object]:
    spec = discover().get(FormatSpec, name)
    return spec.build(spec.settings()).read(DataTree(root))


def load(name: str, root: Path) -> str:
    plugins = discover()
    values = {"data.local.path": str(root), "data.format": name, "export.format": []}
    return load_dataset(resolve(plugins, [mapping_layer(values)]), plugins).digest


# ---- plain


def plain_coco(root: Path) -> object:
    documents = [json.loads(path.read_bytes()) for path in root.glob("annotations/*.json")]
    return [entry["bbox"] for document in documents for entry in document["annotations"]]


def plain_yolo(root: Path) -> object:
    boxes = []
    for path in root.glob("labels/*/*.txt"):
        boxes += [list(map(float, line.split())) for line in path.read_text().splitlines()]
    return boxes


def plain_voc(root: Path) -> object:
    boxes = []
    for path in root.glob("Annotations/*.xml"):
        for thing in ElementTree.parse(path).iter("object"):
            box = thing.find("bndbox")
            assert box is not None
            boxes.append((thing.findtext("name"), [float(side.text or "") for side in box]))
    return boxes


def cpu_seconds(call: Callable[[Path], Any], root: Path) -> float:
    started = time.process_time()
    call(root)
    return time.process_time() - started


# ---- the data


NEEDED: dict[str, object] = {"iscrowd": 0, "segmentation": []}
"""What datumaro does not read COCO without."""


def make(places: dict[str, Path], count: int) -> None:
    rng = np.random.default_rng(0)
    picture = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    lists: dict[str, list[str]] = {"train": [], "val": []}
    coco: dict[str, tuple[list[object], list[object]]] = {"train": ([], []), "val": ([], [])}
    for folder in ("coco/annotations", *(f"yolo/labels/{split}" for split in lists), "voc/Annotations"):
        (places["coco"].parent / folder).mkdir(parents=True)
    homes = {"coco": "images", "yolo": "images", "voc": "JPEGImages"}
    for number in range(count):
        split, name = "val" if number % 5 == 4 else "train", f"{number:06d}"
        picture[:4, :4] = [number >> 16, number >> 8 & 255, number & 255]
        data = cv2.imencode(".png", picture)[1].tobytes()
        for key, home in homes.items():
            target = places[key] / home / (split if key == "yolo" else "") / f"{name}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        corners = rng.integers(0, 70, (BOXES, 2))
        boxes = np.hstack([corners, corners + rng.integers(5, 50, (BOXES, 2))]).tolist()
        labels = rng.integers(0, CLASSES, BOXES).tolist()
        lists[split].append(f"{name}\n")
        images, annotations = coco[split]
        images.append({"id": number, "file_name": f"{name}.png", "width": WIDTH, "height": HEIGHT})
        for label, (x1, y1, x2, y2) in zip(labels, boxes, strict=True):
            entry = {"id": number * BOXES + len(annotations) % BOXES, "image_id": number, "category_id": label}
            annotations.append({**entry, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), **NEEDED})
        (places["yolo"] / "labels" / split / f"{name}.txt").write_text(yolo_text(labels, boxes))
        (places["voc"] / "Annotations" / f"{name}.xml").write_text(voc_text(name, labels, boxes))
    names = [f"class{index}" for index in range(CLASSES)]
    for split, (images, annotations) in coco.items():
        categories = [{"id": index, "name": name} for index, name in enumerate(names)]
        document = {"images": images, "annotations": annotations, "categories": categories}
        (places["coco"] / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
        main = places["voc"] / "ImageSets" / "Main"
        main.mkdir(parents=True, exist_ok=True)
        (main / f"{split}.txt").write_text("".join(lists[split]))
    labels_of_voc = "".join(f"{name}:::\n" for name in names)
    (places["voc"] / "labelmap.txt").write_text(f"# label:color_rgb:parts:actions\n{labels_of_voc}")
    text = f"train: images/train\nval: images/val\nnames: {json.dumps(names)}\n"
    (places["yolo"] / "data.yaml").write_text(text)


def yolo_text(labels: list[int], boxes: list[list[int]]) -> str:
    return "".join(
        f"{c} {(x1 + x2) / 2 / WIDTH:.9f} {(y1 + y2) / 2 / HEIGHT:.9f} "
        f"{(x2 - x1) / WIDTH:.9f} {(y2 - y1) / HEIGHT:.9f}\n"
        for c, (x1, y1, x2, y2) in zip(labels, boxes, strict=True)
    )


def voc_text(name: str, labels: list[int], boxes: list[list[int]]) -> str:
    things = "".join(
        f"<object><name>class{c}</name><pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>"
        f"<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>\n"
        for c, (x1, y1, x2, y2) in zip(labels, boxes, strict=True)
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return f"<annotation>\n<filename>{name}.png</filename>\n{size}\n{things}</annotation>\n"


if __name__ == "__main__":
    main()
