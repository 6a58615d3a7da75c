# ruff: noqa: TID253
"""SimOTA: which anchors learn which object (Ge et al. 2021, section 2.3), for all images of a batch at once.

The original walks over images and objects. Here every step has a shape that follows from the shapes of its inputs:
no loop over objects and nothing is read back from the device. An object's candidates lie in a small window around
its centre on each stride, so that costs are computed for G x windows anchors instead of all N.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from detloom.boxes import pairwise_iou
from detloom.detector import Targets

from .grid import Grid

OUTSIDE_COST = 1e6
"""Added for anchors away from the object's own centre: taken only when the near ones are used up."""
IOU_COST = 3.0
PAIRS_AT_ONCE = 1 << 20
"""Object-anchor pairs costed at a time: 4 MB for each of about ten temporary tensors, which suits caches."""


@dataclass(frozen=True, slots=True)
class Rule:
    """topk: most anchors of one object; radius: of the centre window, in strides."""

    topk: int = 10
    radius: float = 1.5


@dataclass(frozen=True, slots=True)
class Candidates:
    """Anchors that may learn something. index: int64 [B, M] into the anchors, 0 where unused; used: bool [B, M]."""

    index: Tensor
    used: Tensor

    def take(self, values: Tensor) -> Tensor:
        """values: [B, N, K]. Returns [B, M, K]."""
        return values.gather(1, self.index.unsqueeze(-1).expand(-1, -1, values.shape[-1]))

    def slice(self, rows: slice) -> Candidates:
        return Candidates(self.index[rows], self.used[rows])


@dataclass(frozen=True, slots=True)
class Predictions:
    """Of the candidates, without gradient. boxes: [B, M, 4] xyxy pixels; logits: [B, M, C]; objectness: [B, M, 1]."""

    boxes: Tensor
    logits: Tensor
    objectness: Tensor

    def slice(self, rows: slice) -> Predictions:
        return Predictions(self.boxes[rows], self.logits[rows], self.objectness[rows])


@dataclass(frozen=True, slots=True)
class Assignment:
    """matched: bool [B, M]; owner: int64 [B, M], row of the targets; iou: [B, M] of the anchor's box with its
    object. owner and iou mean something where matched."""

    matched: Tensor
    owner: Tensor
    iou: Tensor


def find_candidates(grid: Grid, targets: Targets, rule: Rule) -> Candidates:
    """Anchors within the radius of any object's centre, ascending, each once."""
    images, anchors = targets.labels.shape[0], grid.cells.shape[0]
    index, inside = _windows(grid, targets.boxes, rule.radius)
    index = torch.where(inside & targets.valid.unsqueeze(-1), index, anchors).flatten(1)
    width = min(anchors, index.shape[1])
    # One slot more than there are anchors takes what is outside and is cut off again.
    near = index.new_zeros(images, anchors + 1).scatter_(1, index, 1)[:, :-1]
    slots = torch.where(near > 0, near.cumsum(1) - 1, width)
    every = torch.arange(anchors, device=index.device).expand(images, -1)
    packed = index.new_zeros(images, width + 1).scatter_(1, slots, every)[:, :-1]
    used = torch.arange(width, device=index.device) < near.sum(1, keepdim=True)
    return Candidates(torch.where(used, packed, 0), used)


def _windows(grid: Grid, boxes: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """boxes: [B, G, 4]. Returns the anchors [B, G, W] of a square around each centre on each stride, and whether
    each exists and lies within the radius: bool."""
    rows, columns, strides = grid.levels.unsqueeze(-1).unbind(1)  # each [L, 1]
    starts = (rows * columns).cumsum(0) - rows * columns
    # float64: exact for the strides, which are powers of two.
    cell = _centres(boxes).double().unsqueeze(2) / strides  # [B, G, L, 2]
    first = torch.floor(cell - radius - 0.5).long() + 1
    steps = torch.arange(math.ceil(2 * radius), device=boxes.device)
    places = first.unsqueeze(-1) + steps  # [B, G, L, 2, S]
    within = (places >= 0) & (places + 0.5 < cell.unsqueeze(-1) + radius)
    (x, y), (in_x, in_y) = places.unbind(3), within.unbind(3)
    inside = (in_y & (y < rows)).unsqueeze(-1) & (in_x & (x < columns)).unsqueeze(-2)
    index = starts.unsqueeze(-1) + y.unsqueeze(-1) * columns.unsqueeze(-1) + x.unsqueeze(-2)
    return index.flatten(2), inside.flatten(2)


def _centres(boxes: Tensor) -> Tensor:
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def assign(grid: Grid, candidates: Candidates, predictions: Predictions, targets: Targets, rule: Rule) -> Assignment:
    """Match candidates to objects. Everything in float32, without gradient."""
    images, objects = targets.labels.shape
    pairs = max(objects * candidates.index.shape[1], 1)
    step = max(PAIRS_AT_ONCE // pairs, 1)
    parts = []
    for start in range(0, images, step):
        rows = slice(start, start + step)
        parts.append(_assign(grid, candidates.slice(rows), predictions.slice(rows), targets.slice(rows), rule))
    return Assignment(
        torch.cat([part.matched for part in parts]),
        torch.cat([part.owner for part in parts]),
        torch.cat([part.iou for part in parts]),
    )


def _assign(grid: Grid, candidates: Candidates, predictions: Predictions, targets: Targets, rule: Rule) -> Assignment:
    possible = targets.valid.unsqueeze(2) & candidates.used.unsqueeze(1)  # [B, G, M]
    iou = torch.where(possible, pairwise_iou(targets.boxes, predictions.boxes), 0.0)
    away = ~_own_centre(grid, candidates, targets.boxes, rule.radius)
    cost = _class_cost(predictions, targets.labels) - IOU_COST * (iou + 1e-8).log() + OUTSIDE_COST * away
    cost = torch.where(possible, cost, torch.inf)

    # Dynamic k: an object gets as many anchors as the best boxes already overlap it in sum.
    most = min(rule.topk, cost.shape[2])
    wanted = iou.topk(most, dim=2).values.sum(2).int().clamp(min=1)
    cheapest = cost.topk(most, dim=2, largest=False)
    chosen = torch.arange(most, device=cost.device) < wanted.unsqueeze(2)
    chosen = (chosen & cheapest.values.isfinite()).long()

    # An anchor wanted by several objects goes to the one that costs it least.
    flat = cheapest.indices.flatten(1)
    nothing = torch.zeros_like(candidates.index)
    claims = nothing.scatter_add(1, flat, chosen.flatten(1))
    row = torch.arange(cost.shape[1], device=cost.device)[:, None]
    owner = nothing.scatter_add(1, flat, (chosen * row).flatten(1))
    owner = torch.where(claims > 1, cost.argmin(1), owner)
    return Assignment(claims > 0, owner, iou.gather(1, owner.unsqueeze(1)).squeeze(1))


def _own_centre(grid: Grid, candidates: Candidates, boxes: Tensor, radius: float) -> Tensor:
    """bool [B, G, M]: whether the candidate lies within the radius of this object's centre."""
    reach = (grid.strides[candidates.index] * radius).mT  # [B, 1, M]
    (x, y), (own_x, own_y) = grid.centres[candidates.index].unbind(-1), _centres(boxes).unbind(-1)
    near_x = (x.unsqueeze(1) - own_x.unsqueeze(2)).abs() < reach
    near_y = (y.unsqueeze(1) - own_y.unsqueeze(2)).abs() < reach
    return near_x & near_y


def _class_cost(predictions: Predictions, labels: Tensor) -> Tensor:
    """Cross-entropy of sqrt(class x objectness) with each object's class, summed over classes: [B, G, M].

    Only the object's own class differs between objects of an image, so that [B, G, M, C] is never built.
    """
    score = (predictions.logits.sigmoid() * predictions.objectness.sigmoid()).sqrt()
    # Logarithms end at -100, as in torch's binary_cross_entropy.
    hit = -score.log().clamp(min=-100)
    miss = -torch.log1p(-score).clamp(min=-100)
    rows = labels.clamp(min=0).unsqueeze(2).expand(-1, -1, score.shape[1])
    own = (hit - miss).transpose(1, 2).gather(1, rows)
    return own + miss.sum(2).unsqueeze(1)
