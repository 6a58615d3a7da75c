# ruff: noqa: TID253
"""From what the library's decoder returns to what the criterion takes."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from detloom.detector import Outputs
from detloom_plugins.models._detr.denoising import NoisyQueries
from detloom_plugins.models._detr.matching import Stack
from detloom_plugins.models._detr.two_stage import TwoStage

from .criterion import Predictions, Sides


def outputs_of_decoder(stages: TwoStage, decoder: Any, noisy: NoisyQueries | None) -> Outputs:
    """decoder: the library's module, which holds the constants of its bins.

    Its outputs have one layer more than it has distributions whenever its first layer predicts: before the first
    refinement, boxes come from an ordinary head (`pre`). Terms are named `aux`, `pre`, `encoder` and `denoising`.
    """
    found = stages.decoder
    skip = 0 if noisy is None else noisy.count
    logits = found.intermediate_logits.transpose(0, 1)
    boxes = found.intermediate_reference_points.transpose(0, 1)
    sides = found.intermediate_predicted_corners.transpose(0, 1)
    initial = found.initial_reference_points[:, 0]
    first = len(logits) - len(sides)
    constants = (decoder.up, decoder.reg_scale)

    def predictions(queries: slice, last: str, names: tuple[str, str], scale: float) -> Predictions:
        layers = (names[0],) * (len(sides) - 1) + (last,)
        parts = (logits[first:, :, queries], boxes[first:, :, queries])
        pre = (logits[:first, :, queries], boxes[:first, :, queries])
        return Predictions(
            Stack(*parts, layers, scale),
            Sides(sides[:, :, queries], initial[:, queries], *constants),
            [Stack(*pre, (names[1],), scale)] if first else [],
        )

    real = predictions(slice(skip, None), "", ("aux", "pre"), 1.0)
    real.others = [*real.others, Stack(stages.logits[None], stages.boxes[None], ("encoder",))]
    extra: dict[str, Any] = {"found": real}
    if noisy is not None:
        word = "denoising"
        extra["noisy"] = (predictions(slice(skip), word, (word, word), 1.0 / noisy.groups), noisy.groups)
    return Outputs(_last(logits, skip), _last(boxes, skip), extra=extra)


def _last(values: Tensor, skip: int) -> Tensor:
    """values: [L, B, D + Q, ...]. Returns [B, Q, ...] of the last layer."""
    return values[-1, :, skip:]
