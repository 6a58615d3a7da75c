"""CPU time to read a JPEG into RGB: our reader against Pillow and OpenCV, interleaved, one thread.

python benchmarks/image_reading.py [FOLDER]      default: bccd/JPEGImages below DETLOOM_TEST_DATA
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from common import data_folder, record
from PIL import Image

from detloom.data.images import read_image


def with_pillow(path: Path) -> Any:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def with_opencv(path: Path) -> Any:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


READERS: dict[str, Callable[[Path], Any]] = {"detloom": read_image, "Pillow": with_pillow, "OpenCV": with_opencv}


def main() -> None:
    cv2.setNumThreads(1)
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else data_folder() / "bccd" / "JPEGImages"
    paths = sorted(folder.glob("*.jpg"))[:120]
    rounds: dict[str, list[float]] = {name: [] for name in READERS}
    for _ in range(7):
        for name, reader in READERS.items():
            started = time.process_time()
            for path in paths:
                reader(path)
            rounds[name].append((time.process_time() - started) / len(paths) * 1e3)
    ours = rounds["detloom"]
    lines = [
        f"{len(paths)} JPEG files of {folder.parent.name}, median of {len(ours)} rounds",
        "",
        "| reader | ms | x |",
        "|---|---|---|",
    ]
    for name, times in rounds.items():
        ratio = statistics.median(t / o for t, o in zip(times, ours, strict=True))
        lines.append(f"| {name} | {statistics.median(times):.2f} | {ratio:.2f} |")
    record("image_reading", lines)


if __name__ == "__main__":
    main()
