# ruff: noqa: TID253
"""Weights that were made for another model of the family: which one it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch

from detloom.detector import Detector, TransferReport
from detloom.errors import WeightsError
from detloom.model import input_size
from detloom.specs import ModelContext, ModelSpec

if TYPE_CHECKING:
    from torch import Tensor

    from detloom.host import PluginHost


class Weights(NamedTuple):
    """A file that was read. classes: names of the classes of its head, in their order."""

    tensors: Mapping[str, Tensor]
    classes: Sequence[str]
    source: str


def load_weights(detector: Detector, spec: ModelSpec, weights: Weights, host: PluginHost) -> TransferReport:
    """Fill the detector; where the file does not fit it whole, say which model of the family it does fit.

    Raises WeightsError, with the detector as it was, when the file is of another architecture or damaged.
    """
    try:
        report = detector.load_pretrained(weights.tensors, weights.classes, weights.source)
    except WeightsError as error:
        if not (fitting := models_that_fit(weights, spec, host)):
            raise
        hint = f"the file fits {fitting}: choose that model (`--model`), or another file (`--weights`)"
        raise WeightsError(error.message, hint=hint) from error
    if report.mismatched or report.missing or report.unexpected:
        return replace(report, fits=models_that_fit(weights, spec, host))
    return report


def models_that_fit(weights: Weights, spec: ModelSpec, host: PluginHost) -> str:
    """Names of the other models of the family that take the file whole, joined by `or`; empty when none does.

    A model may also take what is not quite its own (fewer queries, another table of positions): those with the most
    tensors of exactly the file's shapes are named.
    """
    shapes = Counter(tuple(tensor.shape) for tensor in weights.tensors.values())
    # Names and shapes decide: without values nothing is read or copied.
    outline = {name: tensor.to("meta") for name, tensor in weights.tensors.items()}
    found: dict[str, int] = {}
    for other in host.specs(ModelSpec):
        if other.family == spec.family and other is not spec:
            try:
                detector = _empty(other)
                report = detector.load_pretrained(outline, weights.classes, weights.source)
            # A plugin may fail in any way on tensors without values: then nothing is known of its model.
            except Exception:
                continue
            if not (report.mismatched or report.missing or report.unexpected):
                own = Counter(tuple(tensor.shape) for tensor in detector.state_dict().values())
                found[host.qualified(other)] = (own & shapes).total()
    return " or ".join(name for name, count in found.items() if count == max(found.values()))


def _empty(spec: ModelSpec) -> Detector:
    """The model as published, without memory for its weights. Raises whatever its plugin raises."""
    wanted = spec.recipe.get("training.resolution", 640)
    size = wanted if isinstance(wanted, int) else (int(wanted[0]), int(wanted[1])) if isinstance(wanted, tuple) else 640
    with torch.device("meta"):
        return spec.build(spec.settings(), ModelContext(("object",), input_size(size, spec)))
