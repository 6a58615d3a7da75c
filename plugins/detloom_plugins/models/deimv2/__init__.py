"""DEIMv2 (Huang et al. 2025, arXiv 2509.20787): D-FINE's distributions over light convolutions or over a transformer
taught by DINOv3; eight sizes from 0.5 to 51 million parameters."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from detloom.hookspecs import hookimpl
from detloom.specs import ModelContext, ModelSpec, WeightsFile
from detloom_plugins.models._coco_names import COCO_NAMES

from .variants import VARIANTS, Variant, VisionTransformer

if TYPE_CHECKING:
    from .detector import Deimv2Detector
    from .settings import Deimv2Settings

detloom_api = (0, 1)

HUB = "https://huggingface.co/Intellindust"
FROM_DINOV3 = "Apache-2.0; the backbone comes from DINOv3 weights, whose DINOv3 License also binds"


def family_settings() -> Deimv2Settings:
    from .settings import Deimv2Settings

    return Deimv2Settings()


def build(variant: Variant, chosen: Deimv2Settings, context: ModelContext) -> Deimv2Detector:
    from .detector import Deimv2Detector

    return Deimv2Detector(variant, chosen, context)


def recipe(variant: Variant) -> dict[str, object]:
    """For fine-tuning from COCO weights: rates, decay, clip, queries and losses of the original's configuration files.

    They train s to x in batches of 32, and the smaller ones in batches of 128, whose rates are divided here by the
    square root of 4. The lite sizes learn no distributions and every layer from its own pairs. 16 bits mean bf16: the
    family overflows in fp16. The original's dense one-to-one training (mosaic, mixup and pasted objects) is a matter
    of `augmentation.transforms`.
    """
    return {
        "model.deimv2.num_queries": variant.queries,
        "model.deimv2.late_matching": variant.late_matching,
        "model.deimv2.matching_union": not variant.lite,
        "model.deimv2.distillation_weight": 0.0 if variant.lite else 1.5,
        "training.resolution": variant.resolution,
        "training.batch_size": 32,
        "training.optimizer": "adamw",
        "training.lr": variant.lr,
        "training.backbone_lr_multiplier": variant.backbone_lr / variant.lr,
        "training.weight_decay": variant.weight_decay,
        "training.scheduler": "cosine",
        "training.warmup_epochs": 1.0,
        "training.min_lr_frac": 0.05,
        "training.gradient_clip": 0.1,
        "training.use_ema": True,
        "training.ema_decay": 0.9999,
        "augmentation.transforms": ("hflip", "affine", "hsv"),
        "augmentation.affine.scale_min": 0.6,
        "augmentation.affine.scale_max": 1.4,
        "augmentation.hsv.h": 0.01,
        "augmentation.hsv.s": 0.4,
        "augmentation.hsv.v": 0.25,
        "loss.classification_weight": 1.0,
        "loss.box_weight": 2.0,
        "loss.distribution_weight": 0.0 if variant.lite else 0.15,
        "validation.confidence_threshold": 0.01,
        "validation.max_detections": variant.queries,
    }


def _weights(variant: Variant) -> WeightsFile:
    # The hub gives no checksum in a stable place: the file is read whole before it is kept, and its hash recorded.
    return WeightsFile(
        name=f"{variant.weights}.safetensors",
        url=f"{HUB}/{variant.weights}/resolve/main/model.safetensors",
        licence=FROM_DINOV3 if isinstance(variant.backbone, VisionTransformer) else "Apache-2.0",
        class_names=COCO_NAMES,
    )


@hookimpl
def detloom_models() -> Iterable[ModelSpec]:
    return [
        ModelSpec(
            name=f"deimv2-{variant.name}",
            summary=f"DEIMv2-{variant.name}, {variant.parameters} parameters, {variant.resolution} px",
            family="deimv2",
            licence="Apache-2.0",
            settings=family_settings,
            build=partial(build, variant),
            recipe=recipe(variant),
            weights=(_weights(variant),),
            loss_roles={"classification": "mal", "box": "giou", "distribution": "dfl"},
            size_divisor=32,
            fp16=False,
        )
        for variant in VARIANTS
    ]
