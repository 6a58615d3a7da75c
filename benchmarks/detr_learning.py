"""Does the smallest size of each DETR family learn from scratch? One drawn batch of two pictures, random weights.

After the steps the best predictions must be the objects, class and box (IoU above 0.9): with the weights, with their
average, with a reloaded checkpoint; and the ONNX file must give the same boxes and scores. A falling loss alone would
prove nothing: it also falls when only the sizes of boxes are learned.

    python benchmarks/detr_learning.py [--models rt_detr-r18 ...] [--steps 150]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import record

from detloom.boxes import pairwise_iou
from detloom.detector import Detector
from detloom.specs import ModelSpec
from detloom.train.seeding import seed_torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from detr_tools import HOST, Family, Learned, build, check_learned, overfit, predict

MODELS: dict[str, dict[str, Any]] = {
    "rt_detr-r18": {"num_queries": 60, "num_denoising": 10},
    "rt_detr_v2-r18": {"num_queries": 60, "num_denoising": 10},
    "d_fine-n": {"num_queries": 60, "num_denoising": 10},
    "deimv2-atto": {"num_queries": 60, "num_denoising": 10},
    "rf_detr-nano": {"num_queries": 60, "group_detr": 3},
}
SIZE = (192, 192)
STEPS = {"deimv2-atto": 300, "rf_detr-nano": 200}
"""Where 150 are too few."""
LR, SMALL_LR = 5e-4, 1.5e-3
"""Peak learning rate; half a million weights take, and need, larger steps."""


def quality(learned: Learned) -> tuple[float, float]:
    """Smallest overlap and lowest score of what was found."""
    overlaps, scores = [], []
    for image, found in enumerate(predict(learned.detector, learned.images)):
        truth = learned.targets.boxes[image][learned.targets.valid[image]]
        overlaps.append(float(pairwise_iou(truth, torch.from_numpy(found.boxes[: len(truth)])).amax(1).min()))
        scores.append(float(found.scores[: len(truth)].min()))
    return min(overlaps), min(scores)


def learn(name: str, settings: dict[str, Any], steps: int) -> str:
    lr = SMALL_LR if name.endswith("atto") else LR
    family = Family(name, HOST.get(ModelSpec, name).build, settings, SIZE)
    seed_torch(0)
    detector: Detector = build(family)
    started, before = time.perf_counter(), time.process_time()
    learned = overfit(detector, steps=steps, lr=lr, clip=0.5)
    seconds, cpu = time.perf_counter() - started, time.process_time() - before
    overlap, score = quality(learned)
    print(f"{name}: loss {learned.losses[-1]:.1f}, smallest IoU {overlap:.3f}, lowest score {score:.2f}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        check_learned(learned, lambda: build(family), Path(folder))
    return (
        f"{name}: {steps} steps, loss {learned.losses[0]:.1f} to {learned.losses[-1]:.1f}, all 5 objects found "
        f"(smallest IoU {overlap:.3f}, lowest score {score:.2f}), also by the average, the reloaded file and ONNX; "
        f"{seconds:.0f} s ({cpu:.0f} s of CPU)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--steps", type=int, help="of every model; else 150, or more for those that need them")
    options = parser.parse_args()
    lines = []
    for name in options.models:
        lines.append(learn(name, MODELS[name], options.steps or STEPS.get(name, 150)))
        print(lines[-1], flush=True)
    record("detr_learning", lines)


if __name__ == "__main__":
    main()
