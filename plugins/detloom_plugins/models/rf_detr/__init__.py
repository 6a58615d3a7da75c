"""RF-DETR (Robinson et al. 2025, arXiv 2511.09554): DINOv2 with windows and a light decoder, for boxes and masks."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from detloom.hookspecs import hookimpl
from detloom.specs import ModelContext, ModelSpec, WeightsFile

from .coco_rows import COCO_ROWS
from .variants import VARIANTS, Variant, refusal

if TYPE_CHECKING:
    from .detector import RfDetrDetector, RfDetrSegmenter
    from .settings import RfDetrSettings

detloom_api = (0, 1)

HUB = "https://huggingface.co/Roboflow"
ORIGINALS = "https://storage.googleapis.com/rfdetr"
ORIGINAL_FILES = {
    "nano": ("rf-detr-nano.pth", "nano_coco/checkpoint_best_regular.pth"),
    "small": ("rf-detr-small.pth", "small_coco/checkpoint_best_regular.pth"),
    "medium": ("rf-detr-medium.pth", "medium_coco/checkpoint_best_regular.pth"),
    "base": ("rf-detr-base.pth", "rf-detr-base-coco.pth"),
    "large": ("rf-detr-large-2026.pth", "rf-detr-large-2026.pth"),
    "seg-nano": ("rf-detr-seg-nano.pt", "rf-detr-seg-n-ft.pth"),
    "seg-small": ("rf-detr-seg-small.pt", "rf-detr-seg-s-ft.pth"),
    "seg-medium": ("rf-detr-seg-medium.pt", "rf-detr-seg-m-ft.pth"),
    "seg-large": ("rf-detr-seg-large.pt", "rf-detr-seg-l-ft.pth"),
    "seg-preview": ("rf-detr-seg-preview.pt", "rf-detr-seg-preview.pt"),
}
"""Of the original package: what it calls the file, and its place below ORIGINALS."""


def family_settings(variant: Variant) -> RfDetrSettings:
    from .settings import RfDetrSegSettings, RfDetrSettings

    kind = RfDetrSegSettings if variant.masks else RfDetrSettings
    return kind(num_queries=variant.queries)


def build(variant: Variant, chosen: RfDetrSettings, context: ModelContext) -> RfDetrDetector:
    from .settings import RfDetrSegSettings

    boxes, masks = _kinds(chosen.backend)
    if not variant.masks:
        return boxes(variant, chosen, context)
    assert isinstance(chosen, RfDetrSegSettings)
    return masks(variant, chosen, context)


def _kinds(backend: str) -> tuple[type[RfDetrDetector], type[RfDetrSegmenter]]:
    if backend == "rfdetr":
        from .native import NativeDetector, NativeSegmenter

        return NativeDetector, NativeSegmenter
    from .detector import RfDetrDetector, RfDetrSegmenter

    return RfDetrDetector, RfDetrSegmenter


def _recipe(variant: Variant) -> dict[str, object]:
    """For fine-tuning from COCO weights, as the original does it, with a cosine instead of its constant rate."""
    return {
        "training.resolution": variant.resolution,
        "training.batch_size": 4,
        "training.gradient_accumulation": 4,
        "training.optimizer": "adamw",
        "training.lr": 1e-4,
        "training.weight_decay": 1e-4,
        "training.use_llrd": True,
        "training.llrd_decay": 0.8,
        "training.head_lr_multiplier": 1.0,
        "training.scheduler": "cosine",
        "training.warmup_epochs": 1.0,
        "training.min_lr_frac": 0.05,
        "training.gradient_clip": 0.1,
        "training.use_ema": True,
        "training.ema_decay": 0.993,
        "training.ema_warmup_steps": 100.0,
        "augmentation.transforms": ("hflip", "affine"),
        "augmentation.affine.scale_min": 0.7,
        "augmentation.affine.scale_max": 1.3,
        "loss.classification_weight": 5.0 if variant.masks else 1.0,
        "loss.box_weight": 2.0,
        "validation.confidence_threshold": 0.01,
        "validation.max_detections": variant.queries,
        "validation.save_best_metric": "segm_AP" if variant.masks else "AP",
    }


def _weights(variant: Variant) -> tuple[WeightsFile, ...]:
    """The library's file first; the original's has the same values under other names."""
    # The hub gives no checksum in a stable place: the file is read whole before it is kept, and its hash recorded.
    name, place = ORIGINAL_FILES[variant.name]
    hub = f"rf-detr-{variant.name}"
    return (
        WeightsFile(f"{hub}.safetensors", f"{HUB}/{hub}/resolve/main/model.safetensors", "Apache-2.0", COCO_ROWS),
        WeightsFile(name, f"{ORIGINALS}/{place}", "Apache-2.0", COCO_ROWS),
    )


def _summary(variant: Variant) -> str:
    what = ", boxes and masks" if variant.masks else ""
    return f"RF-DETR {variant.name}{what}, {variant.parameters} parameters, {variant.resolution} px"


@hookimpl
def detloom_models() -> Iterable[ModelSpec]:
    return [
        ModelSpec(
            name=variant.full_name,
            summary=_summary(variant),
            family="rf_detr",
            licence="Apache-2.0",
            settings=partial(family_settings, variant),
            build=partial(build, variant),
            recipe=_recipe(variant),
            weights=_weights(variant),
            loss_roles={"classification": "ia_bce", "box": "giou"},
            size_divisor=variant.divisor,
            rounds_resolution=True,
            masks=variant.masks,
            aliases=variant.aliases,
            refused=refusal,
        )
        for variant in VARIANTS
    ]
