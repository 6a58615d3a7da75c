"""The archives that the server makes: as CVAT's own writers lay them out, and as an enemy would."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from .pictures import picture
from .world import Job, Project, Shape, Task, World


@dataclass(frozen=True)
class Part:
    """The frames of one task that an export holds. subset: of its task where a project is exported, else None."""

    task: Task
    frames: range
    subset: str | None = None

    def numbers(self) -> list[int]:
        return [number for number in self.frames if number not in self.task.deleted]


def parts_of(world: World, target: Task | Job | Project) -> list[Part]:
    if isinstance(target, Job):
        return [Part(world.tasks[target.task], range(target.first, target.last + 1))]
    if isinstance(target, Task):
        return [Part(target, range(len(target.frames)))]
    tasks = [task for task in world.tasks.values() if task.project == target.id]
    return [Part(task, range(len(task.frames)), task.subset or "default") for task in tasks]


def archive(world: World, target: Task | Job | Project, how: Mapping[str, Any], faults: Mapping[str, Any]) -> bytes:
    """how: "format" and "images". faults: values of those that are set, by name."""
    parts = parts_of(world, target)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        if how["format"] == "COCO 1.0":
            packed.writestr("annotations/instances_default.json", json.dumps(_coco(parts)))
        else:
            packed.writestr("annotations.xml", _cvat_xml(target, parts))
        if how["images"]:
            folder = "images/default" if how["format"] == "COCO 1.0" else "images"
            for name, content in _pictures(parts, faults):
                packed.writestr(f"{folder}/{name}", content)
        _hostile_members(packed, faults)
    whole = buffer.getvalue()
    if "corrupt_zip" in faults:
        return whole[: len(whole) // 2] + b"\xff" * 64 + whole[len(whole) // 2 + 64 : -40]
    return whole


def _pictures(parts: Iterable[Part], faults: Mapping[str, Any]) -> Iterable[tuple[str, bytes]]:
    """Of tasks in one subset of a project, equal names fall upon each other, as in the real server."""
    for part in parts:
        for number in part.numbers():
            if "missing_frame" in faults and int(faults["missing_frame"]) == number:
                continue
            content = frame_bytes(part.task, number)
            if "truncated_jpeg" in faults and int(faults["truncated_jpeg"]) == number:
                content = content[: len(content) // 2]
            name = part.task.file_name(number)
            yield (f"{part.subset}/{name}" if part.subset else name), content


def frame_bytes(task: Task, number: int) -> bytes:
    """In the quality `original`."""
    return picture(task.frames[number], "PNG" if task.mode == "interpolation" else "")


def _hostile_members(packed: zipfile.ZipFile, faults: Mapping[str, Any]) -> None:
    if "zip_slip" in faults:
        packed.writestr("../../../evil.txt", "pwned")
        packed.writestr("/abs_evil.txt", "pwned")
    if "zip_symlink" in faults:
        link = zipfile.ZipInfo("images/link.jpg")
        link.external_attr = 0o120777 << 16
        packed.writestr(link, "/etc/passwd")
    if "zip_bomb" in faults:
        bomb = zipfile.ZipInfo("images/bomb.bin")
        packed.writestr(bomb, bytes(int(faults["zip_bomb"]) << 20), zipfile.ZIP_DEFLATED)


# ---- CVAT for images 1.1 ----------------------------------------------------------------------------------------


def _cvat_xml(target: Task | Job | Project, parts: list[Part]) -> bytes:
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    _meta(root, target, parts)
    for part in parts:
        for number in part.numbers():
            frame = part.task.frames[number]
            where = {"id": str(part.task.number_in_source(number)), "name": part.task.frame_name(number)}
            if part.subset is not None:
                where |= {"subset": part.subset, "task_id": str(part.task.id)}
            size = {"width": str(frame.width), "height": str(frame.height)}
            image = ElementTree.SubElement(root, "image", {**where, **size})
            for shape in part.task.shapes:
                if shape.frame == number:
                    _shape(image, shape)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def _meta(root: ElementTree.Element, target: Task | Job | Project, parts: list[Part]) -> None:
    kind = type(target).__name__.lower()
    meta = ElementTree.SubElement(root, "meta")
    about = ElementTree.SubElement(meta, kind)
    fields = {"id": target.id, "size": sum(len(part.frames) for part in parts)}
    if isinstance(target, Task):
        fields |= {"name": target.name, "mode": target.mode, "subset": target.subset}
        fields |= {"start_frame": 0, "stop_frame": len(target.frames) - 1, "frame_filter": ""}
    for name, value in fields.items():
        ElementTree.SubElement(about, name).text = str(value)
    labels = ElementTree.SubElement(about, "labels")
    for name in dict.fromkeys(name for part in parts for name in part.task.labels):
        label = ElementTree.SubElement(labels, "label")
        for key, value in (("name", name), ("color", "#2080c0"), ("type", "any")):
            ElementTree.SubElement(label, key).text = value
        ElementTree.SubElement(label, "attributes")
    ElementTree.SubElement(meta, "dumped").text = "2026-01-02 03:04:05.678901+00:00"


_TAGS = {"rectangle": "box"}


def _shape(image: ElementTree.Element, shape: Shape) -> None:
    data = {"label": shape.label, "source": "manual", "occluded": str(int(shape.occluded))}
    points = shape.points
    if shape.type == "rectangle":
        data |= dict(zip(("xtl", "ytl", "xbr", "ybr"), (f"{value:.2f}" for value in points), strict=True))
    elif shape.type == "mask":
        left, top, right, bottom = (int(value) for value in points[-4:])
        lengths = ", ".join(str(int(value)) for value in points[:-4])
        data |= {"rle": lengths, "left": str(left), "top": str(top)}
        data |= {"width": str(right - left + 1), "height": str(bottom - top + 1)}
    else:
        pairs = zip(points[::2], points[1::2], strict=True)
        data["points"] = ";".join(f"{x:.2f},{y:.2f}" for x, y in pairs)
    if shape.rotation:
        data["rotation"] = f"{shape.rotation:.2f}"
    data["z_order"] = str(shape.z_order)
    if shape.group:
        data["group_id"] = str(shape.group)
    element = ElementTree.SubElement(image, _TAGS.get(shape.type, shape.type), data)
    for name, value in shape.attributes.items():
        ElementTree.SubElement(element, "attribute", name=name).text = value


# ---- COCO 1.0 ---------------------------------------------------------------------------------------------------


def _coco(parts: list[Part]) -> dict[str, Any]:
    """Boxes alone. Images are told apart by their name without its suffix, so that two can become one, as in CVAT."""
    names = list(dict.fromkeys(name for part in parts for name in part.task.labels))
    ids: dict[str, int] = {}
    images, annotations = [], []
    for part in parts:
        for number in part.numbers():
            frame = part.task.frames[number]
            id_ = ids.setdefault(part.task.frame_name(number).rpartition(".")[0], len(ids) + 1)
            size = {"width": frame.width, "height": frame.height}
            images.append({"id": id_, **size, "file_name": part.task.file_name(number)})
            for shape in part.task.shapes:
                if shape.frame == number and shape.type == "rectangle":
                    x1, y1, x2, y2 = shape.points
                    annotations.append(
                        {
                            "id": len(annotations) + 1,
                            "image_id": id_,
                            "category_id": names.index(shape.label) + 1,
                            "bbox": [x1, y1, x2 - x1, y2 - y1],
                            "area": (x2 - x1) * (y2 - y1),
                            "segmentation": [],
                            "iscrowd": 0,
                            "attributes": {"occluded": shape.occluded, "rotation": shape.rotation},
                        }
                    )
    categories = [{"id": n + 1, "name": name, "supercategory": ""} for n, name in enumerate(names)]
    return {"categories": categories, "images": images, "annotations": annotations}
