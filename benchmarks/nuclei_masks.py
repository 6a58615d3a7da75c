"""Models of masks on crops of microscopy pictures: AP of boxes and masks on the test pictures.

    python benchmarks/nuclei_masks.py --steps 600
    python benchmarks/nuclei_masks.py --steps 300 --model yolox

rf_detr: a network of 2.2 million parameters stands for the family, from random weights: the whole path (crops with
masks, groups of queries, mask terms, evaluation of masks, export and its gate) in minutes on one core, not what the
published sizes reach. yolox: yolox-seg-nano from the COCO weights of yolox-nano, which hold all but the mask branch.
Needs DETLOOM_TEST_DATA.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from common import data_folder, record

SIDE = 128
LEAST_PIXELS = 12
COUNTS = {"train": 600, "val": 60, "test": 120}


def write_crops(source: Path, folder: Path) -> dict[str, int]:
    """The top left crops of every picture in turn, then the next ones, until there are COUNTS. Returns the objects."""
    import cv2
    from pycocotools import mask as coco

    objects = {}
    for split, count in COUNTS.items():
        document = json.loads((source / "coco" / f"{split}.json").read_text())
        owned: dict[int, list[Any]] = {image["id"]: [] for image in document["images"]}
        for annotation in document["annotations"]:
            owned[annotation["image_id"]].append(annotation["segmentation"])
        places = [
            (row // SIDE + column // SIDE, image["id"], image, row, column)
            for image in document["images"]
            for row in range(0, image["height"] - SIDE + 1, SIDE)
            for column in range(0, image["width"] - SIDE + 1, SIDE)
        ]
        out: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "nucleus"}]}
        (folder / split).mkdir(parents=True)
        for _, _, image, row, column in sorted(places, key=lambda place: place[:2])[:count]:
            pixels = cv2.imread(str(source / "images" / image["file_name"]))[row : row + SIDE, column : column + SIDE]
            number = len(out["images"]) + 1
            cv2.imwrite(str(folder / split / f"{number}.png"), pixels)
            out["images"].append({"id": number, "file_name": f"{number}.png", "height": SIDE, "width": SIDE})
            for rle in owned[image["id"]]:
                piece = coco.decode(rle)[row : row + SIDE, column : column + SIDE]
                if piece.sum() < LEAST_PIXELS:
                    continue
                encoded = coco.encode(piece.copy(order="F"))
                out["annotations"].append(
                    {
                        "id": len(out["annotations"]) + 1,
                        "image_id": number,
                        "category_id": 1,
                        "bbox": [float(value) for value in coco.toBbox(encoded)],
                        "area": float(piece.sum()),
                        "iscrowd": 0,
                        "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode()},
                    }
                )
        (folder / f"{split}.json").write_text(json.dumps(out))
        objects[split] = len(out["annotations"])
    return objects


def small_model() -> ModuleType:
    """A plugin with one size of the family that a processor can train."""
    from detloom.hookspecs import hookimpl
    from detloom.specs import ModelSpec
    from detloom_plugins.models import rf_detr
    from detloom_plugins.models.rf_detr.variants import Backbone, Variant

    eyes = Backbone(patch=8, windows=2, table_px=SIDE, features=(2, 4), blocks=4, heads=4, width=128)
    variant = Variant(
        "seg-crops", SIDE, eyes, 3, "2.2 M", queries=64, masks=True, width=128, ffn=256, self_heads=4, cross_heads=8
    )
    published = next(spec for spec in rf_detr.detloom_models() if spec.name == "rf_detr-seg-nano")
    spec = ModelSpec(
        name=variant.full_name,
        summary="a small RF-DETR with masks",
        family="rf_detr",
        licence="Apache-2.0",
        settings=partial(rf_detr.family_settings, variant),
        build=partial(rf_detr.build, variant),
        recipe=published.recipe,
        loss_roles=published.loss_roles,
        size_divisor=variant.divisor,
        masks=True,
    )
    module = ModuleType("crops")
    module.detloom_api = (0, 1)  # type: ignore[attr-defined]
    module.detloom_models = hookimpl(lambda: [spec])  # type: ignore[attr-defined]
    return module


def settings_of(model: str) -> dict[str, object]:
    """What the two models are trained with."""
    if model == "yolox":
        weights = data_folder() / "weights" / "yolox_nano_coco.pth"
        return {"model.type": "yolox-seg-nano", "model.pretrain_weights": str(weights), "training.ema_decay": 0.99}
    return {
        "model.type": "crops:rf_detr-seg-crops",
        "model.pretrain_weights": "none",
        "model.plugins.rf_detr.group_detr": 4,
        "training.lr": 1e-3,
        "training.use_llrd": False,
        "training.gradient_clip": 0.5,
        "training.warmup_epochs": 2.0,
        "training.ema_decay": 0.998,
    }


def train(model: str, data: Path, folder: Path, steps: int, seed: int) -> Path:
    """Returns the run's folder."""
    from detloom.config import mapping_layer, resolve
    from detloom.discovery import Candidate, first_party_candidates
    from detloom.host import PluginHost
    from detloom.run import train_run

    host = PluginHost([*first_party_candidates(), Candidate("crops", "crops", "1", "entry point", small_model)])
    values = {
        **settings_of(model),
        "data.local.path": str(data),
        **{f"data.local.{split}": f"{split}.json" for split in COUNTS},
        "data.num_workers": 0,
        "training.resolution": SIDE,
        "training.batch_size": 8,
        "training.gradient_accumulation": 1,
        "training.max_steps": steps,
        "training.seed": seed,
        "augmentation.transforms": ["hflip", "vflip"],
        "validation.interval": 4,
        "validation.save_best_metric": "segm_AP50",
        "validation.confidence_threshold": 0.001,
        "export.format": ["onnx"],
        "experiment.output_dir": str(folder),
        "experiment.name": f"nuclei-{seed}",
    }
    if code := train_run(resolve(host, [mapping_layer(values)]), host, argv=sys.argv):
        sys.exit(code)
    return folder / f"nuclei-{seed}"


def report(model: str, run: Path, steps: int, objects: dict[str, int]) -> None:
    splits = json.loads((run / "evaluation.json").read_text())["splits"]
    proof = json.loads(next((run / "exports").glob("*.onnx.json")).read_text())["gate"]
    lines = [
        f"{steps} steps of 8 crops of {SIDE} px ({COUNTS['train']} crops with {objects['train']} nuclei).",
        "",
        "| split | nuclei | box AP | box AP50 | mask AP | mask AP50 |",
        "|---|---|---|---|---|---|",
    ]
    for split in ("val", "test"):
        boxes, masks = splits[split]["metrics"], splits[split]["segm"]["metrics"]
        values = [found[name] for found in (boxes, masks) for name in ("AP", "AP50")]
        lines.append(f"| {split} | {objects[split]} | " + " | ".join(f"{value:.3f}" for value in values) + " |")
    lines += [
        "",
        f"The ONNX file against the checkpoint: boxes within {proof['max_box_px']:.2g} px, masks within "
        f"{proof['max_mask']:.2g}, AP differs by {proof['difference']:+.4f}, AP of masks by "
        f"{proof['segm_difference']:+.4f}.",
    ]
    record("nuclei_masks" if model == "rf_detr" else f"nuclei_masks_{model}", lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("rf_detr", "yolox"), default="rf_detr")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="keep the run's folder here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "nuclei"
        objects = write_crops(data_folder() / "nuclei_dsb2018", data)
        run = train(arguments.model, data, arguments.keep or Path(scratch) / "runs", arguments.steps, arguments.seed)
        report(arguments.model, run, arguments.steps, objects)


if __name__ == "__main__":
    main()
