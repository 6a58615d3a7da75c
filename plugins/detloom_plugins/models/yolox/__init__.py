"""YOLOX (Ge et al. 2021, arXiv 2107.08430): six anchor-free detectors from 0.9 to 99 million parameters, and the same
with masks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from detloom.hookspecs import hookimpl
from detloom.specs import ModelContext, ModelSpec, WeightsFile
from detloom_plugins.models._coco_names import COCO_NAMES

if TYPE_CHECKING:
    from .detector import YoloxDetector
    from .segment import YoloxSegDetector
    from .settings import YoloxSegSettings, YoloxSettings

detloom_api = (0, 1)

RELEASE = "https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0"


@dataclass(frozen=True, slots=True)
class Variant:
    """depth, width: factors of the block counts and of the channels; depthwise: separable 3x3 convolutions;
    resolution: pixels that the published weights were trained at; lr: peak learning rate for fine-tuning."""

    name: str
    depth: float
    width: float
    parameters: str
    lr: float
    depthwise: bool = False
    resolution: int = 640


VARIANTS = (
    Variant("nano", 0.33, 0.25, "0.9 M", lr=2e-3, depthwise=True, resolution=416),
    Variant("tiny", 0.33, 0.375, "5.1 M", lr=2e-3, resolution=416),
    Variant("s", 0.33, 0.5, "9.0 M", lr=5e-4),
    Variant("m", 0.67, 0.75, "25.3 M", lr=3e-4),
    Variant("l", 1.0, 1.0, "54.2 M", lr=2e-4),
    Variant("x", 1.33, 1.25, "99.1 M", lr=2e-4),
)


def family_settings() -> YoloxSettings:
    from .settings import YoloxSettings

    return YoloxSettings()


def seg_settings() -> YoloxSegSettings:
    from .settings import YoloxSegSettings

    return YoloxSegSettings()


def build_seg(variant: Variant, chosen: YoloxSegSettings, context: ModelContext) -> YoloxSegDetector:
    from .segment import YoloxSegDetector

    return YoloxSegDetector(variant, chosen, context)


def build(variant: Variant, chosen: YoloxSettings, context: ModelContext) -> YoloxDetector:
    from .detector import YoloxDetector

    return YoloxDetector(variant, chosen, context)


def _recipe(variant: Variant) -> dict[str, object]:
    """For fine-tuning from COCO weights; the original trains from scratch with SGD for 300 epochs."""
    return {
        "training.resolution": variant.resolution,
        "training.batch_size": 8,
        "training.optimizer": "adamw",
        "training.lr": variant.lr,
        "training.weight_decay": 5e-4,
        "training.scheduler": "cosine",
        "training.warmup_epochs": 1.0,
        "training.min_lr_frac": 0.05,
        "training.use_ema": True,
        "training.ema_decay": 0.9998,
        "augmentation.transforms": ("hflip", "affine", "hsv"),
        "augmentation.affine.scale_min": 0.6,
        "augmentation.affine.scale_max": 1.4,
        "augmentation.hsv.h": 0.01,
        "augmentation.hsv.s": 0.4,
        "augmentation.hsv.v": 0.25,
        "validation.confidence_threshold": 0.01,
        "validation.nms_threshold": 0.65,
    }


def _weights(variant: Variant) -> WeightsFile:
    # The publisher gives no checksums. A download is read whole before it is kept, and its hash is recorded beside
    # it, so that later damage is seen.
    return WeightsFile(
        name=f"yolox_{variant.name}.pth",
        url=f"{RELEASE}/yolox_{variant.name}.pth",
        licence="Apache-2.0",
        class_names=COCO_NAMES,
    )


@hookimpl
def detloom_models() -> Iterable[ModelSpec]:
    return [
        ModelSpec(
            name=f"yolox-{variant.name}",
            summary=f"YOLOX-{variant.name}, {variant.parameters} parameters, {variant.resolution} px",
            family="yolox",
            licence="Apache-2.0",
            settings=family_settings,
            build=partial(build, variant),
            recipe=_recipe(variant),
            weights=(_weights(variant),),
            loss_roles={"classification": "bce", "box": "iou"},
            size_divisor=32,
        )
        for variant in VARIANTS
    ] + [_with_masks(variant) for variant in VARIANTS]


def _with_masks(variant: Variant) -> ModelSpec:
    """The published weights are those of the boxes: body and box head are loaded, the mask head begins anew."""
    return ModelSpec(
        name=f"yolox-seg-{variant.name}",
        summary=f"YOLOX-{variant.name} with masks, {variant.resolution} px",
        family="yolox",
        licence="Apache-2.0",
        settings=seg_settings,
        build=partial(build_seg, variant),
        recipe={**_recipe(variant), "validation.save_best_metric": "segm_AP"},
        weights=(_weights(variant),),
        loss_roles={"classification": "bce", "box": "iou"},
        size_divisor=32,
        masks=True,
    )
