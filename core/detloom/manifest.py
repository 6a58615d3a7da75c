"""Writing and reading what a file says of itself. Needs no torch: whoever runs an exported file need not have it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detloom.data.dataset import ClassMap
from detloom.errors import WeightsError
from detloom.files import sha256_of
from detloom.geometry import InputRule, PostRule

INPUT_MEANING = (
    "RGB, 0 to 255, prepared by resize and pad_value of input_rule; channels, scale, mean and std are inside the graph"
)
MASK_SHAPE = ("batch", "boxes", "mask height", "mask width")
MASK_MEANING = "logits over the whole input, bilinear between them, inside above 0; one for each box"

if TYPE_CHECKING:
    from detloom.model import TrainedModel
    from detloom.specs import ExporterSpec
    from detloom_schemas.base import Settings
    from detloom_schemas.config import ExportConfig
    from detloom_schemas.manifest import ModelManifest


@dataclass(frozen=True, slots=True)
class Rules:
    """What is needed to use a file, besides the file."""

    input_rule: InputRule
    post_rule: PostRule
    class_map: ClassMap


def describe_model(model: TrainedModel) -> ModelManifest:
    """The manifest of a checkpoint; `with_exporter` makes it that of a file about to be exported."""
    from detloom_schemas.manifest import ModelManifest

    height, width = model.input_rule.size
    size = ("batch", "boxes", len(model.class_map))
    return ModelManifest.model_validate(
        {
            "model": model.spec.name,
            "family": model.spec.family,
            "licence": model.spec.licence,
            "classes": model.class_map.to_list(),
            "input": _tensor("images", "uint8", ("batch", 3, height, width), INPUT_MEANING),
            "outputs": (
                _tensor("boxes", "float32", ("batch", "boxes", 4), "xyxy in pixels of the input, not yet suppressed"),
                _tensor("scores", "float32", size, "0 to 1; columns in the order of classes"),
                *([_tensor("masks", "float32", MASK_SHAPE, MASK_MEANING)] if model.detector.masks else []),
            ),
            "masks": model.detector.masks,
            "input_rule": model.input_rule.to_dict(),
            "post_rule": model.post_rule.to_dict(),
            "data": dict(model.data),
            "checkpoint": {
                "file": model.path.name,
                "sha256": sha256_of(model.path),
                "metrics": {name: value for name, value in model.metrics.items() if math.isfinite(value)},
            },
            "versions": versions(("torch", "numpy")),
        }
    )


def _tensor(name: str, dtype: str, shape: tuple[int | str, ...], meaning: str) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": shape, "meaning": meaning}


def with_exporter(
    manifest: ModelManifest, spec: ExporterSpec, settings: Settings, config: ExportConfig
) -> ModelManifest:
    return manifest.model_copy(
        update={
            **(_finished(manifest) if config.postprocess else {}),
            "exporter": spec.name,
            "exporter_settings": settings.model_dump(mode="json"),
            "half": config.half,
            "simplified": config.simplify,
            "versions": {**manifest.versions, **versions((spec.name, spec.runtime))},
        }
    )


def _finished(manifest: ModelManifest) -> dict[str, Any]:
    """What changes when the post-processing is inside."""
    from detloom_schemas.manifest import TensorEntry

    entries = [
        _tensor("boxes", "float32", ("batch", "detections", 4), "xyxy in pixels of the input, best first"),
        _tensor("scores", "float32", ("batch", "detections"), "0 to 1; 0: there are no more"),
        _tensor("labels", "int64", ("batch", "detections"), "index of the class"),
        *([_tensor("masks", "float32", ("batch", "detections", *MASK_SHAPE[2:]), MASK_MEANING)] * manifest.masks),
    ]
    return {"finished": True, "outputs": tuple(TensorEntry.model_validate(entry) for entry in entries)}


def versions(distributions: tuple[str, ...]) -> dict[str, str]:
    """Of those that are installed; Detloom itself may run from a clone."""
    from detloom import __version__

    found = {"detloom": __version__}
    for name in distributions:
        if name not in found:
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
    return found


def parse_manifest(values: Mapping[str, Any], place: str) -> ModelManifest:
    """Raises WeightsError naming what is missing or malformed."""
    from pydantic import ValidationError

    from detloom_schemas.manifest import ModelManifest

    if values.get("format") not in (None, 1):
        raise WeightsError(
            f"{place} has a manifest of format {values['format']}; this Detloom reads format 1",
            hint="it was written by a newer version: upgrade detloom, or export again",
        )
    try:
        return ModelManifest.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg'].lower()}" for problem in error.errors()[:5]
        )
        raise WeightsError(
            f"the manifest of {place} is not complete: {problems}", hint="export the model again"
        ) from None


def manifest_beside(path: Path) -> Mapping[str, Any] | None:
    """The manifest that lies beside a file, or None. Raises WeightsError when it belongs to another file."""
    beside = manifest_path(path)
    if not beside.is_file():
        return None
    try:
        values = json.loads(beside.read_text(encoding="utf-8"))
        stated = values["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{beside} is not the manifest of an export: {error}") from error
    if stated != sha256_of(path):
        raise WeightsError(
            f"{beside} belongs to another file: it states SHA-256 {stated[:12]}..., which {path.name} has not",
            hint="copy the file and its manifest together, or export again",
        )
    return dict(values)


def manifest_path(path: Path) -> Path:
    """`model.onnx` has its manifest in `model.onnx.json`."""
    return path.with_name(f"{path.name}.json")


def rules_of(manifest: ModelManifest) -> Rules:
    return Rules(
        InputRule.from_dict(manifest.input_rule.model_dump()),
        PostRule.from_dict(manifest.post_rule.model_dump()),
        ClassMap.from_list([entry.model_dump() for entry in manifest.classes]),
    )
