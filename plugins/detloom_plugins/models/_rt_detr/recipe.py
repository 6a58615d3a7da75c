"""What RT-DETR and RT-DETRv2 train well with."""

from __future__ import annotations


def recipe(backbone_share: float) -> dict[str, object]:
    """For fine-tuning from COCO weights (Zhao et al. 2024, section 5.1, and the original's configuration files).

    backbone_share: learning rate of the backbone relative to the rest.

    The originals train 72 epochs of COCO with a constant rate after 2000 steps of warm-up; a fine-tuning is shorter
    and ends in a cosine. 16 bits mean bf16: the family overflows in fp16.
    """
    return {
        "training.resolution": 640,
        "training.batch_size": 8,
        "training.optimizer": "adamw",
        "training.lr": 1e-4,
        "training.backbone_lr_multiplier": backbone_share,
        "training.weight_decay": 1e-4,
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
        "validation.confidence_threshold": 0.01,
        "validation.max_detections": 300,
    }
