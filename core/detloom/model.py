# ruff: noqa: TID253
"""Building a detector from a specification, and from a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError

from detloom.data.dataset import ClassMap
from detloom.detector import Detector, ElementLoss
from detloom.errors import CheckpointError, ConfigError, Mistake
from detloom.geometry import InputRule, PostRule
from detloom.model_needs import check_detector
from detloom.specs import LossSpec, ModelContext, ModelSpec
from detloom.train.checkpoint import BEST, read_checkpoint
from detloom.weight_transfer import why_unfit
from detloom_schemas.base import Settings
from detloom_schemas.config import LOSS_ROLES, RunConfig, ValidationConfig

if TYPE_CHECKING:
    from detloom.config import ResolvedConfig
    from detloom.host import PluginHost


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A detector as a checkpoint holds it, with all that is needed to use it. size and rules are the detector's own.

    config: of its run, with origins (`detloom.config.load_saved` takes it); data: name and digest; metrics: of the
    validation when it was saved.
    """

    detector: Detector
    class_map: ClassMap
    input_rule: InputRule
    post_rule: PostRule
    spec: ModelSpec
    settings: Settings
    config: Mapping[str, Any]
    data: Mapping[str, Any]
    metrics: Mapping[str, float]
    path: Path


def input_size(resolution: int | tuple[int, int], spec: ModelSpec) -> tuple[int, int]:
    """(height, width) of the network input. Raises ConfigError when the family cannot take it."""
    step = spec.size_divisor
    if isinstance(resolution, int) and spec.rounds_resolution:
        resolution = max(round(resolution / step), 1) * step
    size = (resolution, resolution) if isinstance(resolution, int) else resolution
    if any(side % step for side in size):
        nearest = "x".join(str(max(round(side / step), 1) * step) for side in size)
        raise ConfigError(
            [
                Mistake(
                    "training.resolution",
                    "",
                    f"{size[0]}x{size[1]} is not a multiple of {step}, which {spec.name} needs",
                    f"the nearest is {nearest}",
                )
            ]
        )
    return size


def build_losses(
    config: RunConfig, spec: ModelSpec, resolved: ResolvedConfig, host: PluginHost
) -> dict[str, ElementLoss]:
    """The loss terms of the `loss` section for the roles this family takes; its own where nothing is chosen."""
    losses: dict[str, ElementLoss] = {}
    mistakes: list[Mistake] = []
    for role in LOSS_ROLES:
        chosen = getattr(config.loss, role)
        if chosen is not None and role not in spec.loss_roles:
            mistakes.append(Mistake(f"loss.{role}", "", f"{spec.name} takes no loss of this role", "remove the key"))
    for taken, own in spec.loss_roles.items():
        chosen = getattr(config.loss, taken, None)
        loss = host.get(LossSpec, chosen or own)
        if loss.role != taken:
            fitting = [other.name for other in host.specs(LossSpec) if other.role == taken]
            mistakes.append(
                Mistake(
                    f"loss.{taken}",
                    "",
                    f"{loss.name} is a loss for {loss.role}",
                    f"fitting: {', '.join(fitting)}",
                )
            )
            continue
        with host.blamed(loss):
            losses[taken] = loss.build(resolved.settings(loss) if chosen else loss.settings())
    if mistakes:
        raise ConfigError(mistakes)
    return losses


def build_detector(
    spec: ModelSpec,
    settings: Settings,
    class_names: tuple[str, ...],
    size: tuple[int, int],
    *,
    losses: Mapping[str, ElementLoss] | None = None,
    loss_weights: Mapping[str, float] | None = None,
    quality_targets: bool = False,
    validation: ValidationConfig | None = None,
) -> Detector:
    """A detector with random weights. losses, loss_weights, quality_targets: as in ModelContext, needed to train it.
    validation: its thresholds become the detector's post-processing rule."""
    context = ModelContext(class_names, size, losses or {}, loss_weights or {}, quality_targets)
    detector = spec.build(settings, context)
    check_detector(detector, spec)
    if validation is not None:
        detector.post_rule = dataclasses.replace(
            detector.post_rule,
            score_threshold=validation.confidence_threshold,
            nms_threshold=validation.nms_threshold,
            max_detections=validation.max_detections,
        )
    return detector


def describe(
    detector: Detector,
    spec_name: str,
    settings: Settings,
    class_map: ClassMap,
    config: Mapping[str, Any],
    data: Mapping[str, Any],
) -> dict[str, Any]:
    """The part of a checkpoint that says what the weights are."""
    return {
        "model": {
            "type": spec_name,
            "settings": settings.model_dump(mode="json"),
            "classes": class_map.to_list(),
            "input_rule": _plain(detector.input_rule.to_dict()),
            "post_rule": detector.post_rule.to_dict(),
        },
        "config": dict(config),
        "data": dict(data),
    }


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def load_model(path: Path, host: PluginHost, device: str = "cpu") -> TrainedModel:
    """A run's folder (its best checkpoint) or a checkpoint file. Raises CheckpointError, PluginError."""
    file = _checkpoint_file(path)
    payload = read_checkpoint(file)
    try:
        about = payload["model"]
        class_map = ClassMap.from_list(about["classes"])
        input_rule = InputRule.from_dict(about["input_rule"])
        post_rule = PostRule.from_dict(about["post_rule"])
        weights = payload["weights"]
        spec = host.get(ModelSpec, about["type"])
        settings = type(spec.settings()).model_validate(about["settings"])
    except (KeyError, TypeError, ValidationError) as error:
        raise CheckpointError(
            f"{file} lacks {error} or holds it in another form", hint="was it written by another version?"
        ) from error
    with host.blamed(spec):
        detector = build_detector(spec, settings, class_map.names, input_rule.size)
    detector.input_rule, detector.post_rule = input_rule, post_rule
    try:
        detector.load_saved_state(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{file} does not fit {spec.name}: {why_unfit(error)}") from error
    detector.eval().to(torch.device(device))
    return TrainedModel(
        detector,
        class_map,
        input_rule,
        post_rule,
        spec,
        settings,
        payload.get("config", {}),
        payload.get("data", {}),
        payload.get("metrics", {}),
        file,
    )


def _checkpoint_file(path: Path) -> Path:
    if path.is_dir():
        folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
        best = folder / BEST
        if not best.is_file():
            raise CheckpointError(f"{path} holds no {BEST}", hint="give a run's folder or a checkpoint file")
        return best
    if not path.exists():
        raise CheckpointError(f"there is nothing at {path}", hint="give a run's folder or a checkpoint file")
    return path
