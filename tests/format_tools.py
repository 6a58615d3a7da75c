"""One small data set, written by hand in the ways that tools write theirs. Shares no code with readers or writers."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_tools import picture
from detloom.data.dataset import Dataset
from detloom.data.records import ClassRecord, DataTree, Finding, ImageRecord, ObjectRecord
from detloom.host import discover
from detloom.specs import Format, FormatSpec

WIDTH, HEIGHT = 64, 48
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Shot:
    """objects: class name and box, xyxy in pixels."""

    name: str
    split: str
    seed: int
    objects: tuple[tuple[str, Box], ...]


SHOTS = (
    Shot("p0.png", "train", 0, (("cat", (4, 5, 24, 15)), ("dog", (30, 20, 46.5, 32)))),
    Shot("p1.png", "train", 1, (("cat", (0, 0, 64, 48)),)),
    Shot("p2.png", "val", 2, (("dog", (10, 8.25, 20, 40)), ("cat", (40, 2, 60, 12)))),
    Shot("p3.png", "val", 3, ()),
)
CLASSES = ("cat", "dog")
TRUTH = {shot.name: sorted(shot.objects) for shot in SHOTS}


def paint(shot: Shot, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(shot.seed, WIDTH, HEIGHT)).save(path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


# ---- COCO


def coco_document(shots: Iterable[Shot]) -> dict[str, Any]:
    images, annotations = [], []
    for number, shot in enumerate(shots, start=1):
        images.append({"id": number, "file_name": shot.name, "width": WIDTH, "height": HEIGHT})
        for name, (x1, y1, x2, y2) in shot.objects:
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": CLASSES.index(name) + 1}
            annotations.append({**entry, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)})
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def coco_roboflow(root: Path) -> None:
    for split, folder in (("train", "train"), ("val", "valid")):
        shots = [shot for shot in SHOTS if shot.split == split]
        for shot in shots:
            paint(shot, root / folder / shot.name)
        write(root / folder / "_annotations.coco.json", json.dumps(coco_document(shots)))


def coco_instances(root: Path) -> None:
    for split in ("train", "val"):
        shots = [shot for shot in SHOTS if shot.split == split]
        for shot in shots:
            paint(shot, root / f"{split}2017" / shot.name)
        document = coco_document(shots)
        for image in document["images"]:
            image["file_name"] = f"{split}2017/{image['file_name']}"
        write(root / "annotations" / f"instances_{split}2017.json", json.dumps(document))


def coco_one(root: Path) -> None:
    for shot in SHOTS:
        paint(shot, root / "images" / shot.name)
    write(root / "all.json", json.dumps(coco_document(SHOTS)))


# ---- YOLO


def yolo_text(shot: Shot) -> str:
    lines = []
    for name, (x1, y1, x2, y2) in shot.objects:
        x, y, w, h = (x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT
        lines.append(f"{CLASSES.index(name)} {x:.9f} {y:.9f} {w:.9f} {h:.9f}\n")
    return "".join(lines)


def yolo_ultralytics(root: Path) -> None:
    for shot in SHOTS:
        paint(shot, root / "images" / shot.split / shot.name)
        write(root / "labels" / shot.split / f"{Path(shot.name).stem}.txt", yolo_text(shot))
    write(
        root / "data.yaml",
        "path: /home/somebody/datasets/mine\ntrain: images/train\nval: images/val\ntest:\n"
        "names:\n  0: cat\n  1: dog\ndownload: rm -rf /\n",
    )


def yolo_roboflow(root: Path) -> None:
    for shot in SHOTS:
        folder = {"train": "train", "val": "valid"}[shot.split]
        paint(shot, root / folder / "images" / shot.name)
        write(root / folder / "labels" / f"{Path(shot.name).stem}.txt", yolo_text(shot))
    write(root / "data.yaml", "train: ../train/images\nval: ../valid/images\n\nnc: 2\nnames: ['cat', 'dog']\n")
    write(root / "README.roboflow.txt", "exported\n")


def yolo_lists(root: Path) -> None:
    lists: dict[str, list[str]] = {"train": [], "val": []}
    for shot in SHOTS:
        paint(shot, root / "images" / shot.name)
        write(root / "labels" / f"{Path(shot.name).stem}.txt", yolo_text(shot))
        lists[shot.split].append(f"./images/{shot.name}\n")
    for split, lines in lists.items():
        write(root / f"{split}.txt", "".join(lines))
    write(root / "pets.yaml", "train: [train.txt]\nval: val.txt\nnames: [cat, dog]\n")


def yolo_darknet(root: Path) -> None:
    """As CVAT exports `YOLO 1.1`."""
    lists: dict[str, list[str]] = {"train": [], "val": []}
    for shot in SHOTS:
        folder = f"obj_{shot.split}_data"
        paint(shot, root / folder / shot.name)
        write(root / folder / f"{Path(shot.name).stem}.txt", yolo_text(shot))
        lists[shot.split].append(f"data/{folder}/{shot.name}\n")
    for split, lines in lists.items():
        write(root / f"{split}.txt", "".join(lines))
    write(
        root / "obj.data",
        "classes = 2\ntrain = data/train.txt\nvalid = data/val.txt\nnames = data/obj.names\nbackup = backup/\n",
    )
    write(root / "obj.names", "cat\ndog\n")


def yolo_folders(root: Path) -> None:
    for shot in SHOTS:
        paint(shot, root / "images" / shot.split / shot.name)
        write(root / "labels" / shot.split / f"{Path(shot.name).stem}.txt", yolo_text(shot))
    write(root / "classes.txt", "cat\ndog\n")


def yolo_flat(root: Path) -> None:
    """As LabelImg saves."""
    for shot in SHOTS:
        paint(shot, root / shot.name)
        write(root / f"{Path(shot.name).stem}.txt", yolo_text(shot))
    write(root / "classes.txt", "cat\ndog\n")


# ---- Pascal VOC


def voc_text(shot: Shot, folder: str = "JPEGImages") -> str:
    objects = "".join(
        f"<object>\n<name>{name}</name>\n<difficult>0</difficult>\n<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>\n</object>\n"
        for name, (x1, y1, x2, y2) in shot.objects
    )
    return (
        f"<annotation>\n<folder>{folder}</folder>\n<filename>{shot.name}</filename>\n"
        "<source><database>Unknown</database></source>\n"
        f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>\n{objects}</annotation>\n"
    )


def voc_devkit(root: Path, home: str = "VOC2012") -> None:
    place = root / home
    for shot in SHOTS:
        paint(shot, place / "JPEGImages" / shot.name)
        write(place / "Annotations" / f"{Path(shot.name).stem}.xml", voc_text(shot))
    for split in ("train", "val"):
        stems = [Path(shot.name).stem for shot in SHOTS if shot.split == split]
        write(place / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{stem}\n" for stem in stems))
    write(place / "ImageSets" / "Main" / "trainval.txt", "".join(f"{Path(s.name).stem}\n" for s in SHOTS))
    write(place / "ImageSets" / "Main" / "cat_train.txt", "p0  1\np1  1\n")


def voc_roboflow(root: Path) -> None:
    for shot in SHOTS:
        folder = root / {"train": "train", "val": "valid"}[shot.split]
        paint(shot, folder / shot.name)
        write(folder / f"{Path(shot.name).stem}.xml", voc_text(shot, ""))


def voc_kaggle(root: Path) -> None:
    for shot in SHOTS:
        paint(shot, root / "images" / shot.name)
        write(root / "annotations" / f"{Path(shot.name).stem}.xml", voc_text(shot, "images"))


def voc_labelimg(root: Path) -> None:
    for shot in SHOTS:
        paint(shot, root / shot.name)
        write(root / f"{Path(shot.name).stem}.xml", voc_text(shot, "mine"))


# ---- CVAT


def cvat_boxes(shot: Shot) -> str:
    return "".join(
        f'    <box label="{name}" source="manual" occluded="0" xtl="{x1:.2f}" ytl="{y1:.2f}" xbr="{x2:.2f}" '
        f'ybr="{y2:.2f}" z_order="0">\n    </box>\n'
        for name, (x1, y1, x2, y2) in shot.objects
    )


CVAT_LABELS = "".join(f"<label><name>{name}</name><color>#ff0000</color></label>\n" for name in CLASSES)


def cvat_document(body: str, holder: str = "task") -> str:
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta>\n'
        f"<{holder}><name>pets</name><labels>\n{CVAT_LABELS}</labels>\n"
        f"<original_size><width>{WIDTH}</width><height>{HEIGHT}</height></original_size></{holder}>\n"
        f"  <dumped>2026-01-01</dumped></meta>\n{body}</annotations>\n"
    )


def cvat_images(root: Path) -> None:
    body = ""
    for number, shot in enumerate(SHOTS):
        paint(shot, root / "images" / shot.name)
        body += f'  <image id="{number}" name="{shot.name}" width="{WIDTH}" height="{HEIGHT}">\n'
        body += f"{cvat_boxes(shot)}  </image>\n"
    write(root / "annotations.xml", cvat_document(body))


def cvat_project(root: Path) -> None:
    body = ""
    for number, shot in enumerate(SHOTS):
        subset = {"train": "Train", "val": "Validation"}[shot.split]
        paint(shot, root / "images" / subset / shot.name)
        body += f'  <image id="{number}" name="{shot.name}" subset="{subset}" task_id="7" width="64" height="48">\n'
        body += f"{cvat_boxes(shot)}  </image>\n"
    write(root / "annotations.xml", cvat_document(body, "project"))


def cvat_video(root: Path) -> None:
    """One track for each object; it leaves in the frame after."""
    body = ""
    for frame, shot in enumerate(SHOTS):
        paint(shot, root / "images" / f"frame_{frame:06d}.PNG")
        for name, (x1, y1, x2, y2) in shot.objects:
            place = f'occluded="0" xtl="{x1:.2f}" ytl="{y1:.2f}" xbr="{x2:.2f}" ybr="{y2:.2f}" z_order="0"'
            body += f'  <track id="{len(body)}" label="{name}" source="manual">\n'
            body += f'    <box frame="{frame}" keyframe="1" outside="0" {place}></box>\n'
            body += f'    <box frame="{frame + 1}" keyframe="1" outside="1" {place}></box>\n  </track>\n'
    write(root / "annotations.xml", cvat_document(body))


# ---- LabelMe


def labelme_document(shot: Shot, path: str) -> dict[str, Any]:
    shapes = [
        {
            "label": name,
            "points": [[x2, y1], [x1, y2]],
            "group_id": None,
            "shape_type": "rectangle",
            "flags": {},
        }
        for name, (x1, y1, x2, y2) in shot.objects
    ]
    return {
        "version": "5.2.1",
        "flags": {},
        "shapes": shapes,
        "imagePath": path,
        "imageData": "bm90IGEgcGljdHVyZQ==",
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
    }


def labelme_flat(root: Path) -> None:
    for shot in SHOTS:
        paint(shot, root / shot.name)
        write(root / f"{Path(shot.name).stem}.json", json.dumps(labelme_document(shot, shot.name)))


def labelme_splits(root: Path) -> None:
    for shot in SHOTS:
        paint(shot, root / shot.split / "images" / shot.name)
        text = json.dumps(labelme_document(shot, f"..\\images\\{shot.name}"))
        write(root / shot.split / "labels" / f"{Path(shot.name).stem}.json", text)


# ---- CSV


def csv_rows(root: Path, name: str, rows: list[list[Any]]) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def csv_tensorflow(root: Path) -> None:
    header = ["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"]
    for split in ("train", "val"):
        rows: list[list[Any]] = [header]
        for shot in (shot for shot in SHOTS if shot.split == split):
            paint(shot, root / "images" / shot.name)
            rows += [[shot.name, WIDTH, HEIGHT, name, *box] for name, box in shot.objects]
            rows += [] if shot.objects else [[shot.name, WIDTH, HEIGHT, "", "", "", "", ""]]
        csv_rows(root, f"{split}_labels.csv", rows)


def csv_sizes(root: Path) -> None:
    rows: list[list[Any]] = [["image_path", "x", "y", "width", "height", "label", "split"]]
    for shot in SHOTS:
        paint(shot, root / shot.name)
        boxes = [(name, [x1, y1, x2 - x1, y2 - y1]) for name, (x1, y1, x2, y2) in shot.objects]
        rows += [[shot.name, *box, name, shot.split] for name, box in boxes or [("", ["", "", "", ""])]]
    csv_rows(root, "boxes.csv", rows)


def csv_open_images(root: Path) -> None:
    rows: list[list[Any]] = [
        ["ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax", "IsOccluded", "IsGroupOf"]
    ]
    for shot in SHOTS:
        paint(shot, root / "images" / shot.name)
        for name, (x1, y1, x2, y2) in shot.objects:
            sides = [x1 / WIDTH, x2 / WIDTH, y1 / HEIGHT, y2 / HEIGHT]
            rows.append([Path(shot.name).stem, "xclick", name, 1, *sides, 0, 0])
    csv_rows(root, "annotations-bbox.csv", rows)


LAYOUTS: dict[str, tuple[str, Callable[[Path], None]]] = {
    maker.__name__: (name, maker)
    for name, makers in {
        "coco": (coco_roboflow, coco_instances, coco_one),
        "yolo": (yolo_ultralytics, yolo_roboflow, yolo_lists, yolo_darknet, yolo_folders, yolo_flat),
        "voc": (voc_devkit, voc_roboflow, voc_kaggle, voc_labelimg),
        "cvat-xml": (cvat_images, cvat_project, cvat_video),
        "labelme": (labelme_flat, labelme_splits),
        "csv": (csv_tensorflow, csv_sizes, csv_open_images),
    }.items()
    for maker in makers
}
"""How a tool lays its files out, to the name of the format and who writes it."""

UNSPLIT = {
    "coco_one",
    "yolo_flat",
    "voc_kaggle",
    "voc_labelimg",
    "cvat_images",
    "cvat_video",
    "labelme_flat",
    "csv_open_images",
}
WITHOUT_BACKGROUND = {"csv_open_images"}
"""Layouts that can only name pictures with a box."""


# ---- reading

Records = list[ClassRecord | ImageRecord | Finding]


def records(name: str, root: Path, **settings: Any) -> Records:
    """What a format reads of a folder."""
    return list(reader(name, **settings).read(DataTree(root)))


def reader(name: str, **settings: Any) -> Format:
    spec = discover().get(FormatSpec, name)
    return spec.build(spec.settings().model_copy(update=settings))


def findings(found: Records) -> list[tuple[str, str]]:
    """(code, where), without information."""
    return [(item.code, item.where) for item in found if isinstance(item, Finding) and item.severity != "info"]


def images(found: Records) -> dict[str, ImageRecord]:
    return {Path(item.file_name).name: item for item in found if isinstance(item, ImageRecord)}


def objects(found: Records) -> list[ObjectRecord]:
    return [thing for item in found if isinstance(item, ImageRecord) for thing in item.objects]


def assert_val_is_read_as_not_split(found: Records) -> None:
    """Of the small data set, when its `val` has another name; and that is said."""
    assert [code for code, _ in findings(found)] == ["unknown-split"]
    read_as = {name: image.split for name, image in images(found).items()}
    assert read_as == {shot.name: {"train": "train", "val": "all"}[shot.split] for shot in SHOTS}


def boxes(dataset: Dataset) -> dict[str, list[tuple[str, Box]]]:
    """File name to class names and boxes, rounded to a thousandth."""
    table: dict[str, list[tuple[str, Box]]] = {}
    for split in dataset.splits.values():
        for index, image in enumerate(split.images):
            rows = range(*split.objects_of(index).indices(len(split.labels)))
            named = []
            for row in rows:
                x1, y1, x2, y2 = np.round(split.boxes[row], 3).tolist()
                named.append((dataset.class_map.names[int(split.labels[row])], (x1, y1, x2, y2)))
            table[image.path.name] = sorted(named)
    return table
