"""What the data check costs: 10,000 images with 50,000 boxes, first and again when the images are known already.

    python benchmarks/data_check.py [--images 10000] [--boxes 5]

Pictures are small JPEGs, so that the check is measured rather than the decoder. Every run is a process of its own:
seconds of the check alone, CPU seconds, and by how much the memory of the process grew over it (at its peak, and
what is still held afterwards).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import ROOT, record
from PIL import Image

WIDTH, HEIGHT = 160, 120
LIMIT_S, LIMIT_MB = 10.0, 60.0

MEASURE = """
import json, resource, sys, time
import gc
sys.path[:0] = [f"{sys.argv[1]}/{name}" for name in ("core", "plugins", "integrations", "schemas")]
import torch, cv2
from detloom.config import mapping_layer, resolve
from detloom.data.load import check
from detloom.host import discover
import detloom.data.images, detloom.data.masks, detloom.data.similar
def held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6
def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024 / 1e6
host = discover()
extra = json.loads(sys.argv[3])
def configured(folder):
    return resolve(host, [mapping_layer({"data.local.path": folder, "export.format": [], **extra})])
check(configured(sys.argv[4]), host)  # what is loaded for any data at all does not grow with them
config = configured(sys.argv[2])
gc.collect()
before = held()
start, cpu = time.perf_counter(), time.process_time()
report = check(config, host)
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
highest = peak() - before
gc.collect()
left = held() - before
print(json.dumps({"seconds": seconds, "cpu": cpu, "peak": highest, "held": left, "images": report.images,
                  "objects": report.objects, "codes": sorted(f.code for f in report.findings)}))
"""


def make(folder: Path, images: int, boxes: int) -> None:
    """Four fifths for training; every picture differs from every other."""
    rng = np.random.default_rng(0)
    for split, count in (("train", images * 4 // 5), ("valid", images - images * 4 // 5)):
        place = folder / split
        place.mkdir(parents=True)
        entries, annotations = [], []
        for number in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
            coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(place / f"{number:06d}.jpg", quality=80)
            entries.append({"id": number, "file_name": f"{number:06d}.jpg", "width": WIDTH, "height": HEIGHT})
            for _ in range(boxes):
                x, y = rng.integers(0, WIDTH - 60), rng.integers(0, HEIGHT - 60)
                w, h = rng.integers(8, 60, 2)
                row = {"id": len(annotations), "image_id": number, "category_id": int(rng.integers(1, 11))}
                row |= {"bbox": [int(x), int(y), int(w), int(h)], "area": int(w * h), "iscrowd": 0}
                annotations.append(row)
        classes = [{"id": number, "name": f"class {number}"} for number in range(1, 11)]
        content = {"images": entries, "annotations": annotations, "categories": classes}
        (place / "_annotations.coco.json").write_text(json.dumps(content))


def measure(folder: Path, few: Path, cache: Path, **settings: object) -> dict[str, object]:
    values = json.dumps({f"data.{key}": value for key, value in settings.items()})
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(ROOT), str(folder), values, str(few)],
        env={**os.environ, "DETLOOM_CACHE": str(cache)},
        capture_output=True,
        text=True,
        check=True,
    )
    result: dict[str, object] = json.loads(done.stdout)
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--boxes", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, few, cache = (Path(place) / name for name in ("data", "few", "cache"))
        make(folder, args.images, args.boxes)
        make(few, 10, args.boxes)
        rows = [
            ("first time", measure(folder, few, cache)),
            ("images known", measure(folder, few, cache)),
            ("images known, without near duplicates", measure(folder, few, cache, near_duplicates=False)),
        ]
    known = rows[1][1]
    assert known["images"] == args.images and known["codes"] == [], known
    lines = [
        f"{args.images:,} images, {known['objects']:,} boxes, COCO",
        "",
        "| run | seconds | CPU seconds | memory, peak MB | memory, held MB |",
        "|---|---|---|---|---|",
        *(f"| {name} | {r['seconds']:.1f} | {r['cpu']:.1f} | {r['peak']:.0f} | {r['held']:.0f} |" for name, r in rows),
        "",
        f"Required with images known: under {LIMIT_S:.0f} s, and memory that grows by less than {LIMIT_MB:.0f} MB.",
    ]
    record("data_check", lines)


if __name__ == "__main__":
    main()
