# ruff: noqa: TID253
"""Geometry of boxes as tensors: xyxy in pixels, any float type, gradients safe at degenerate boxes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_EPS = 1e-7
"""Square pixels: keeps divisions finite and is far below what a box of one pixel has."""


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
    height, width = size
    limit = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limit)


def normalise(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """boxes: [..., 4] in pixels, any of the codings. Returns fractions of (height, width)."""
    height, width = size
    return boxes / boxes.new_tensor([width, height, width, height])


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


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union, row by row. Both [..., 4] xyxy (broadcast). Returns [...] in 0..1."""
    intersection, union = _intersection_union(first, second)
    return intersection / (union + _EPS)


def pairwise_iou(rows: Tensor, columns: Tensor) -> Tensor:
    """rows: [..., R, 4]; columns: [..., C, 4]. Returns [..., R, C].

    Coordinate by coordinate: an innermost dimension of two would keep the processor from its wide registers.
    """
    left, top, right, bottom = rows.unsqueeze(-2).unbind(-1)
    left2, top2, right2, bottom2 = columns.unsqueeze(-3).unbind(-1)
    width = torch.minimum(right, right2).sub(torch.maximum(left, left2)).clamp(min=0)
    height = torch.minimum(bottom, bottom2).sub(torch.maximum(top, top2)).clamp(min=0)
    intersection = width * height
    return intersection / (areas(rows).unsqueeze(-1) + areas(columns).unsqueeze(-2) - intersection + _EPS)


def _hull_sides(first: Tensor, second: Tensor) -> Tensor:
    """Width and height [..., 2] of the smallest box around both."""
    low = torch.minimum(first[..., :2], second[..., :2])
    high = torch.maximum(first[..., 2:], second[..., 2:])
    return (high - low).clamp(min=0)


def giou(first: Tensor, second: Tensor) -> Tensor:
    """Generalised IoU (Rezatofighi et al. 2019), row by row. Both [..., 4]. Returns [...] in -1..1."""
    intersection, union = _intersection_union(first, second)
    sides = _hull_sides(first, second)
    hull = sides[..., 0] * sides[..., 1]
    return intersection / (union + _EPS) - (hull - union) / (hull + _EPS)


def ciou(predicted: Tensor, target: Tensor) -> Tensor:
    """Complete IoU (Zheng et al. 2020, eq. 10-12), row by row. Both [..., 4]. Returns [...], at most 1.

    The weight of the aspect-ratio term is a constant for the gradient, as in the paper's code.
    """
    overlap = iou(predicted, target)
    sides = _hull_sides(predicted, target)
    offset = (predicted[..., :2] + predicted[..., 2:] - target[..., :2] - target[..., 2:]) / 2
    distance = offset.square().sum(-1) / (sides.square().sum(-1) + _EPS)
    aspect = (4 / math.pi**2) * (_aspect_angle(target) - _aspect_angle(predicted)).square()
    with torch.no_grad():
        weight = aspect / (1 - overlap + aspect + _EPS)
    return overlap - distance - weight * aspect


def _aspect_angle(boxes: Tensor) -> Tensor:
    width, height = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).unbind(-1)
    return torch.atan(width / (height + _EPS))
