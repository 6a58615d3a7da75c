"""Reading 10,000 images with 70,000 boxes in COCO, YOLO and Pascal VOC: our readers against a plain parse of the files.

    python benchmarks/formats.py [IMAGES]

The plain parse opens the same files and makes lists of numbers, without a single check: json.load for COCO, split and
float for YOLO, xml.etree for Pascal VOC. Reading gives records (places, findings); the whole load adds the validator
and knows the pictures already, as any second look at data does. Libraries that are installed are measured too.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
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
        plain: dict[str, Callable[[Path], object]] = {"coco": plain_coco, "yolo": plain_yolo, "voc": plain_voc}
        rows = {}
        for name, place in places.items():
            load(name, place)  # the pictures become known
            rows[name] = {
                "plain": median(plain[name], place),
                "read": median(lambda root, name=name: drain(read(name, root)), place),
                "load": median(lambda root, name=name: load(name, root), place),
            }
        digests = {load(name, place) for name, place in places.items()}
        lines = report(rows, count, len(digests) == 1)
        lines += others(places)
    record("formats", lines)


def report(rows: dict[str, dict[str, float]], count: int, same: bool) -> list[str]:
    loads = [row["load"] for row in rows.values()]
    lines = [
        f"{count:,} images, {count * BOXES:,} boxes; median of {ROUNDS} rounds, seconds of CPU time",
        "",
        "| format | plain parse | reading | reading / plain | whole load |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        ratio = row["read"] / row["plain"]
        lines.append(f"| {name} | {row['plain']:.2f} | {row['read']:.2f} | {ratio:.1f} | {row['load']:.2f} |")
    return [
        *lines,
        "",
        f"The slowest whole load takes {max(loads) / min(loads):.2f} times the fastest; "
        f"the digests are {'the same' if same else 'DIFFERENT'}.",
    ]


def others(places: dict[str, Path]) -> list[str]:
    """Loading with other libraries, where they are installed."""
    lines = []
    if importlib.util.find_spec("supervision"):
        import supervision  # type: ignore[import-not-found]

        def with_supervision(root: Path) -> object:
            images, labels = str(root / "images" / "train"), str(root / "labels" / "train")
            return supervision.DetectionDataset.from_yolo(images, labels, str(root / "data.yaml"))

        lines.append(f"supervision, YOLO: {median(with_supervision, places['yolo'], 1):.2f} s")
    if importlib.util.find_spec("datumaro"):
        from datumaro import Dataset  # type: ignore[import-not-found]

        for name, called in (("coco", "coco"), ("yolo", "yolo_ultralytics"), ("voc", "voc")):
            seconds = median(lambda root, called=called: drain(Dataset.import_from(str(root), called)), places[name], 1)
            lines.append(f"datumaro, {name}: {seconds:.2f} s")
    return ["", *lines] if lines else []


# ---- ours


def read(name: str, root: Path) -> Iterable[object]:
    spec = discover().get(FormatSpec, name)
    return spec.build(spec.settings()).read(DataTree(root))


def load(name: str, root: Path) -> str:
    plugins = discover()
    values = {"data.local.path": str(root), "data.format": name, "export.format": []}
    return load_dataset(resolve(plugins, [mapping_layer(values)]), plugins).digest


def drain(items: Iterable[object]) -> int:
    return sum(1 for _ in items)


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


def median(call: Callable[[Path], object], root: Path, rounds: int = ROUNDS) -> float:
    times = []
    for _ in range(rounds):
        started = time.process_time()
        call(root)
        times.append(time.process_time() - started)
    return statistics.median(times)


# ---- the data


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
            annotations.append({**entry, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)})
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
