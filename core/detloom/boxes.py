# ruff: noqa: TID253
"""Geometry of boxes as tensors: xyxy in pixels, any float type, gradients safe at degenerate boxes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from detloom.errors import UsageError

BoxFormat = Literal["xyxy", "cxcywh"]
IoUType = Literal["iou", "giou", "diou", "ciou", "siou"]

_LEAST = 1e-9
"""Divisors are at least this: far below the area of any box, also of one in fractions of the picture, and far enough
from 0 that gradients stay finite."""


def to_cxcywh(boxes: Tensor) -> Tensor:
    """boxes: [..., 4] xyxy. Returns centre and sides."""
    return torch.cat(((boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]), dim=-1)


def from_cxcywh(boxes: Tensor) -> Tensor:
    """boxes: [..., 4] centre and sides. Returns xyxy."""
    half = boxes[..., 2:] / 2
    return torch.cat((boxes[..., :2] - half, boxes[..., :2] + half), dim=-1)


def to_xywh(boxes: Tensor) -> Tensor:
    """boxes: [..., 4] xyxy. Returns the top left corner and sides, as COCO files have them."""
    return torch.cat((boxes[..., :2], boxes[..., 2:] - boxes[..., :2]), dim=-1)


def from_xywh(boxes: Tensor) -> Tensor:
    """boxes: [..., 4] top left corner and sides. Returns xyxy."""
    return torch.cat((boxes[..., :2], boxes[..., :2] + boxes[..., 2:]), dim=-1)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """boxes: [..., 4] xyxy. size: (height, width) of the picture. Returns boxes inside it."""
    return torch.minimum(boxes.clamp(min=0), limits(size, boxes))


def normalise(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """boxes: [..., 4] in pixels, any of the codings. Returns fractions of (height, width)."""
    return boxes / limits(size, boxes)


def limits(size: tuple[int, int], like: Tensor) -> Tensor:
    """[4] width, height, width, height, in the precision and on the device of `like`.

    Filled there: a tensor made of Python numbers is copied to a GPU, and the processor waits for the copy.
    """
    found = like.new_empty(4)
    found[::2], found[1::2] = float(size[1]), float(size[0])
    return found


def areas(boxes: Tensor) -> Tensor:
    """boxes: [..., 4] xyxy. Returns [...]; a box turned inside out has area 0."""
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def _intersection_union(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both [..., 4] and broadcast against each other. Returns areas [...]."""
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    sides = (high - low).clamp(min=0)
    intersection = sides[..., 0] * sides[..., 1]
    return intersection, areas(first) + areas(second) - intersection


def _divided(values: Tensor, by: Tensor) -> Tensor:
    """Finite also where `by` is 0; exact wherever it is not."""
    # In 16 bits the usual least would round to 0.
    return values / by.clamp(min=max(_LEAST, torch.finfo(by.dtype).tiny))


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union, row by row. Both [..., 4] xyxy (broadcast). Returns [...] in 0..1."""
    intersection, union = _intersection_union(first, second)
    return _divided(intersection, union)


def pairwise_iou(rows: Tensor, columns: Tensor) -> Tensor:
    """rows: [..., R, 4]; columns: [..., C, 4]. Returns [..., R, C].

    Coordinate by coordinate: an innermost dimension of two would keep the processor from its wide registers.
    """
    left, top, right, bottom = rows.unsqueeze(-2).unbind(-1)
    left2, top2, right2, bottom2 = columns.unsqueeze(-3).unbind(-1)
    width = torch.minimum(right, right2).sub(torch.maximum(left, left2)).clamp(min=0)
    height = torch.minimum(bottom, bottom2).sub(torch.maximum(top, top2)).clamp(min=0)
    intersection = width * height
    return _divided(intersection, areas(rows).unsqueeze(-1) + areas(columns).unsqueeze(-2) - intersection)


def _hull_sides(first: Tensor, second: Tensor) -> Tensor:
    """Width and height [..., 2] of the smallest box around both."""
    low = torch.minimum(first[..., :2], second[..., :2])
    high = torch.maximum(first[..., 2:], second[..., 2:])
    return (high - low).clamp(min=0)


def _offset(first: Tensor, second: Tensor) -> Tensor:
    """From the centre of the second to that of the first, [..., 2]."""
    return (first[..., :2] + first[..., 2:] - second[..., :2] - second[..., 2:]) / 2


def giou(first: Tensor, second: Tensor) -> Tensor:
    """Generalised IoU (Rezatofighi et al. 2019), row by row. Both [..., 4]. Returns [...] in -1..1."""
    intersection, union = _intersection_union(first, second)
    sides = _hull_sides(first, second)
    hull = sides[..., 0] * sides[..., 1]
    return _divided(intersection, union) - _divided(hull - union, hull)


def diou(first: Tensor, second: Tensor) -> Tensor:
    """Distance IoU (Zheng et al. 2020, eq. 7), row by row. Both [..., 4]. Returns [...] in -1..1."""
    diagonal = _hull_sides(first, second).square().sum(-1)
    return iou(first, second) - _divided(_offset(first, second).square().sum(-1), diagonal)


def ciou(predicted: Tensor, target: Tensor) -> Tensor:
    """Complete IoU (Zheng et al. 2020, eq. 10-12), row by row. Both [..., 4]. Returns [...], at most 1.

    The weight of the aspect-ratio term is a constant for the gradient, as in the paper's code.
    """
    overlap = iou(predicted, target)
    diagonal = _hull_sides(predicted, target).square().sum(-1)
    distance = _divided(_offset(predicted, target).square().sum(-1), diagonal)
    aspect = (4 / math.pi**2) * (_aspect_angle(target) - _aspect_angle(predicted)).square()
    with torch.no_grad():
        weight = _divided(aspect, 1 - overlap + aspect)
    return overlap - distance - weight * aspect


def _aspect_angle(boxes: Tensor) -> Tensor:
    width, height = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).unbind(-1)
    return torch.atan(_divided(width, height))


def siou(predicted: Tensor, target: Tensor, shape_power: float = 4.0) -> Tensor:
    """SIoU (Gevorgyan 2022, arXiv 2205.12740): overlap less half of what distance, direction and shape cost, row by
    row. Both [..., 4]. Returns [...], at most 1. shape_power: the paper's theta, 2..6.

    The paper's angle cost 1 - 2 sin^2(arcsin(x) - pi/4) is sin(2 arcsin(x)), twice the product of the offset's sides
    over its square: written so, it needs no arcsin, whose slope is infinite for boxes beside each other.
    """
    offset = _offset(predicted, target)
    angle = 2 * _divided(offset.prod(-1).abs(), offset.square().sum(-1))
    hull = _hull_sides(predicted, target)
    away = _divided(offset.square(), hull.square())
    distance = (1 - torch.exp((angle - 2).unsqueeze(-1) * away)).sum(-1)
    sides = (predicted[..., 2:] - predicted[..., :2]).clamp(min=0)
    wanted = (target[..., 2:] - target[..., :2]).clamp(min=0)
    unlike = _divided((sides - wanted).abs(), torch.maximum(sides, wanted))
    shape = (1 - torch.exp(-unlike)).pow(shape_power).sum(-1)
    return iou(predicted, target) - (distance + shape) / 2


_MEASURES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "iou": iou,
    "giou": giou,
    "diou": diou,
    "ciou": ciou,
    "siou": siou,
}


def compute_iou(
    boxes1: Tensor,
    boxes2: Tensor,
    iou_type: IoUType = "iou",
    *,
    box_format: BoxFormat = "xyxy",
    pairwise: bool = True,
) -> Tensor:
    """How well boxes fit, by any of the measures; equal boxes give 1.

    boxes1: [..., N, 4]; boxes2: [..., M, 4], any unit. Returns the matrix [..., N, M]; with pairwise=False both are
    [..., 4] and are compared row by row: [...]. box_format: `xyxy` or `cxcywh` (centre and sides). Gradients are
    finite also for boxes without a size. Raises UsageError for other names and shapes.
    """
    if iou_type not in _MEASURES:
        raise UsageError(f"{iou_type!r} is no measure of overlap", hint=f"allowed: {', '.join(_MEASURES)}")
    if box_format not in ("xyxy", "cxcywh"):
        raise UsageError(f"{box_format!r} is no format of boxes", hint="allowed: xyxy, cxcywh")
    shapes = [list(boxes.shape) for boxes in (boxes1, boxes2)]
    if any(not shape or shape[-1] != 4 or (pairwise and len(shape) < 2) for shape in shapes):
        raise UsageError(
            f"boxes of the shapes {shapes[0]} and {shapes[1]} cannot be compared",
            hint="needed: [N, 4] and [M, 4]; single boxes with pairwise=False",
        )
    boxes1, boxes2 = (boxes if boxes.is_floating_point() else boxes.float() for boxes in (boxes1, boxes2))
    if box_format == "cxcywh":
        boxes1, boxes2 = from_cxcywh(boxes1), from_cxcywh(boxes2)
    if pairwise:
        boxes1, boxes2 = boxes1.unsqueeze(-2), boxes2.unsqueeze(-3)
    return _MEASURES[iou_type](boxes1, boxes2)
