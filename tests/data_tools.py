"""A small COCO data set that is sound, and the ways to break it. Shares no code with the reader or the checker."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detloom.config import ResolvedConfig, mapping_layer, resolve
from detloom.data.dataset import Dataset
from detloom.data.load import CheckReport, check, load_dataset
from detloom.data.records import Finding
from detloom.host import PluginHost, discover

WIDTH, HEIGHT = 64, 48
CLASSES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
Document = dict[str, Any]


def picture(seed: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """uint8 RGB [height, width, 3], different for each seed, smooth enough for JPEG."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def document(images: int, first_seed: int, suffix: str = ".png") -> Document:
    """Every image has a cat and a dog; ids start at 1 and at 101."""
    entries = [
        {"id": n + 1, "file_name": f"p{first_seed + n}{suffix}", "width": WIDTH, "height": HEIGHT}
        for n in range(images)
    ]
    annotations = []
    for n in range(images):
        for k, (class_id, box) in enumerate(((3, [4.0, 5.0, 20.0, 10.0]), (7, [30.0 + n % 15, 20.0, 16.0, 12.0]))):
            annotations.append(
                {
                    "id": 101 + 2 * n + k,
                    "image_id": n + 1,
                    "category_id": class_id,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    return {"images": entries, "annotations": annotations, "categories": [dict(c) for c in CLASSES]}


def write_split(folder: Path, content: Document, first_seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for n, entry in enumerate(content["images"]):
        Image.fromarray(picture(first_seed + n)).save(folder / entry["file_name"])
    save(folder, content)


def save(folder: Path, content: Any) -> None:
    (folder / "_annotations.coco.json").write_text(json.dumps(content), encoding="utf-8")


def sound_data(root: Path, images: int = 4) -> Path:
    """train/ and valid/ in the layout of Roboflow."""
    write_split(root / "train", document(images, 0), 0)
    write_split(root / "valid", document(2, 100), 100)
    return root


def edit(root: Path, change: Callable[[Document], object], split: str = "train") -> None:
    path = root / split / "_annotations.coco.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    save(root / split, content)


def look(root: Path, **data: Any) -> CheckReport:
    """The check with keys of the `data` section (dots as double underscores)."""
    plugins = discover()
    return check(config(plugins, root, **data), plugins)


def load(root: Path, *, for_training: bool = True, **data: Any) -> Dataset:
    """The dataset, or a DataError."""
    plugins = discover()
    return load_dataset(config(plugins, root, **data), plugins, for_training=for_training)


def config(plugins: PluginHost, root: Path, **data: Any) -> ResolvedConfig:
    values = {f"data.{key.replace('__', '.')}": value for key, value in data.items()}
    return resolve(plugins, [mapping_layer({"data.local.path": str(root), "export.format": [], **values})])


def codes(report: CheckReport) -> dict[str, int]:
    """Finding code to count, without information."""
    return {finding.code: finding.count for finding in report.findings if finding.severity != "info"}


def first(report: CheckReport, code: str) -> Finding:
    """The first finding with this code; there must be one."""
    found = [finding for finding in report.findings if finding.code == code]
    assert found, report.findings
    return found[0]
