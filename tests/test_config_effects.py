"""Every leaf of the configuration is changed once, in a run where it must act, and its effect is observed.

What is observed never contains the configuration itself: a value that is merely stored shows no effect. A leaf
without a row here fails `test_every_leaf_has_a_row_here` by name.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import data_tools
import run_tools
from detloom.config import iter_leaves
from detloom.config.compose import choice_fields, fitting
from detloom.data import loader as loader_module
from detloom.discovery import first_party_candidates
from detloom.host import PluginHost
from detloom.model import build_detector
from detloom.specs import ModelSpec
from detloom.train import session as session_module
from detloom_plugins.models._coco_names import COCO_NAMES
from families import detr_leaves
from run_tools import Seen, configured, lab_host, observe

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

# Leaves of the loader: batches must be the same whatever they say. Their tests stand at the end of this file.
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


# ---- what the runs are made of ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Data sets and weights files by the name that stands in braces in the tables."""
    root = tmp_path_factory.mktemp("material")
    names = ("data", "other", "one", "broken", "files", "beside", "rival", "rare", "lists", "near", "masked", "resized")
    folders = {name: root / name for name in names}
    for split, images, seed in (("train", 8, 0), ("valid", 4, 100), ("test", 2, 200)):
        data_tools.write_split(folders["data"] / split, data_tools.document(images, seed), seed)
    data_tools.sound_data(folders["broken"])
    data_tools.edit(folders["broken"], lambda content: content["annotations"][0].update(category_id=99))
    data_tools.sound_data(folders["resized"])
    data_tools.edit(folders["resized"], lambda content: content["images"][0].update(width=128, height=96))
    data_tools.sound_data(folders["near"])
    Image.fromarray(data_tools.picture(0) // 20 * 20 + 10).save(folders["near"] / "valid" / "p100.png")
    data_tools.sound_data(folders["other"], images=6)
    data_tools.write_split(folders["one"] / "train", data_tools.document(12, 50), 50)
    data_tools.sound_data(folders["beside"], images=5)
    shutil.copytree(folders["data"], folders["rival"])
    data_tools.edit(folders["rival"], lambda content: content["annotations"][0].update(bbox=[30, 30, 9, 9]))
    _write_rare(folders["rare"])
    shutil.copytree(folders["data"], folders["masked"])
    for split in ("train", "valid", "test"):
        data_tools.edit(folders["masked"], _fill_boxes, split)
    folders["lists"].mkdir()
    (folders["lists"] / "val.txt").write_text("p53.png\np54.png\np55.png\np56.png\n")
    _write_files(folders["files"])
    run_tools.PLACES["beside"] = folders["beside"]
    weights = {name: root / f"{name}.pth" for name in ("yolox", "more", "lab")}
    _write_weights(weights)
    return {name: str(path) for name, path in (folders | weights).items()}


def _fill_boxes(content: dict[str, Any]) -> None:
    """Each object gets a mask: its box."""
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]


def _write_rare(folder: Path) -> None:
    """One image of eight has a dog."""
    data_tools.sound_data(folder, images=8)

    def change(content: dict[str, Any]) -> None:
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] == 3 or a["image_id"] == 1]

    data_tools.edit(folder, change)


def _write_files(folder: Path) -> None:
    """a.json, b.json and c.json beside pictures/, and pictures2/ where every picture is upside down."""
    for name, images, seed in (("a", 4, 300), ("b", 3, 400), ("c", 2, 500)):
        data_tools.write_split(folder / "pictures", data_tools.document(images, seed), seed)
        (folder / "pictures" / "_annotations.coco.json").rename(folder / f"{name}.json")
    for picture in folder.glob("pictures/*.png"):
        (folder / "pictures2").mkdir(exist_ok=True)
        Image.fromarray(np.ascontiguousarray(np.asarray(Image.open(picture))[::-1])).save(
            folder / "pictures2" / picture.name
        )
        shutil.copy(picture, folder / picture.name)


def _write_weights(files: Mapping[str, Path]) -> None:
    """yolox: every anchor proposes a box of three cells, so that objects compete for many; more: with a tensor that
    nobody knows."""
    host = lab_host()
    detectors = {}
    for name, classes in (("yolox-nano", COCO_NAMES), ("lab-dry", ("cat", "dog"))):
        spec = host.get(ModelSpec, name)
        torch.manual_seed(5)
        detectors[name] = build_detector(spec, spec.settings(), classes, (64, 64))
    state = detectors["yolox-nano"].state_dict()
    for name, tensor in state.items():
        if name.startswith("head.reg_preds"):
            tensor.copy_(torch.tensor([0.0, 0.0, 1.1, 1.1]) if name.endswith("bias") else torch.zeros_like(tensor))
    torch.save(state, files["yolox"])
    torch.save({**state, "head.surprise": torch.zeros(3)}, files["more"])
    torch.save(detectors["lab-dry"].state_dict(), files["lab"])


Look = Callable[..., Seen]


@pytest.fixture(scope="module")
def look(places: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Look:
    """Runs a context with changes; the run without changes is made once."""
    kept: dict[tuple[str, bool], Seen] = {}

    def run(context: str, changes: Values | None = None, *, clearml: bool = False) -> Seen:
        if not changes and (context, clearml) in kept:
            return kept[context, clearml]
        folder = tmp_path_factory.mktemp("run")
        values = {**BASE, **CONTEXTS[context], **(changes or {})}
        seen = observe(_filled(values, {**places, "work": str(folder)}), folder, lab_host(clearml=clearml))
        shutil.rmtree(folder)
        if not changes:
            kept[context, clearml] = seen
        return seen

    return run


def _filled(values: Values, places: Mapping[str, str]) -> dict[str, Any]:
    """`{data}` and the like replaced by paths."""
    text = json.dumps({key: value for key, value in values.items() if value is not None})
    for name, path in places.items():
        text = text.replace(f"{{{name}}}", path)
    filled: dict[str, Any] = json.loads(text)
    return filled


# ---- the tests ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.key)
def test_a_changed_leaf_changes_the_run(row: Row, look: Look) -> None:
    before = look(row.context, clearml=row.clearml)
    after = look(row.context, {row.key: row.value}, clearml=row.clearml)
    for aspect in row.shows:
        assert after.get(aspect) != before.get(aspect), f"{row.key}={row.value!r} shows nothing in {aspect}"
    for aspect in row.keeps:
        assert after[aspect] == before[aspect], f"{row.key}={row.value!r} changes {aspect}"
    if "error" not in row.shows:
        assert not after["error"] or after["error"] == before["error"], after["error"]


def test_every_leaf_has_a_row_here() -> None:
    tested = (
        {row.key for row in ROWS}
        | LOADER_LEAVES
        | CLEARML_LEAVES
        | S3_LEAVES
        | CVAT_LEAVES
        | FORMAT_LEAVES
        | DETR_LEAVES
    )
    assert tested == set(_all_leaves())


def _all_leaves() -> Iterator[str]:
    """Every key of configurations that choose each first-party plugin at least once."""
    host = PluginHost(first_party_candidates())
    for choice in choice_fields():
        names = [spec.name for spec in fitting(host, choice)]
        assert names, f"no first-party plugin for {choice.key}"
        chosen: list[Any] = [names] if isinstance(choice.default, tuple) else names
        role = choice.key.rpartition(".")[2]
        takers = [spec.name for spec in host.specs(ModelSpec) if role in spec.loss_roles]
        for value in chosen:
            # A loss is chosen for a model that takes its role.
            model = {"model.type": takers[0]} if choice.plugin_kind == "loss" and takers else {}
            if choice.plugin_kind != "loss" or takers:
                yield from (leaf.key for leaf in iter_leaves(configured({**model, choice.key: value}, host)))


def test_two_equal_runs_show_the_same(look: Look) -> None:
    again = look("augmented", {"training.seed": 0})
    assert again == look("augmented")


def test_without_its_plugin_clearml_cannot_be_enabled(look: Look) -> None:
    assert "experiment.clearml.mode" in look("plain", {"experiment.clearml.mode": "required"})["error"]


# ---- leaves of the loader: the batches stay the same, so the processes that make them are observed ----------------


class _NoLoaderError(Exception):
    """Ends a run where its loader would be built."""


@pytest.fixture
def constructed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of every DataLoader of torch that a run makes."""
    made: list[dict[str, Any]] = []
    real = loader_module.DataLoader

    def noting(*arguments: Any, **options: Any) -> Any:
        made.append(options)
        return real(*arguments, **options)

    monkeypatch.setattr(loader_module, "DataLoader", noting)
    return made


@pytest.mark.parametrize(
    ("key", "value", "argument"),
    [
        ("data.num_workers", 1, "num_workers"),
        ("data.prefetch_factor", 5, "prefetch_factor"),
        ("data.persistent_workers", False, "persistent_workers"),
    ],
)
def test_a_leaf_of_the_loader_reaches_it_and_leaves_the_weights_alone(
    key: str, value: Any, argument: str, look: Look, constructed: list[dict[str, Any]]
) -> None:
    shorter = {"training.epochs": 1}
    alone = look("plain", shorter)
    assert not constructed, "the main process needs no DataLoader"
    seen = look("plain", {**shorter, "data.num_workers": 1, key: value})
    assert constructed[0][argument] == value
    assert seen["trained"] == alone["trained"]
    assert seen["evaluation"] == alone["evaluation"]


@pytest.mark.parametrize("wanted", [True, False])
def test_batches_for_a_gpu_are_page_locked_as_told(
    wanted: bool, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen without a GPU: what the loader is asked for where there is one."""
    asked: list[bool] = []

    class Loader:
        def __init__(self, *arguments: Any, pin_memory: bool, **options: Any) -> None:
            asked.append(pin_memory)
            raise _NoLoaderError

    monkeypatch.setattr(session_module, "TrainLoader", Loader)
    monkeypatch.setattr(session_module, "choose_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, *arguments, **options: module)
    values = {**BASE, "training.precision": "fp32", "data.pin_memory": wanted}
    with pytest.raises(_NoLoaderError):
        observe(_filled(values, places), tmp_path, lab_host())
    assert asked == [wanted]


def test_a_cache_is_built_as_told_and_leaves_the_weights_alone(
    look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETLOOM_CACHE", str(tmp_path))
    built: list[str] = []
    real = session_module.build_stores

    def noting(splits: Any, rule: Any, kind: Any, **more: Any) -> Any:
        built.append(kind)
        return real(splits, rule, kind, **more)

    monkeypatch.setattr(session_module, "build_stores", noting)
    alone = look("augmented", {"training.epochs": 1})
    for kind in ("ram", "disk"):
        seen = look("augmented", {"training.epochs": 1, "data.cache": kind})
        assert {name: seen[name] for name in ("trained", "evaluation", "metrics")} == {
            name: alone[name] for name in ("trained", "evaluation", "metrics")
        }
    assert built == ["none", "ram", "disk"]
    assert len(list(tmp_path.glob("pixels/*/pixels.bin"))) == 2, "training and validation, once each"
