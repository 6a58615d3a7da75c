"""Evaluation of 5000 images, 500,000 detections and 80 classes: CPU time of hotcoco against pycocotools.

    python benchmarks/coco_eval.py

Both start from the same detections in memory and end with the same Evaluation. They take turns, so that a busy
machine slows down both; CPU time is compared, the median of the rounds. Goal: at least 50 times less CPU than
pycocotools, and the same 12 numbers.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import numpy as np
from common import record

from detloom.data.dataset import ClassMap, ImageInfo, Split
from detloom.evaluate import METRICS, Evaluation, evaluate_detections, referee
from detloom.geometry import Detections

GOAL = 50


def make_case(images: int, per_image: int, classes: int) -> tuple[Split, ClassMap, list[Detections]]:
    """About 7 objects an image of all COCO sizes, 1 % crowds; a third of the detections lie near an object."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(7, images)
    total = int(counts.sum())
    sides = np.exp(rng.uniform(np.log(8), np.log(400), (total, 2)))
    corners = rng.uniform(0, 1, (total, 2)) * (np.array([640, 480]) - np.minimum(sides, 470))
    boxes = np.concatenate([corners, np.minimum(corners + sides, [640, 480])], axis=1)
    labels = rng.integers(0, classes, total)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    split = Split(
        name="val",
        images=tuple(ImageInfo(i + 1, f"{i}.jpg", Path(f"{i}.jpg"), 640, 480) for i in range(images)),
        boxes=boxes,
        labels=labels,
        crowd=rng.random(total) < 0.01,
        area=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) * rng.uniform(0.5, 1, total),
        image_index=np.repeat(np.arange(images), counts),
        object_ids=tuple(range(1, total + 1)),
        rles=(None,) * total,
        starts=starts,
    )
    found = [_detections(rng, boxes[a:b], labels[a:b], per_image, classes) for a, b in pairwise(starts.tolist())]
    names = tuple(f"class {i}" for i in range(classes))
    return split, ClassMap(tuple(range(1, classes + 1)), names), found


def _detections(
    rng: np.random.Generator, boxes: np.ndarray, labels: np.ndarray, count: int, classes: int
) -> Detections:
    near = count // 3 if len(boxes) else 0
    picked = rng.integers(0, max(len(boxes), 1), near)
    sides = np.tile(boxes[picked, 2:] - boxes[picked, :2], 2) if near else np.zeros((0, 4))
    close = (boxes[picked] if near else np.zeros((0, 4))) + rng.normal(0, 0.1, (near, 4)) * sides
    corners = rng.uniform(0, 500, (count - near, 2))
    stray = np.concatenate([corners, corners + rng.uniform(5, 200, (count - near, 2))], axis=1)
    everything = np.concatenate([close, stray])
    everything[:, 2:] = np.maximum(everything[:, 2:], everything[:, :2] + 1)
    chosen = np.concatenate([labels[picked] if near else [], rng.integers(0, classes, count - near)])
    scores = np.concatenate([rng.beta(4, 3, near), rng.beta(1, 5, count - near)]).round(3)
    order = np.argsort(-scores, kind="stable")
    return Detections(
        everything[order].astype(np.float32), scores[order].astype(np.float32), chosen[order].astype(np.int64)
    )


def cpu_time(run: Callable[[], Evaluation]) -> tuple[float, Evaluation]:
    started = time.process_time()
    result = run()
    return time.process_time() - started, result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--per-image", type=int, default=100)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    case = make_case(args.images, args.per_image, args.classes)
    small = make_case(20, 20, 5)
    evaluate_detections(*small), referee(*small)  # imports are not measured
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(args.rounds):
        seconds, mine = cpu_time(lambda: evaluate_detections(*case))
        ours.append(seconds)
        seconds, other = cpu_time(lambda: referee(*case))
        theirs.append(seconds)
    worst = max(abs(mine.metrics[name] - other.metrics[name]) for name in METRICS)
    ratio = statistics.median(theirs) / statistics.median(ours)
    lines = [
        f"{args.images} images, {sum(map(len, case[2]))} detections, {len(case[0].labels)} objects, {args.classes} "
        f"classes; hotcoco {version('hotcoco')}, pycocotools {version('pycocotools')}; CPU seconds of {args.rounds} "
        "rounds taken in turn. Both times hold everything from detections in memory to the finished Evaluation: the "
        "12 numbers, AP of each class, PR curves, and the matching behind thresholds and F1, which is Detloom's own in "
        "both.",
        "",
        "| | CPU s, median | all rounds |",
        "|---|---|---|",
        f"| Detloom (hotcoco) | {statistics.median(ours):.3f} | {', '.join(f'{s:.3f}' for s in ours)} |",
        f"| pycocotools | {statistics.median(theirs):.1f} | {', '.join(f'{s:.1f}' for s in theirs)} |",
        "",
        f"**{ratio:.0f} times less CPU** (goal: at least {GOAL}). Largest difference in the 12 numbers: {worst:.1e}.",
        "",
        "| " + " | ".join(METRICS) + " |",
        "|" + "---|" * len(METRICS),
        "| " + " | ".join(f"{mine.metrics[name]:.6f}" for name in METRICS) + " |",
    ]
    record("coco_eval", lines)
    return 0 if ratio >= GOAL and worst < 1e-12 else 1


if __name__ == "__main__":
    raise SystemExit(main())
