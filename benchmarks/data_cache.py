"""Batches a second with and without a cache of decoded images: the ratio, measured in turns in one process.

python benchmarks/data_cache.py       on made pictures, and on BCCD where DETLOOM_TEST_DATA is set
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from common import record

from detloom.data.caching import CacheKind, build_stores
from detloom.data.dataset import ImageInfo, Split
from detloom.data.images import read_image
from detloom.data.loader import TrainLoader
from detloom.geometry import InputRule

IMAGES, BATCH, ROUNDS = 96, 8, 5
KINDS: tuple[CacheKind, ...] = ("none", "ram", "disk")


def split_of(paths: list[Path]) -> Split:
    infos = []
    for number, path in enumerate(paths):
        height, width = read_image(path).shape[:2]
        infos.append(ImageInfo(number, path.name, path, width, height))
    empty = np.zeros(0, dtype=np.int64)
    none = np.zeros(0, dtype=np.float64)
    return Split(
        "train", tuple(infos), none.reshape(0, 4), empty, empty.astype(bool), none, empty, (), (),
        np.zeros(len(infos) + 1, dtype=np.int64),
    )  # fmt: skip


def made_pictures(folder: Path) -> list[Path]:
    """JPEG files of 1280x960, as smooth and as noisy as photographs."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(IMAGES):
        coarse = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        noise = rng.integers(0, 24, (960, 1280, 3), dtype=np.uint8)
        picture = cv2.resize(coarse, (1280, 960), interpolation=cv2.INTER_CUBIC) // 8 * 7 + noise
        paths.append(folder / f"{number}.jpg")
        cv2.imwrite(str(paths[-1]), picture)
    return paths


def measured(split: Split, size: int) -> dict[CacheKind, list[float]]:
    """Seconds of an epoch, in turns."""
    rule = InputRule(size=(size, size))
    loaders: dict[CacheKind, TrainLoader] = {
        kind: TrainLoader(split, rule, [], batch_size=BATCH, num_workers=0, pixels=build_stores([split], rule, kind)[0])
        for kind in KINDS
    }
    times: dict[CacheKind, list[float]] = {kind: [] for kind in KINDS}
    for epoch in range(ROUNDS):
        for kind, loader in loaders.items():
            started = time.perf_counter()
            for _ in loader.epoch(epoch):
                pass
            times[kind].append(time.perf_counter() - started)
    return times


def main() -> None:
    cv2.setNumThreads(1)
    lines = [
        f"{IMAGES} pictures, batches of {BATCH}, no augmentation, no workers; median of {ROUNDS} epochs in turns. "
        "Ratios: epochs without a cache over epochs with one, of the same round.",
        "",
        "| pictures | input | none, ms an image | ram, ms an image | disk, ms an image | ram, x | disk, x |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DETLOOM_CACHE"] = f"{folder}/cache"
        material = {"made, 1280x960": made_pictures(Path(folder))}
        if named := os.environ.get("DETLOOM_TEST_DATA"):
            material["BCCD, 640x480"] = sorted((Path(named) / "bccd" / "JPEGImages").glob("*.jpg"))[:IMAGES]
        for label, paths in material.items():
            split = split_of(paths)
            lines += [f"| {label} | {size} | {row(measured(split, size))} |" for size in (320, 640)]
    record("data_cache", lines)


def row(times: dict[CacheKind, list[float]]) -> str:
    ms = [statistics.median(times[kind]) / IMAGES * 1e3 for kind in KINDS]
    ratios = [
        statistics.median(a / b for a, b in zip(times["none"], times[kind], strict=True)) for kind in ("ram", "disk")
    ]
    return " | ".join([*(f"{value:.2f}" for value in ms), *(f"{value:.1f}" for value in ratios)])


if __name__ == "__main__":
    main()
