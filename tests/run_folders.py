"""Folders as runs leave them, written without running anything."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from detloom.drawing import draw_objects, save_jpeg, side_by_side

CLASSES = ("cell", "Größe <b>&\"'", "<script>alert(1)</script>")
METRICS = {
    "AP": 0.561,
    "AP50": 0.867,
    "AP75": 0.623,
    "APm": 0.541,
    "APl": 0.648,
    "AR1": 0.312,
    "AR10": 0.598,
    "AR100": 0.671,
    "ARm": 0.642,
    "ARl": 0.731,
}


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def split_numbers(images: int, shift: float = 0.0) -> dict[str, Any]:
    recalls = np.linspace(0, 1, 101)
    per_class = []
    for index, name in enumerate(CLASSES):
        ap = 0.7 - 0.2 * index + shift
        curve = np.clip(1 - recalls ** (6 - 2 * index) + shift, 0, 1).tolist()
        per_class.append(
            {
                "index": index,
                "id": 10 + index,
                "name": name,
                "AP": ap,
                "AP50": ap + 0.2,
                "truths": 300 >> index,
                "detections": 400 >> index,
                "threshold": 0.4,
                "precision": 0.9,
                "recall": 0.8,
                "f1": 0.85,
                "curve": curve,
            }
        )
    per_class.append({"index": 3, "id": 13, "name": "never seen", "AP": None, "AP50": None})
    return {
        "metrics": {name: value + shift for name, value in METRICS.items()},
        "per_class": per_class,
        "images": images,
        "truths": 525,
        "detections": 700,
        "threshold": 0.42,
        "precision": 0.88,
        "recall": 0.83,
        "f1": 0.85,
        "confusion": [
            [0, 0, 270],
            [0, 1, 12],
            [0, 4, 18],
            [1, 0, 3],
            [1, 1, 120],
            [1, 4, 27],
            [2, 2, 1500],
            [4, 0, 40],
        ],
    }


def metrics_lines(epochs: int, steps_per_epoch: int, *, evaluated: bool = True) -> list[str]:
    rng = np.random.default_rng(0)
    lines = []
    for step in range(1, epochs * steps_per_epoch + 1):
        epoch = (step - 1) // steps_per_epoch
        share = step / (epochs * steps_per_epoch)
        numbers: dict[str, Any] = {
            "train/loss": 3 + 9 * math.exp(-9 * share) + rng.normal() * 0.2,
            "train/box": 2.0 - share,
            "train/cls": 1.0 - 0.5 * share,
            "train/obj": 0.7,
            "train/lr": 1e-3 * min(1, 20 * share) * (1 - share),
            "train/grad_norm": 20 - 10 * share,
            "train/images_per_s": 50 + rng.normal(),
            "train/data_wait": 0.04,
            "train/memory_mb": 900.0,
        }
        if step % 5 == 0:
            lines.append(json.dumps({"step": step, "epoch": epoch, "time": step, **numbers}))
        if step % steps_per_epoch == 0:
            numbers["epoch/time_s"] = 7.5
            if evaluated:
                ap = 0.6 * (1 - math.exp(-5 * share)) - 0.05 * max(share - 0.8, 0) + rng.normal() * 0.006
                numbers |= {"val/AP": ap, "val/AP50": ap + 0.27, "val/loss": 3.4 + 5 * math.exp(-8 * share)}
            lines.append(json.dumps({"step": step, "epoch": epoch, "time": step, **numbers}))
    return lines


def whole_run(folder: Path, *, epochs: int = 20, pictures: int = 4) -> Path:
    """A completed run with everything in it."""
    write(
        folder / "run.json",
        {
            "name": "yolox-nano-blood-1a2b3c4d",
            "status": "completed",
            "started": "2026-03-01T10:00:00+00:00",
            "finished": "2026-03-01T10:21:03+00:00",
            "duration_s": 1263.2,
            "seed": 0,
            "device": "cpu",
            "precision": "fp32",
            "command": "detloom train data/blood --model yolox-nano --set training.lr=1e-3",
            "versions": {"detloom": "0.1.0", "python": "3.11.9", "torch": "2.9.0"},
            "environment": {"OMP_NUM_THREADS": "2"},
            "git": {"commit": "0123abcd" * 5, "dirty": True},
            "plugins": [{"name": "models.yolox", "distribution": "detloom", "version": "0.1.0"}],
            "data": {"name": "blood", "digest": "9f" * 32},
            "classes": CLASSES,
            "model": {
                "type": "yolox-nano",
                "parameters": 912159,
                "resolution": [416, 416],
                "licence": "Apache-2.0",
                "weights": ["weights: yolox_nano_coco.pth: 636 of 642 tensors loaded", "  class rows reset: cell"],
            },
            "progress": {"epoch": epochs, "step": epochs * 30, "total_epochs": epochs, "total_steps": epochs * 30},
            "best": {"metric": "AP", "value": 0.59, "epoch": epochs - 3},
            "loggers": [{"name": "tensorboard", "flushed": 90, "dropped": 3, "error": "scalars: OSError: disk full"}],
            "warnings": ["official weights could not be had: the model starts from random weights"],
        },
    )
    (folder / "metrics.jsonl").write_text("\n".join(metrics_lines(epochs, 30)) + "\n")
    (folder / "config.yaml").write_text(
        "training:\n  lr: 0.001\n  epochs: 20\n  resolution: [416, 416]\nmodel:\n  type: yolox-nano\n"
        "experiment:\n  name: null\n  tags: ['<i>tag</i>']\n"
        "origins:\n  training.lr: [command line, --set]\n  training.epochs: [file, 'my.yaml:3:3']\n"
        "  training.resolution: [recipe, yolox-nano]\n  model.type: [default]\n  experiment.name: [default]\n"
        "  experiment.tags: [command line, --tags]\n"
    )
    records = [draw_picture(folder, number, good=number % 2 == 0) for number in range(pictures)]
    write(
        folder / "evaluation.json",
        {
            "checkpoint": "checkpoints/best.pt",
            "splits": {"val": split_numbers(73, 0.02), "test": split_numbers(36)},
            "pictures": records,
        },
    )
    write(folder / "data.json", data_record())
    write(folder / "exports" / "yolox-nano.onnx.json", manifest("yolox-nano.onnx", passed=True))
    write(folder / "exports" / "yolox-nano-fp16.rejected.onnx.json", manifest("yolox-nano-fp16.onnx", passed=False))
    return folder


def draw_picture(folder: Path, number: int, *, good: bool) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    image = np.clip(rng.normal(150, 20, (240, 320, 3)), 0, 255).astype(np.uint8)
    corners = rng.integers(0, 180, (6, 2))
    boxes = np.concatenate([corners, corners + rng.integers(30, 70, (6, 2))], axis=1).astype(np.float64)
    labels = rng.integers(0, 3, 6)
    drawn = draw_objects(image, boxes, labels, ["cell"] * 6)
    save_jpeg(side_by_side(drawn, drawn), folder / "pictures" / f"val_{number}.jpg")
    return {
        "file": f"pictures/val_{number}.jpg",
        "image": f"BloodImage_{number:05}.jpg",
        "split": "val",
        "good": good,
        "hits": 6,
        "false_alarms": 0 if good else 3,
        "misses": 0 if good else 2,
        "threshold": 0.42,
    }


def data_record() -> dict[str, Any]:
    split = {
        "images": 255,
        "objects": 3400,
        "crowds": 2,
        "empty_images": 3,
        "small": 120,
        "medium": 3000,
        "large": 280,
        "objects_per_image": {str(n): max(0, 40 - abs(n - 12) * 3) for n in range(30)},
        "size_shares": [60, 900, 1800, 500, 100, 30, 8, 2, 0, 0],
        "image_sizes": {"640x480": 255},
    }
    return {
        "name": "blood",
        "digest": "9f" * 32,
        "splits": {"train": split, "val": {**split, "images": 73}, "test": {**split, "images": 36}},
        "classes": [
            {
                "id": 10 + i,
                "name": name,
                "objects": {"train": 3000 >> (2 * i), "val": 80},
                "images": {"train": 250 >> i},
            }
            for i, name in enumerate(CLASSES)
        ],
        "findings": [
            {
                "code": "degenerate-box",
                "severity": "warning",
                "message": "2 boxes without area <em>were</em> dropped",
                "where": "train.json, annotation 17",
                "remedy": "nothing to do",
                "count": 2,
            },
            {
                "code": "missing-image",
                "severity": "error",
                "message": "an image is missing",
                "where": "a.jpg",
                "count": 1,
            },
        ],
    }


def manifest(file: str, *, passed: bool) -> dict[str, Any]:
    from detloom_schemas.manifest import ExportManifest

    tensor = {"name": "images", "dtype": "uint8", "shape": ["batch", 3, 416, 416], "meaning": "RGB"}
    values = {
        "model": "yolox-nano",
        "family": "yolox",
        "licence": "Apache-2.0",
        "classes": [{"index": i, "id": 10 + i, "name": name} for i, name in enumerate(CLASSES)],
        "input": tensor,
        "outputs": [tensor],
        "input_rule": {
            "size": [416, 416],
            "resize": "letterbox",
            "pad_value": 114,
            "channels": "bgr",
            "scale": 1.0,
            "mean": [0, 0, 0],
            "std": [1, 1, 1],
        },
        "post_rule": {
            "kind": "nms",
            "score_threshold": 0.01,
            "nms_threshold": 0.65,
            "max_detections": 100,
            "candidates": 3000,
        },
        "data": {"name": "blood", "digest": "9f" * 32},
        "checkpoint": {"file": "best.pt", "sha256": "ab" * 32, "metrics": {"AP": 0.59}},
        "exporter": "onnx",
        "half": not passed,
        "versions": {"torch": "2.9.0"},
        "file": file,
        "bytes": 3_712_345,
        "sha256": "cd" * 32,
        "created": "2026-03-01T10:21:00+00:00",
        "runtime": "onnxruntime",
        "gate": {
            "passed": passed,
            "reasons": [] if passed else ["AP differs by 0.0312, more than 0.01"],
            "tolerance": 0.001,
            "split": "val",
            "images": 73,
            "checkpoint_ap": 0.5812,
            "exported_ap": 0.5812 if passed else 0.55,
            "difference": 0.0 if passed else 0.0312,
            "max_box_px": 3.1e-5,
            "max_score": None,
            "parity_limits": None,
            "batch_sizes": [1, 4],
            "parity": [],
        },
    }
    return ExportManifest.model_validate(values).model_dump(mode="json")
