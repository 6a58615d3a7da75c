# ruff: noqa: TID253
"""Pairs of queries and objects that several layers share, and values of pairs brought back to the queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detloom import boxes as geometry

from .._detr.criterion import gather_queries
from .._detr.matching import Pairs, Stack, Truth


@dataclass(slots=True)
class Weighted:
    """Pairs that boxes learn from. weight: float [L or 1, B, K], 0 where unmatched."""

    pairs: Pairs
    weight: Tensor


@torch.no_grad()
def union(pairs: Sequence[Pairs], truth: Truth, queries: int) -> Weighted:
    """Every query that any layer matched, with the object that most layers gave it (Peng et al. 2024, section 4.2).

    An image's weights sum to its number of objects, whatever the number of its pairs.
    """
    batch, width = truth.labels.shape
    votes = torch.zeros(batch, (queries + 1) * width, device=truth.labels.device)
    column = torch.arange(width, device=votes.device)
    layers = 0
    for part in pairs:
        layers += len(part.query)
        # What is unmatched votes in one more row, which is cut off.
        place = torch.where(part.matched, part.query, queries) * width + column
        place = place.transpose(0, 1).flatten(1)
        votes.scatter_add_(1, place, torch.ones_like(place, dtype=votes.dtype))
    most, owner = votes.view(batch, queries + 1, width)[:, :-1].max(-1)
    # No more pairs than this can exist: a bound that needs no look at the device.
    found = most.topk(min(queries, layers * width), dim=1)
    matched = found.values > 0
    row = owner.gather(1, found.indices)
    boxes = truth.boxes.gather(1, row.unsqueeze(-1).expand(-1, -1, 4))
    share = truth.valid.sum(1) / matched.sum(1).clamp(min=1)
    together = Pairs(found.indices.unsqueeze(0), matched.unsqueeze(0), boxes, truth.labels.gather(1, row))
    return Weighted(together, (matched * share.unsqueeze(1)).unsqueeze(0))


def boxes_of(stack: Stack, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Predicted and true boxes of pairs, both [L, B, K, 4]. A row without an object gets its own box as truth: what is
    computed of it is dropped, and its gradient must be finite."""
    layers = len(stack.names)
    found = gather_queries(stack.boxes.float(), pairs.query.expand(layers, -1, -1))
    return found, torch.where(pairs.matched.unsqueeze(-1), pairs.boxes, found.detach())


def overlap_of(stack: Stack, pairs: Pairs) -> Tensor:
    """IoU of the predicted and true boxes of pairs, without gradient: [L, B, K]."""
    found, wanted = boxes_of(stack, pairs)
    return geometry.iou(geometry.from_cxcywh(found.detach()), geometry.from_cxcywh(wanted))


def on_queries(stack: Stack, boxed: Weighted, values: Tensor | None = None) -> Tensor:
    """Values [L, B, K] of pairs at their queries: [L, B, Q], 0 elsewhere. Without values: bool, whether a query has an
    object."""
    layers, batch, queries, _ = stack.logits.shape
    place = torch.where(boxed.pairs.matched, boxed.pairs.query, queries).expand(layers, -1, -1)
    source = torch.ones_like(place, dtype=torch.float32) if values is None else values
    spread = source.new_zeros(layers, batch, queries + 1).scatter(2, place, source)[..., :-1]
    return spread > 0 if values is None else spread
