"""Complete runs in this process, small enough to be made by the dozen, and what can be observed of one.

The plugin `lab` stands beside the first-party ones, as a pip-installed package would: a tiny model that notes how it
is called, and plugins of the kinds that have one first-party member only.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from detloom.boxes import iou
from detloom.config import ResolvedConfig, mapping_layer, resolve
from detloom.data.records import ClassRecord, DataTree, Finding, ImageRecord, Sniff
from detloom.detector import Detector, ElementLoss, LossTerms, Outputs, Targets
from detloom.discovery import Candidate, first_party_candidates
from detloom.errors import DetloomError
from detloom.events import CheckpointSaved, EpochFinished
from detloom.hookspecs import hookimpl
from detloom.host import PluginHost
from detloom.losses import expected_bin
from detloom.run import train_run
from detloom.specs import (
    QUALITY_FLOOR,
    ExporterSpec,
    ExportRequest,
    FormatSpec,
    LoggerContext,
    LoggerSpec,
    LossSpec,
    ModelContext,
    ModelSpec,
    SourceSpec,
)
from detloom_plugins.exporters.onnx.settings import OnnxSettings
from detloom_plugins.exporters.onnx.writer import OnnxExporter
from detloom_plugins.formats.coco.format import COCOFormat
from detloom_plugins.sources.local.source import LocalSource
from detloom_schemas.data_config import LocalDataSource
from tiny import TinyDetector

NOTES: list[Any] = []
"""What the lab's plugins saw, in order; `observe` empties it."""


class NotingDetector(TinyDetector):
    """Notes the batches it is given and how they lie in memory."""

    def forward(self, images: Tensor, targets: Targets | None = None, prompts: object | None = None) -> Outputs:
        layout = "channels last" if images.is_contiguous(memory_format=torch.channels_last) else "planes"
        if not torch.jit.is_tracing():  # type: ignore[no-untyped-call]
            NOTES.append(("train" if self.training else "eval", tuple(images.shape), layout))
        return super().forward(images, targets, prompts)


class ChosenDetector(NotingDetector):
    """Learns with the losses that were chosen for it. Its class scores are also taken for a distribution of each
    object's width, so that it has a term of every role."""

    def __init__(self, context: ModelContext) -> None:
        super().__init__(context.class_names, context.size, dropout=0.0)
        self.context = context

    def loss(self, outputs: Outputs, targets: Targets) -> LossTerms:
        kept = super().loss(outputs, targets)
        boxes, valid = self.decode(outputs).boxes, targets.valid
        centre = (targets.boxes[..., :2] + targets.boxes[..., 2:]) / 2
        cell = (centre[..., 1] // 16 * outputs.extra["width"] + centre[..., 0] // 16).long()
        found = boxes.gather(1, cell[..., None].expand(-1, -1, 4))
        logits = outputs.logits.gather(1, cell[..., None].expand(-1, -1, outputs.logits.shape[-1]))
        overlap = iou(found, targets.boxes).detach().clamp(min=QUALITY_FLOOR) if self.context.quality_targets else 1.0
        wanted = one_hot(targets.labels.clamp(min=0), logits.shape[-1]) * (valid * overlap)[..., None]
        widths = (targets.boxes[..., 2] - targets.boxes[..., 0]) / 64 * (logits.shape[-1] - 1)
        terms = {"loss_obj": kept.terms["loss_obj"]}
        for role, first, second in (
            ("classification", logits, wanted),
            ("box", found, targets.boxes),
            ("distribution", logits, widths),
        ):
            values = self.context.losses[role](first.flatten(0, 1), second.flatten(0, 1))
            values = values if values.ndim == 1 else values.sum(-1)
            terms[f"loss_{role}"] = self.context.loss_weights[role] * (values * valid.flatten()).sum()
        return LossTerms(terms, kept.normaliser)


class FirstTwo(COCOFormat):
    """Reads COCO and keeps two images of each split."""

    def sniff(self, tree: DataTree) -> Sniff:
        return Sniff(0.0, "only when it is named")

    def read(self, tree: DataTree) -> Iterator[ClassRecord | ImageRecord | Finding]:
        seen: dict[str, int] = {}
        for record in super().read(tree):
            if isinstance(record, ImageRecord):
                seen[record.split] = seen.get(record.split, 0) + 1
                if seen[record.split] > 2:
                    continue
            yield record


PLACES: dict[str, Path] = {}
"""`beside`: where the lab's source finds its data."""


class Beside(LocalSource):
    """Data in one place, whatever the configuration says."""

    def __init__(self) -> None:
        super().__init__(LocalDataSource(path=str(PLACES["beside"])))


class Spoiler(OnnxExporter):
    """Writes another model than it was given."""

    def export(self, detector: Detector, request: ExportRequest) -> Path:
        other = copy.deepcopy(detector)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(1.0)
        return super().export(other, request)


class NotingLogger:
    """Notes that it was opened and how it was closed."""

    def __init__(self, context: LoggerContext) -> None:
        NOTES.append(("logger opened", context.total_steps))

    def scalars(self, values: Mapping[str, float], step: int, epoch: int) -> None: ...
    def plot(self, *arguments: object) -> None: ...
    def image(self, *arguments: object) -> None: ...
    def table(self, *arguments: object) -> None: ...
    def artifact(self, *arguments: object) -> None: ...
    def model(self, *arguments: object) -> None: ...

    def close(self, status: str) -> None:
        NOTES.append(("logger closed", status))


def _model(name: str, dropout: float) -> ModelSpec:
    def build(settings: object, context: ModelContext) -> Detector:
        return NotingDetector(context.class_names, context.size, dropout=dropout)

    return ModelSpec(name=name, family="lab", summary="a model for tests", licence="none", build=build, size_divisor=16)


@hookimpl
def detloom_models() -> Iterable[ModelSpec]:
    chosen = ModelSpec(
        name="lab-losses",
        family="lab",
        summary="a model for tests whose losses can be chosen",
        licence="none",
        build=lambda settings, context: ChosenDetector(context),
        loss_roles={"classification": "bce", "box": "iou", "distribution": "dfl"},
        size_divisor=16,
    )
    hot = replace(_model("lab-dry", 0.0), name="lab-hot", fp16=False)
    return [_model("lab-dry", 0.0), _model("lab-wet", 0.5), chosen, hot]


@hookimpl
def detloom_losses() -> Iterable[LossSpec]:
    def build(settings: object) -> ElementLoss:
        return lambda logits, target: (expected_bin(logits) - target).square()

    return [LossSpec(name="mean-bin", summary="distance of the mean bin", role="distribution", build=build)]


@hookimpl
def detloom_sources() -> Iterable[SourceSpec]:
    return [SourceSpec(name="beside", summary="one place", build=lambda settings: Beside())]


@hookimpl
def detloom_formats() -> Iterable[FormatSpec]:
    return [FormatSpec(name="first-two", summary="two images a split", build=lambda settings: FirstTwo())]


@hookimpl
def detloom_exporters() -> Iterable[ExporterSpec]:
    def build(settings: object) -> Spoiler:
        return Spoiler(OnnxSettings())

    return [ExporterSpec(name="spoiler", summary="a wrong file", suffix=".onnx", runtime="onnxruntime", build=build)]


@hookimpl
def detloom_loggers() -> Iterable[LoggerSpec]:
    def build(settings: object, context: LoggerContext) -> NotingLogger:
        return NotingLogger(context)

    return [LoggerSpec(name="clearml", summary="stands in for a tracker", build=build)]


@hookimpl
def detloom_epoch_finished(event: EpochFinished) -> None:
    NOTES.append(("epoch", event.epoch, event.step))


@hookimpl
def detloom_checkpoint_saved(event: CheckpointSaved) -> None:
    NOTES.append(("saved", event.path.name, event.epoch))


def lab_host(*, clearml: bool = False) -> PluginHost:
    """First-party plugins and the lab. clearml: the lab's logger of that name stands in for Detloom's own."""
    module = ModuleType("lab")
    module.detloom_api = (0, 1)  # type: ignore[attr-defined]
    for name, value in list(globals().items()):
        if name.startswith("detloom_") and (clearml or name != "detloom_loggers"):
            setattr(module, name, value)
    lab = Candidate("lab", "detloom-lab", "1", "entry point", lambda: module)
    return PluginHost([*first_party_candidates(), lab], ["loggers.clearml"] if clearml else [])


# ---- one run and what is seen of it -------------------------------------------------------------------------------

TIMES = {"time", "train/images_per_s", "train/data_wait", "train/memory_mb", "epoch/time_s", "epoch/evaluation_s"}
ECHOES = {
    *("name", "started", "finished", "duration_s", "command", "environment", "git", "versions", "loggers"),
    *("configuration", "trackers", "started_in", "folder"),
}
"""Of run.json: what the clock, the machine or the folder says."""

Seen = dict[str, Any]


SHORT_RUN: dict[str, Any] = {
    "data.num_workers": 0,
    "model.type": "lab-dry",
    "model.pretrain_weights": "none",
    "training.epochs": 1,
    "training.batch_size": 2,
    "training.resolution": 64,
    "augmentation.transforms": [],
    "validation.pictures": 0,
    "export.format": [],
    "experiment.logging.loggers": ["jsonl"],
    "experiment.name": "run",
}
"""One epoch, and nothing around it."""


def configured(values: Mapping[str, Any], host: PluginHost) -> ResolvedConfig:
    return resolve(host, [mapping_layer(values)])


def observe(values: Mapping[str, Any], folder: Path, host: PluginHost) -> Seen:
    """Run once; what it did, by aspect, without its configuration: a value that is only copied shows nowhere.

    values: dotted keys; runs are written into `folder`/runs unless they say otherwise.
    """
    NOTES.clear()
    error = ""
    try:
        resolved = configured({"experiment.output_dir": str(folder / "runs"), **values}, host)
        train_run(resolved, host)
    except DetloomError as failure:
        error = f"{type(failure).__name__}: {failure}".replace(str(folder), "")
    finally:
        logging.getLogger("detloom").handlers.clear()
    runs = sorted(path.parent for path in folder.rglob("run.json"))
    seen: Seen = {"error": error, "notes": list(NOTES), "place": [str(run.relative_to(folder)) for run in runs]}
    for run in runs:
        seen.update(_seen_in(run))
    return seen


def _seen_in(run: Path) -> Seen:
    record = json.loads((run / "run.json").read_text())
    checkpoints = run / "checkpoints"
    return {
        "best": weights_digest(checkpoints / "best.pt"),
        "last": weights_digest(checkpoints / "last.pt"),
        "trained": trained_digest(checkpoints / "last.pt"),
        "metrics": metrics_of(run),
        "evaluation": _json(run / "evaluation.json"),
        "data": _json(run / "data.json"),
        "predictions": {path.name: path.read_text() for path in run.glob("predictions/*")},
        "pictures": {path.name: _sha(path.read_bytes()) for path in run.glob("pictures/*")},
        "exports": {path.name: export_facts(path) for path in sorted(run.glob("exports/*.onnx"))},
        "files": sorted({_file_name(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}),
        "record": {name: value for name, value in record.items() if name not in ECHOES},
    }


def _file_name(path: Path) -> str:
    """Event files are named by the clock."""
    return str(path.parent / "events") if "tfevents" in path.name else str(path)


def _json(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else None


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    parts = [f"{name}{tuple(t.shape)}".encode() + t.contiguous().numpy().tobytes() for name, t in tensors.items()]
    return _sha(b"".join(parts))


def weights_digest(path: Path) -> str:
    """Of the weights that a checkpoint offers; empty when there is none."""
    return tensors_digest(torch.load(path, weights_only=True)["weights"]) if path.is_file() else ""


def trained_digest(path: Path) -> str:
    """Of the weights as the optimizer left them, without averaging."""
    return tensors_digest(torch.load(path, weights_only=True)["training"]["model"]) if path.is_file() else ""


def metrics_of(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    if not path.is_file():
        return []
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in record.items() if name not in TIMES} for record in records]


def export_facts(path: Path) -> dict[str, Any]:
    """The graph without the text in it, and what its gate found."""
    import onnx

    model = onnx.load(path)
    gate = json.loads(path.with_name(f"{path.name}.json").read_text())["gate"]
    return {
        "opset": [entry.version for entry in model.opset_import if not entry.domain],
        "nodes": [node.op_type for node in model.graph.node],
        "types": sorted({entry.data_type for entry in model.graph.initializer}),
        "batch": [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim],
        "gate": {name: value for name, value in gate.items() if name != "tolerance"},
    }
