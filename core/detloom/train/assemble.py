# ruff: noqa: TID253
"""The parts of a training, each built from the configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from detloom.data.dataset import ClassMap
from detloom.detector import Detector, ElementLoss
from detloom.errors import CheckpointError, ConfigError, Mistake, UnreachableError, WeightsError
from detloom.model import build_detector, build_losses, input_size
from detloom.specs import LossSpec, ModelSpec, WeightsFile
from detloom.train.checkpoint import read_checkpoint
from detloom.train.optimizer import freeze_backbone
from detloom.train.seeding import seed_torch
from detloom.weights import fetch_weights, read_weights
from detloom_schemas.config import LOSS_ROLES, TrainingConfig

if TYPE_CHECKING:
    from torch import Tensor

    from detloom.config import ResolvedConfig
    from detloom.data.dataset import Dataset
    from detloom.host import PluginHost


def choose_device(name: str) -> torch.device:
    """`auto`: the first GPU, else the processor. Raises ConfigError for a device that is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    here = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
    }
    if not here[device.type]:
        found = [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["no CUDA device"]
        raise ConfigError([Mistake("training.device", "", f"{name!r} is not here", f"found: cpu, {', '.join(found)}")])
    return device


def choose_precision(config: TrainingConfig, device: torch.device) -> torch.dtype:
    """bf16 where asked for, or where `auto` meets a GPU that has it."""
    if config.precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if config.precision == "bf16" else torch.float32


@dataclasses.dataclass(frozen=True, slots=True)
class BuiltModel:
    """losses: those it was built with, by qualified name. notes: what was loaded, copied and reset, for people;
    warnings: what a person should know about it. origin: address or absolute path of the weights it began with, empty
    for random ones."""

    detector: Detector
    spec: ModelSpec
    losses: Mapping[str, ElementLoss] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    origin: str = ""


def build_model(resolved: ResolvedConfig, host: PluginHost, dataset: Dataset, *, pretrained: bool = True) -> BuiltModel:
    """The chosen model for the classes of the data, seeded before it is built, with its pretrained weights."""
    config = resolved.config
    spec = host.get(ModelSpec, config.model.type)
    seed_torch(config.training.seed, "weights")
    losses = build_losses(config, spec, resolved, host)
    chosen = {
        role: host.get(LossSpec, getattr(config.loss, role, None) or own) for role, own in spec.loss_roles.items()
    }
    named = {host.qualified(loss): losses[role] for role, loss in chosen.items()}
    with host.blamed(spec):
        detector = build_detector(
            spec,
            resolved.settings(spec),
            dataset.class_map.names,
            input_size(config.training.resolution, spec),
            losses=losses,
            loss_weights={role: getattr(config.loss, f"{role}_weight") for role in LOSS_ROLES},
            quality_targets="classification" in chosen and chosen["classification"].quality,
            validation=config.validation,
        )
    # A resumed run takes its weights from its state: the file they once came from may be gone.
    notes, warnings, origin = _load_weights(detector, spec, resolved) if pretrained else ([], [], "")
    if config.model.freeze_backbone:
        notes.append(f"frozen: {', '.join(freeze_backbone(detector))}")
    return BuiltModel(detector, spec, named, tuple(notes), tuple(warnings), origin)


def find_weights(wanted: str, spec: ModelSpec) -> tuple[Path | None, WeightsFile | None, list[str]]:
    """The file that `model.pretrain_weights` means, its description where it is an official one, and warnings.

    Raises UnreachableError when official weights were asked for by name and cannot be had; ConfigError for a path
    that is not there.
    """
    if wanted == "none":
        return None, None, ["the model starts from random weights: it needs many more epochs and images"]
    if wanted in {"auto", "official"}:
        if not spec.weights:
            if wanted == "auto":
                return None, None, [f"{spec.name} has no published weights: it starts from random weights"]
            raise ConfigError(
                [Mistake("model.pretrain_weights", "", f"{spec.name} has no published weights", "use a file or none")]
            )
        try:
            return fetch_weights(spec.weights[0]), spec.weights[0], []
        except UnreachableError as error:
            if wanted == "official":
                raise
            warning = (
                f"RANDOM WEIGHTS: the published weights of {spec.name} could not be had ({error.message}); "
                "results will be far below a fine-tuned model. Give a file with --weights, or --weights official to "
                "stop instead"
            )
            return None, None, [warning]
    path = Path(wanted).expanduser()
    if not path.is_file():
        raise ConfigError(
            [
                Mistake(
                    "model.pretrain_weights",
                    "",
                    f"there is no file {wanted}",
                    "give a file, `official`, `auto` or `none`",
                )
            ]
        )
    known = next((file for file in spec.weights if file.name == path.name), None)
    return path, known, []


def _load_weights(detector: Detector, spec: ModelSpec, resolved: ResolvedConfig) -> tuple[list[str], list[str], str]:
    model = resolved.config.model
    path, official, warnings = find_weights(model.pretrain_weights, spec)
    if path is None:
        return [], warnings, ""
    tensors, names = _read(path, official or next(iter(spec.weights), None))
    report = detector.load_pretrained(tensors, names, str(path))
    if model.strict_weights and (report.mismatched or report.missing or report.unexpected):
        raise WeightsError(
            f"model.strict_weights: {path} does not fit {spec.name} exactly",
            hint="\n  ".join([*report.lines(), "leave model.strict_weights off to go on with what fits"]),
        )
    notes = report.lines()
    if official is not None:
        notes.append(f"  licence of the weights: {official.licence}")
    return notes, warnings, official.url if official is not None else str(path.absolute())


def _read(path: Path, like: WeightsFile | None) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
    """Tensors of a file and the class names of its head: a checkpoint says them itself; a plain file is taken to hold
    the classes of the family's published weights (the family compares their number with the head's rows)."""
    try:
        payload = read_checkpoint(path)
    except CheckpointError:
        return read_weights(path), like.class_names if like is not None else ()
    return payload["weights"], ClassMap.from_list(payload["model"]["classes"]).names
