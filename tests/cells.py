"""A detector whose weights are set by hand, pictures that it solves, and a run's folder that holds both.

Red and blue squares lie on the cells of a 16-pixel grid; the network measures the colour of each cell. Channel order,
normalisation, class order and decoding all matter: with one of them wrong it finds nothing, or the wrong things.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from detloom.config import mapping_layer, resolve
from detloom.data.dataset import ClassMap
from detloom.detector import Decoded, Detector, LayerGroup, LossTerms, Outputs, Targets, TransferReport
from detloom.geometry import InputRule, PostRule
from detloom.hookspecs import hookimpl
from detloom.host import PluginHost
from detloom.model import describe
from detloom.specs import ModelContext, ModelSpec
from detloom.testing import host_with_first_party
from detloom.train.checkpoint import BEST, save_checkpoint

SIZE = (64, 96)
CELL = 16
CLASSES = ClassMap((3, 9), ("blue", "red"))
COLOURS = {"blue": (40, 60, 220), "red": (220, 60, 40)}


class CellDetector(Detector):
    """One box a cell. `sharpness`: how steep scores rise with the colour."""

    def __init__(self, class_names: Sequence[str], size: tuple[int, int], sharpness: float = 3.0) -> None:
        rule = InputRule(size=size, channels="bgr", scale=1 / 255, mean=(0.5, 0.45, 0.4), std=(0.25, 0.25, 0.25))
        super().__init__(class_names, rule, PostRule(kind="nms", score_threshold=0.05))
        self.colour = nn.Conv2d(3, len(self.class_names), CELL, CELL)
        self.box = nn.Conv2d(3, 4, CELL, CELL)
        signs = {"blue": (1.0, 0.0, -1.0), "red": (-1.0, 0.0, 1.0)}
        with torch.no_grad():
            for row, name in enumerate(self.class_names):
                weight = torch.tensor(signs.get(name, (0.0, 0.0, 0.0))) * sharpness / CELL**2
                self.colour.weight[row] = weight[:, None, None]
            self.colour.bias.fill_(-4.0)
            self.box.weight.zero_()
            self.box.bias.zero_()

    def forward(self, images: Tensor, targets: Targets | None = None, prompts: object | None = None) -> Outputs:
        pixels = self.normalise(images)
        logits, boxes = self.colour(pixels), self.box(pixels)
        return Outputs(
            logits.flatten(2).transpose(1, 2), boxes.flatten(2).transpose(1, 2), extra={"width": logits.shape[3]}
        )

    def decode(self, outputs: Outputs) -> Decoded:
        cells, width = torch.arange(outputs.boxes.shape[1]), outputs.extra["width"]
        corner = torch.stack([cells % width, cells // width], 1).float()
        middle = (corner + 0.5 + outputs.boxes[..., :2]) * CELL
        half = outputs.boxes[..., 2:].exp() * CELL / 2
        return Decoded(torch.cat([middle - half, middle + half], -1), outputs.logits.sigmoid())

    def loss(self, outputs: Outputs, targets: Targets) -> LossTerms:
        raise NotImplementedError

    def layer_groups(self) -> list[LayerGroup]:
        return [LayerGroup("all", (self.colour, self.box), 0, is_head=True)]

    def load_pretrained(self, state: Mapping[str, Tensor], class_names: Sequence[str], source: str) -> TransferReport:
        raise NotImplementedError


class CellsPlugin:
    detloom_api = (0, 1)

    @hookimpl
    def detloom_models(self) -> Iterable[ModelSpec]:
        def build(settings: object, context: ModelContext) -> Detector:
            return CellDetector(context.class_names, context.size)

        return [
            ModelSpec(
                name="cells-one",
                summary="colours of cells",
                family="cells",
                licence="Apache-2.0",
                build=build,
                size_divisor=16,
            )
        ]


def cells_host(**plugins: object) -> PluginHost:
    return host_with_first_party(cells=CellsPlugin(), **plugins)


def draw_picture(rng: np.random.Generator, scale: int) -> tuple[np.ndarray, list[tuple[str, list[int]]]]:
    """uint8 RGB, and (class name, xywh) of each square."""
    height, width = SIZE[0] * scale, SIZE[1] * scale
    picture = rng.normal(120, 3, (height, width, 3))
    side, objects = CELL * scale, []
    cells = rng.choice(24, size=int(rng.integers(3, 8)), replace=False)
    for cell in cells.tolist():
        name = "red" if rng.random() < 0.5 else "blue"
        x, y = cell % 6 * side, cell // 6 * side
        strength = rng.uniform(0.6, 1.0)
        colour = 120 + (np.array(COLOURS[name]) - 120) * strength
        picture[y : y + side, x : x + side] = colour
        objects.append((name, [x, y, side, side]))
    return np.clip(picture, 0, 255).astype(np.uint8), objects


def draw_split(folder: Path, count: int, seed: int, ids: Mapping[str, int] | None = None) -> None:
    """PNG files of two sizes and `_annotations.coco.json`. ids: class name to id of this data set."""
    ids = ids or {"red": 9, "blue": 3}
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    for number in range(count):
        picture, objects = draw_picture(rng, 1 + number % 2)
        name = f"picture {number}.png"
        cv2.imwrite(str(folder / name), picture[..., ::-1])
        images.append({"id": 100 + number, "file_name": name, "width": picture.shape[1], "height": picture.shape[0]})
        for kind, (x, y, w, h) in objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 100 + number,
                    "category_id": ids[kind],
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "_annotations.coco.json").write_text(json.dumps(document))


def draw_data(folder: Path) -> Path:
    for seed, (name, count) in enumerate({"train": 4, "valid": 8, "test": 5}.items()):
        draw_split(folder / name, count, seed)
    return folder


def write_run(folder: Path, data: Path, host: PluginHost, *, sharpness: float = 3.0, digest: str = "") -> Path:
    """A run's folder as a training leaves it: config.yaml and checkpoints/best.pt."""
    resolved = resolve(
        host,
        [
            mapping_layer(
                {
                    "model.type": "cells:cells-one",
                    "data.local.path": str(data),
                    "training.resolution": list(SIZE),
                    "training.batch_size": 2,
                }
            )
        ],
    )
    detector = CellDetector(CLASSES.names, SIZE, sharpness)
    spec = host.get(ModelSpec, "cells-one")
    about = describe(
        detector,
        host.qualified(spec),
        spec.settings(),
        CLASSES,
        resolved.to_dict(),
        {"name": "cells", "digest": digest},
    )
    metrics = {"val/AP": 1.0}
    payload = {**about, "weights": detector.saved_state(), "metrics": metrics}
    save_checkpoint(folder / "checkpoints", BEST, payload, {"epoch": 0, "step": 1, "metrics": metrics})
    (folder / "config.yaml").write_text(resolved.to_yaml())
    return folder
