"""Draw a data set of shapes in COCO form: train/ valid/ test/, each with `_annotations.coco.json`.

Four classes that differ in shape and, loosely, in hue; 1 to 8 objects an image, sizes from 1 to 4, rotated, overlapping
(at least 40 % of each stays visible), on textured backgrounds. Every image is a function of (seed, split, number):
splits never share one.

    python examples/draw_shapes.py OUT [--train 400] [--valid 60] [--test 100] [--size 128] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

CLASSES = {"disc": 0.02, "square": 0.3, "triangle": 0.6, "star": 0.14}
"""Name to middle hue, as a fraction of the colour circle."""
NAMES = tuple(CLASSES)
MIN_VISIBLE = 0.4
Image = NDArray[np.uint8]


def background(rng: np.random.Generator, size: int) -> Image:
    """A muted colour under cloudy noise of two scales and stripes: nothing that a threshold could separate."""
    canvas = np.zeros((size, size), np.float32)
    for cells, strength in ((4, 28.0), (20, 16.0)):
        coarse = rng.normal(0, strength, (cells, cells)).astype(np.float32)
        canvas += cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    angle, period = rng.uniform(0, math.pi), rng.uniform(6, 30)
    y, x = np.mgrid[:size, :size]
    canvas += np.sin((x * math.cos(angle) + y * math.sin(angle)) * 2 * math.pi / period) * rng.uniform(0, 18)
    tinted = canvas[..., None] * rng.uniform(0.7, 1.3, 3) + rng.uniform(80, 170, 3) + rng.normal(0, 5, (size, size, 3))
    return np.clip(tinted, 0, 255).astype(np.uint8)


def outline(kind: str, centre: tuple[float, float], radius: float, angle: float) -> NDArray[np.int32]:
    """Corner points [N, 2] of a shape, in 1/16 pixel."""
    if kind == "disc":
        turns, radii = np.linspace(0, 2 * math.pi, 48, endpoint=False), np.full(48, radius)
    elif kind == "star":
        turns = np.linspace(0, 2 * math.pi, 10, endpoint=False)
        radii = np.where(np.arange(10) % 2 == 0, radius, radius * 0.45)
    else:
        corners = {"square": 4, "triangle": 3}[kind]
        turns, radii = np.linspace(0, 2 * math.pi, corners, endpoint=False), np.full(corners, radius)
    points = np.stack([np.cos(turns + angle), np.sin(turns + angle)], 1) * radii[:, None] + centre
    return np.round(points * 16).astype(np.int32)


def fill(rng: np.random.Generator, kind: str, size: int) -> Image:
    """The surface of one object: its class's hue, give or take, any brightness, and grain."""
    hue = (CLASSES[kind] + rng.normal(0, 0.04)) % 1.0
    pixel = np.array([[[hue * 179, rng.uniform(110, 255), rng.uniform(90, 255)]]]).astype(np.uint8)
    colour = cv2.cvtColor(pixel, cv2.COLOR_HSV2BGR)[0, 0].astype(np.float32)
    grain = rng.normal(0, rng.uniform(4, 16), (size, size, 1)).astype(np.float32)
    return np.clip(colour + grain, 0, 255).astype(np.uint8)


def draw(rng: np.random.Generator, size: int) -> tuple[Image, list[tuple[int, NDArray[np.intp], int]]]:
    """One image (BGR) and its objects: class index, box xyxy in pixels, visible area in pixels."""
    image = background(rng, size)
    owner = np.full((size, size), -1, np.int32)
    kinds: list[int] = []
    whole: list[int] = []
    for _ in range(int(rng.integers(1, 9))):
        kind = int(rng.integers(len(CLASSES)))
        radius = size / 14 * 4 ** rng.uniform(0, 1)
        centre = (float(rng.uniform(radius, size - radius)), float(rng.uniform(radius, size - radius)))
        mask = np.zeros((size, size), np.uint8)
        cv2.fillPoly(mask, [outline(NAMES[kind], centre, radius, rng.uniform(0, 2 * math.pi))], 1, cv2.LINE_8, shift=4)
        covered = np.where(mask > 0, len(kinds), owner)
        if any((covered == n).sum() < MIN_VISIBLE * area for n, area in enumerate(whole)):
            continue  # it would hide another one
        image, owner = np.where(mask[..., None] > 0, fill(rng, NAMES[kind], size), image), covered
        kinds.append(kind)
        whole.append(int(mask.sum()))
    objects = []
    for number, kind in enumerate(kinds):
        ys, xs = np.nonzero(owner == number)
        objects.append((kind, np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]), len(xs)))
    return image, objects


def write_split(folder: Path, split: str, count: int, size: int, seed: int) -> None:
    """Images and `_annotations.coco.json` of one split."""
    folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number in range(count):
        rng = np.random.default_rng([seed, *split.encode(), number])
        picture, objects = draw(rng, size)
        name = f"{split}_{number:04d}.jpg"
        cv2.imwrite(str(folder / name), picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
        images.append({"id": number + 1, "file_name": name, "width": size, "height": size})
        for kind, (x1, y1, x2, y2), area in objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 1,
                    "category_id": kind + 1,
                    "iscrowd": 0,
                    "bbox": [int(x1), int(y1), int(x2 - x1), int(y2 - y1)],
                    "area": int(area),
                }
            )
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(NAMES)]
    text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
    (folder / "_annotations.coco.json").write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    for split, count in (("train", 400), ("valid", 60), ("test", 100)):
        parser.add_argument(f"--{split}", type=int, default=count, help=f"images (default {count})")
    parser.add_argument("--size", type=int, default=128, help="height and width in pixels (default 128)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for split in ("train", "valid", "test"):
        write_split(arguments.out / split, split, getattr(arguments, split), arguments.size, arguments.seed)
    print(f"drew {arguments.train} + {arguments.valid} + {arguments.test} images in {arguments.out}")


if __name__ == "__main__":
    main()
