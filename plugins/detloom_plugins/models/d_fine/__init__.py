"""D-FINE (Peng et al. 2024, arXiv 2410.13842): boxes as distributions, refined layer by layer; from 3.8 to 63 million
parameters."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from detloom.hookspecs import hookimpl
from detloom.specs import ModelContext, ModelSpec, WeightsFile
from detloom_plugins.models._coco_names import COCO_NAMES

from .variants import VARIANTS, Variant

if TYPE_CHECKING:
    from .detector import DFineDetector
    from .settings import DFineSettings

detloom_api = (0, 1)

HUB = "https://huggingface.co/ustc-community"


def family_settings() -> DFineSettings:
    from .settings import DFineSettings

    return DFineSettings()


def build(variant: Variant, chosen: DFineSettings, context: ModelContext) -> DFineDetector:
    from .detector import DFineDetector

    return DFineDetector(variant, chosen, context)


def recipe(variant: Variant) -> dict[str, object]:
    """For fine-tuning from COCO weights: rates, decay, clip and averages of the original's configuration files, which
    train 72 to 160 epochs of COCO in batches of 32.

    n is the exception: its 8e-4 belongs to batches of 128; for 32 it is divided by the square root of 4. 16 bits mean
    bf16: the family overflows in fp16.
    """
    return {
        "training.resolution": 640,
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
        "training.ema_decay": variant.ema_decay,
        "augmentation.transforms": ("hflip", "affine", "hsv"),
        "augmentation.affine.scale_min": 0.6,
        "augmentation.affine.scale_max": 1.4,
        "augmentation.hsv.h": 0.01,
        "augmentation.hsv.s": 0.4,
        "augmentation.hsv.v": 0.25,
        "loss.classification_weight": 1.0,
        "loss.box_weight": 2.0,
        "loss.distribution_weight": 0.15,
        "validation.confidence_threshold": 0.01,
        "validation.max_detections": 300,
    }


def _weights(variant: Variant) -> tuple[WeightsFile, ...]:
    # The hub gives no checksum in a stable place: the file is read whole before it is kept, and its hash recorded.
    return tuple(
        WeightsFile(
            name=f"{repository}.safetensors",
            url=f"{HUB}/{repository}/resolve/main/model.safetensors",
            licence="Apache-2.0",
            class_names=COCO_NAMES,
        )
        for repository in variant.weights
    )


@hookimpl
def detloom_models() -> Iterable[ModelSpec]:
    return [
        ModelSpec(
            name=f"d_fine-{variant.name}",
            summary=f"D-FINE-{variant.name}, {variant.parameters} parameters, 640 px",
            family="d_fine",
            licence="Apache-2.0",
            settings=family_settings,
            build=partial(build, variant),
            recipe=recipe(variant),
            weights=_weights(variant),
            loss_roles={"classification": "varifocal", "box": "giou", "distribution": "dfl"},
            size_divisor=32,
            fp16=False,
        )
        for variant in VARIANTS
    ]
