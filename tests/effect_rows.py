"""What each leaf of the configuration changes: the table of tests/test_config_effects.py.

Texts in braces are places that the tests make.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from families import detr_leaves

Values = Mapping[str, Any]

BASE: Values = {
    "model.type": "lab-dry",
    "model.pretrain_weights": "none",
    "data.local.path": "{data}",
    "data.num_workers": 0,
    "training.epochs": 3,
    "training.batch_size": 2,
    "training.resolution": 64,
    "training.lr": 1e-3,
    "training.ema_warmup_steps": 3.0,
    "validation.pictures": 0,
    "export.format": [],
    "experiment.logging.loggers": ["jsonl"],
}
FLIPS_AND_MORE = ["hflip", "vflip", "affine", "hsv"]
YOLOX: Values = {
    "model.type": "yolox-nano",
    "model.pretrain_weights": "{yolox}",
    "training.epochs": 1,
    "training.max_steps": 2,
    "training.batch_size": 4,
    "training.multi_scale": False,
    "augmentation.transforms": [],
}
FILES: Values = {"data.local.path": "{files}", "data.local.train": "a.json", "data.local.val": "b.json"}

LOSSES: Values = {"model.type": "lab-losses", "training.epochs": 1}
CLASS_LOSSES = ("focal", "varifocal", "mal", "ia_bce", "ce")
BOX_LOSSES = ("giou", "diou", "ciou", "siou", "l1")
"""Besides bce and iou, which the lab's model and YOLOX mean when nothing is chosen."""

CONTEXTS: dict[str, Values] = {
    "plain": {},
    "long": {"training.epochs": 6},
    "augmented": {
        "augmentation.transforms": FLIPS_AND_MORE,
        "augmentation.affine.degrees": 10.0,
        "augmentation.affine.translate": 0.4,
        "augmentation.affine.scale_min": 0.7,
        "augmentation.affine.scale_max": 1.3,
    },
    "layer-wise": {"training.use_llrd": True},
    "averaging": {"training.use_swa": True, "training.swa_start": 0.5},
    "slow weights": {"training.use_lookahead": True},
    "several sizes": {"training.multi_scale": True},
    "frozen": {"model.freeze": ["stem"]},
    "adapted": {"model.lora.rank": 2, "training.lr": 0.1},
    "overflowing": {"model.type": "lab-hot", "training.precision": "fp16"},
    "multistep": {"training.scheduler": "multistep"},
    "step": {"training.scheduler": "step"},
    # No learning to speak of: AP stands still, and so does everything that waits for it.
    "still": {"training.lr": 1e-9, "training.early_stopping_patience": 1, "training.epochs": 4},
    "stopping": {
        "training.lr": 1e-9,
        "training.early_stopping_patience": 1,
        "training.epochs": 4,
        "training.early_stopping": True,
    },
    "improving": {
        "training.early_stopping": True,
        "training.early_stopping_patience": 1,
        "validation.save_best_metric": "loss",
    },
    # The current folder is the place of the data.
    "nameless data": {"data.local.path": None},
    "one json": {"data.local.path": "{one}/train/_annotations.coco.json"},
    "two sources that disagree": {"data.local.path": None, "data.sources": ["{data}", "{rival}"]},
    "one json, uneven": {"data.local.path": "{one}/train/_annotations.coco.json", "data.split.seed": 3},
    "rare": {"data.local.path": "{rare}"},
    "rare, balanced": {"data.local.path": "{rare}", "data.balance": "repeat-factor"},
    "one json, with a test": {"data.local.path": "{one}/train/_annotations.coco.json", "data.split.test": 0.2},
    "files": FILES,
    "unknown class": {"data.local.path": "{broken}"},
    "unknown class, limited": {"data.local.path": "{broken}", "data.max_left_out": 0.5},
    "unknown class, lenient": {"data.local.path": "{broken}", "data.policy": "lenient"},
    "other size": {"data.local.path": "{resized}", "training.epochs": 1},
    "nearly leaking": {"data.local.path": "{near}", "training.epochs": 1},
    "losses": LOSSES,
    **{name: {**LOSSES, "loss.classification": name} for name in CLASS_LOSSES},
    **{name: {**LOSSES, "loss.box": name} for name in BOX_LOSSES},
    "yolox": YOLOX,
    "yolox, masks": {
        **YOLOX,
        "model.type": "yolox-seg-nano",
        "data.local.path": "{masked}",
        "validation.confidence_threshold": 0.0,
    },
    "yolox, more in the file": {**YOLOX, "model.pretrain_weights": "{more}"},
    "onnx": {"export.format": ["onnx"], "training.epochs": 1},
    "spoiled": {"export.format": ["spoiler"], "export.half": True, "training.epochs": 1},
}

TRAINED = ("trained", "best")


@dataclass(frozen=True)
class Row:
    """value: another legal one. shows: aspects that must differ from the same run without it; keeps: that must not."""

    key: str
    value: Any
    shows: tuple[str, ...]
    context: str = "plain"
    keeps: tuple[str, ...] = ()
    clearml: bool = field(default=False)


ROWS = [
    Row("preset", "plan", TRAINED, "yolox"),
    Row("training.epochs", 2, ("trained", "metrics", "notes")),
    Row("training.max_steps", 5, ("trained", "metrics", "notes")),
    Row("training.batch_size", 4, ("trained", "notes")),
    Row("training.gradient_accumulation", 2, ("trained", "metrics")),
    Row("training.resolution", [64, 96], ("trained", "notes")),
    Row("training.optimizer", "sgd", TRAINED),
    Row("training.lr", 1e-2, (*TRAINED, "metrics")),
    Row("training.momentum", 0.5, TRAINED),
    Row("training.weight_decay", 0.5, TRAINED),
    Row("training.use_llrd", True, TRAINED),
    Row("training.llrd_decay", 0.3, TRAINED, "layer-wise"),
    Row("training.head_lr_multiplier", 10.0, TRAINED),
    Row("training.backbone_lr_multiplier", 0.1, TRAINED),
    Row("training.scheduler", "constant", (*TRAINED, "metrics")),
    Row("training.warmup_epochs", 0.0, TRAINED, "long"),
    Row("training.warmup_steps", 1, TRAINED, "long"),
    Row("training.min_lr_frac", 0.5, (*TRAINED, "metrics")),
    Row("training.lr_milestones", [0.3], TRAINED, "multistep"),
    Row("training.lr_gamma", 0.5, ("trained", "metrics"), "multistep"),
    Row("training.lr_step_epochs", 1, TRAINED, "step"),
    Row("training.gradient_clip", 0.01, TRAINED),
    Row("training.use_ema", False, ("best", "metrics"), keeps=("trained",)),
    Row("training.ema_decay", 0.5, ("best",), keeps=("trained",)),
    Row("training.ema_warmup_steps", 50.0, ("best",), keeps=("trained",)),
    Row("training.use_swa", True, (*TRAINED, "metrics")),
    Row("training.swa_start", 0.0, TRAINED, "averaging"),
    Row("training.swa_lr_frac", 0.1, TRAINED, "averaging"),
    Row("training.swa_norm_batches", 0, ("best", "metrics"), "averaging", keeps=("trained",)),
    Row("training.use_lookahead", True, TRAINED),
    Row("training.lookahead_steps", 2, TRAINED, "slow weights"),
    Row("training.lookahead_alpha", 0.9, TRAINED, "slow weights"),
    Row("training.unfreeze", {"1": ["stem"]}, TRAINED, "frozen"),
    Row("training.multi_scale", True, ("trained", "notes")),
    Row("training.scale_min", 32, ("trained", "notes"), "several sizes"),
    Row("training.scale_max", 112, ("trained", "notes"), "several sizes"),
    Row("training.gradient_checkpointing", True, ("record",), keeps=("trained", "best")),
    Row("training.precision", "bf16", ("trained", "record")),
    Row("training.force_fp16", True, ("error", "place"), "overflowing"),
    Row("training.device", "cuda:99", ("error", "place")),
    Row("training.seed", 1, TRAINED),
    Row("training.early_stopping", True, ("trained", "notes"), "still"),
    Row("training.early_stopping_patience", 2, ("trained", "notes"), "stopping"),
    Row("training.early_stopping_min_delta", 100.0, ("trained", "notes"), "improving"),
    Row("training.overfit_batches", 1, ("trained", "notes", "evaluation")),
    Row("training.checkpoint_interval", 2, ("notes",), keeps=("trained", "last", "best")),
    Row("training.channels_last", True, ("notes",)),
    Row("model.type", "lab-wet", TRAINED),
    Row("model.pretrain_weights", "{lab}", (*TRAINED, "record")),
    Row("model.strict_weights", True, ("error",), "yolox, more in the file"),
    Row("model.num_classes", 3, ("error", "place")),
    Row("model.freeze", ["*.bias"], TRAINED),
    Row("model.freeze_backbone", True, TRAINED),
    Row("model.lora.rank", 2, TRAINED),
    Row("model.lora.alpha", 1.0, TRAINED, "adapted"),
    Row("model.lora.dropout", 0.5, TRAINED, "adapted"),
    Row("model.lora.targets", ["body"], TRAINED, "adapted"),
    Row("model.yolox.objectness_weight", 3.0, TRAINED, "yolox"),
    Row("model.yolox.candidate_topk", 1, TRAINED, "yolox"),
    Row("model.yolox.center_radius", 0.1, TRAINED, "yolox"),
    Row("model.yolox.l1_frac", 1.0, TRAINED, "yolox"),
    Row("model.yolox.norm_momentum", 0.5, TRAINED, "yolox"),
    Row("model.yolox.mask_weight", 1.0, TRAINED, "yolox, masks"),
    Row("model.yolox.mask_candidates", 3, ("evaluation",), "yolox, masks", keeps=("trained",)),
    Row("data.source", "beside", ("data", "trained"), "nameless data"),
    Row("data.sources", ["{other}", {"path": "{one}", "name": "more"}], ("data", "trained"), "nameless data"),
    Row("data.class_aliases", {"cat": "dog"}, ("data", "trained")),
    Row("data.drop_classes", ["cat"], ("data", "trained")),
    Row("data.conflicts", "union", ("error", "place"), "two sources that disagree"),
    Row("data.format", "first-two", ("data", "trained")),
    Row("data.split.mode", "anew", ("data", "trained")),
    Row("data.split.stratify", True, ("data", "trained"), "one json, uneven"),
    Row("data.split.group", "p5", ("data", "trained"), "one json"),
    Row("data.split.files", "{lists}", ("data", "trained"), "one json"),
    Row("data.balance", "weighted", TRAINED, "rare", keeps=("data",)),
    Row("data.balance_threshold", 1.0, TRAINED, "rare, balanced", keeps=("data",)),
    Row("data.split.val", 0.5, ("data", "trained"), "one json"),
    Row("data.split.test", 0.3, ("data", "trained"), "one json"),
    Row("data.split.seed", 3, ("trained", "evaluation"), "one json, with a test"),
    Row("data.policy", "lenient", ("error", "place"), "unknown class, limited"),
    Row("data.allow", ["unknown-class"], ("error", "place"), "unknown class"),
    Row("data.size_mismatch", "scale", ("error", "place"), "other size"),
    Row("data.max_left_out", 0.5, ("error", "place"), "unknown class, lenient"),
    Row("data.near_duplicates", False, ("data",), "nearly leaking", keeps=("trained", "best")),
    Row("data.local.path", "{other}", ("data", "trained")),
    Row("data.local.images", "{files}/pictures2", ("data", "trained"), "files"),
    Row("data.local.train", "b.json", ("data", "trained"), "files"),
    Row("data.local.val", "c.json", ("data", "evaluation"), "files", keeps=("trained",)),
    Row("data.local.test", "c.json", ("data", "evaluation"), "files", keeps=("trained",)),
    Row("augmentation.transforms", [], TRAINED),
    Row("augmentation.hflip.prob", 0.9, TRAINED, "augmented"),
    Row("augmentation.vflip.prob", 0.9, TRAINED, "augmented"),
    Row("augmentation.affine.prob", 0.2, TRAINED, "augmented"),
    Row("augmentation.affine.degrees", 45.0, TRAINED, "augmented"),
    Row("augmentation.affine.translate", 0.1, TRAINED, "augmented"),
    Row("augmentation.affine.scale_min", 0.4, TRAINED, "augmented"),
    Row("augmentation.affine.scale_max", 2.0, TRAINED, "augmented"),
    Row("augmentation.affine.shear", 20.0, TRAINED, "augmented"),
    Row("augmentation.affine.min_visible", 0.9, TRAINED, "augmented"),
    Row("augmentation.hsv.prob", 0.2, TRAINED, "augmented"),
    Row("augmentation.hsv.h", 0.4, TRAINED, "augmented"),
    Row("augmentation.hsv.s", 0.1, TRAINED, "augmented"),
    Row("augmentation.hsv.v", 0.1, TRAINED, "augmented"),
    Row("loss.classification", "focal", TRAINED, "yolox"),
    Row("loss.box", "giou", TRAINED, "yolox"),
    *(Row("loss.classification", name, TRAINED, "losses") for name in CLASS_LOSSES),
    *(Row("loss.box", name, TRAINED, "losses") for name in BOX_LOSSES),
    Row("loss.distribution", "mean-bin", TRAINED, "losses"),
    Row("loss.classification_weight", 3.0, TRAINED, "yolox"),
    Row("loss.box_weight", 1.0, TRAINED, "yolox"),
    Row("loss.distribution_weight", 4.0, TRAINED, "losses"),
    Row("loss.focal.gamma", 0.5, TRAINED, "focal"),
    Row("loss.focal.alpha", 0.6, TRAINED, "focal"),
    Row("loss.focal.label_smoothing", 0.2, TRAINED, "focal"),
    Row("loss.varifocal.gamma", 0.5, TRAINED, "varifocal"),
    Row("loss.varifocal.alpha", 0.2, TRAINED, "varifocal"),
    Row("loss.mal.gamma", 0.5, TRAINED, "mal"),
    Row("loss.mal.alpha", 0.2, TRAINED, "mal"),
    Row("loss.ia_bce.gamma", 0.5, TRAINED, "ia_bce"),
    Row("loss.ia_bce.alpha", 0.8, TRAINED, "ia_bce"),
    Row("loss.ce.label_smoothing", 0.3, TRAINED, "ce"),
    Row("loss.siou.shape_power", 2.0, TRAINED, "siou"),
    Row("loss.l1.scale_px", 8.0, TRAINED, "l1"),
    Row("validation.interval", 2, ("metrics", "notes"), keeps=("trained", "last")),
    Row("validation.start_epoch", 2, ("metrics", "notes"), keeps=("trained", "last")),
    Row("validation.batch_size", 1, ("notes",), keeps=("trained", "last")),
    Row("validation.confidence_threshold", 0.9, ("evaluation",), keeps=("trained", "last")),
    Row("validation.nms_threshold", 0.0, ("evaluation",), keeps=("trained", "last")),
    Row("validation.max_detections", 2, ("evaluation",), keeps=("trained", "last")),
    Row("validation.save_best_metric", "loss", ("best",), keeps=("trained", "last")),
    Row("validation.use_ema", False, ("best", "metrics"), keeps=("trained",)),
    Row("validation.save_predictions", True, ("predictions", "files"), keeps=("trained", "best")),
    Row("validation.pictures", 2, ("pictures", "files"), keeps=("trained", "best")),
    Row("export.format", ["onnx"], ("exports", "files"), keeps=("trained", "best")),
    Row("export.half", True, ("exports", "files"), "onnx", keeps=("trained", "best")),
    Row("export.simplify", True, ("exports",), "onnx", keeps=("trained", "best")),
    Row("export.postprocess", True, ("exports", "files"), "onnx", keeps=("trained", "best")),
    Row("export.tolerance", 1.0, ("error", "files"), "spoiled", keeps=("trained", "best")),
    Row("export.gate_images", 1, ("exports",), "onnx", keeps=("trained", "best")),
    Row("export.onnx.opset", 18, ("exports",), "onnx", keeps=("trained", "best")),
    Row("export.onnx.dynamic_batch", False, ("exports",), "onnx", keeps=("trained", "best")),
    Row("experiment.project", "elsewhere", ("record",), keeps=("trained", "best", "place")),
    Row("experiment.name", "called-so", ("place",), keeps=("trained", "best")),
    Row("experiment.tags", ["one", "two"], ("record",), keeps=("trained", "best")),
    Row("experiment.output_dir", "{work}/elsewhere", ("place",), keeps=("trained", "best")),
    Row("experiment.clearml.mode", "offline", ("notes",), keeps=("trained", "best"), clearml=True),
    Row("experiment.logging.loggers", ["jsonl", "tensorboard"], ("files",), keeps=("trained", "best")),
    Row("experiment.logging.log_interval", 1, ("metrics",), keeps=("trained", "best")),
]

# Leaves of the loader: batches must be the same whatever they say. Their tests stand at the
# end of tests/test_config_effects.py.
LOADER_LEAVES = {
    *("data.num_workers", "data.prefetch_factor", "data.persistent_workers", "data.pin_memory", "data.cache")
}

# What they do is seen on a server: tests/test_clearml_task.py and tests/test_clearml_outages.py.
CLEARML_LEAVES = {
    f"experiment.clearml.{name}"
    for name in ("output_uri", "checkpoint_interval", "close_timeout", "spool_mb", "console", "resource_monitoring")
}

# What they do is seen on a server: tests/test_s3_source.py, tests/test_s3_cuts.py and tests/test_s3_access.py.
S3_LEAVES = {
    f"data.s3.{name}"
    for name in (
        "endpoint", "secure", "bucket", "prefix", "region", "access_key_env", "secret_key_env", "session_token_env",
        "anonymous", "unpack", "downloads",
    )
} | {"data.fetch_deadline"}  # fmt: skip

# What they do is seen on a server: tests/test_cvat_settings.py.
CVAT_LEAVES = {
    f"data.cvat.{name}"
    for name in (
        "url", "task_ids", "project_ids", "job_ids", "organization", "downloader", "export", "timeout",
        "username_env", "password_env", "token_env", "access_token_env",
    )
}  # fmt: skip

# What they do is seen on annotation files: tests/test_formats_voc.py, test_formats_csv.py and test_formats_datumaro.py.
FORMAT_LEAVES = {"data.voc.pixels", "data.voc.difficult", "data.csv.unit", "data.datumaro.reader"}

# What they do is seen in one training step of a small network: tests/test_detr_settings.py.
DETR_LEAVES = detr_leaves()
