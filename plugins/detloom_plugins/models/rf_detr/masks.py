# ruff: noqa: TID253
"""Masks of queries: matching costs and loss terms on sampled points (Kirillov et al. 2020, "PointRend"; Cheng et al.
2022, "Mask2Former", section 3.3).

A mask is the product of a query's features with a map of features. Training has thousands of queries (groups times
queries times layers): the masks of all of them are never computed, only their values at the points of the matching, and
the whole masks of those that were matched. Points are random in training and the same for every object of a step, so
that neither padding nor the size of a micro-batch changes them; an evaluation looks at every pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

OVERSAMPLING, UNCERTAIN_FRAC = 3, 0.75
"""Of three times as many random points, the least certain give three quarters; the rest is random."""


@dataclass(frozen=True, slots=True)
class MaskLayers:
    """What the masks of all layers are made of.

    maps: of each layer, [B, D, h, w]; queries: of each layer, [B, groups * Q, D]; bias: [1].
    """

    maps: Sequence[Tensor]
    queries: Sequence[Tensor]
    bias: Tensor

    def __post_init__(self) -> None:
        assert len(self.maps) == len(self.queries)


@dataclass(frozen=True, slots=True)
class MaskWeights:
    """Factors of the two terms and of the two matching costs. point_ratio: pixels of a mask a point."""

    mask: float
    dice: float
    mask_cost: float
    dice_cost: float
    point_ratio: int

    def points(self, height: int, width: int) -> int:
        return max(height, height * width // self.point_ratio)


def mask_logits(queries: Tensor, features: Tensor, bias: Tensor) -> Tensor:
    """queries: [B, N, D]; features: [B, D, h, w]. Returns [B, N, h, w]."""
    return torch.unflatten(queries @ features.flatten(2), 2, features.shape[2:]) + bias


def at_points(images: Tensor, points: Tensor) -> Tensor:
    """Bilinear values; outside the image is 0. images: [N, C, h, w]; points: [N, P, 2], (x, y) in 0..1. Returns
    [N, C, P]."""
    return F.grid_sample(images, 2 * points.unsqueeze(2) - 1, align_corners=False).squeeze(3)


def truth_at_points(masks: Tensor, points: Tensor) -> Tensor:
    """Values of the nearest pixels. masks: uint8 [..., H, W]; points: [..., P, 2], leading dimensions as those of the
    masks. Returns float32 [..., P]. Reads bytes where they are: nothing is copied to floats."""
    height, width = masks.shape[-2:]
    scale = points.new_tensor([width, height])
    last = points.new_tensor([width - 1, height - 1])
    column, row = torch.minimum((points * scale - 0.5).round().clamp(min=0), last).long().unbind(-1)
    return masks.flatten(-2).gather(-1, row * width + column).float()


@torch.no_grad()
def mask_costs(layers: MaskLayers, masks: Tensor, groups: int, weights: MaskWeights, *, sampled: bool = True) -> Tensor:
    """[layers * groups, B, Q, G], for every query and object. masks: uint8 [B, G, H, W]. An object without a mask costs
    nothing. sampled: at random points instead of every pixel of the predicted mask."""
    batch, _, height, width = layers.maps[0].shape
    points = pixel_centres(height, width, masks.device)
    if sampled:
        points = torch.rand(1, weights.points(height, width), 2, device=masks.device)
    points = points.expand(batch, -1, -1)
    truth = truth_at_points(masks, points.unsqueeze(1).expand(-1, masks.shape[1], -1, -1))
    there = has_mask(masks)[:, None, :]
    costs = []
    for features, queries in zip([map_.float() for map_ in layers.maps], layers.queries, strict=True):
        # The share of a point that lies inside the map: the bias counts no more than the features do.
        inside = at_points(torch.ones_like(features[:, :1]), points)
        logits = queries.float() @ at_points(features, points) + layers.bias.float() * inside
        cost = weights.mask_cost * _pairwise_cross_entropy(logits, truth)
        cost = cost + weights.dice_cost * _pairwise_dice(logits.sigmoid(), truth)
        costs.append(torch.unflatten(torch.where(there, cost, 0.0), 1, (groups, -1)).transpose(0, 1))
    return torch.cat(costs)


def has_mask(masks: Tensor) -> Tensor:
    """bool [B, G]: some objects have a box alone, and some vanish when their picture is made smaller."""
    return masks.flatten(2).amax(2) > 0


def _pairwise_cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """logits: [B, Q, P]; truth: [B, G, P]. Returns [B, Q, G], means over the points."""
    # softplus(x) - x * t: what t = 1 and t = 0 cost, at once.
    inner = logits @ truth.transpose(1, 2)
    return (F.softplus(logits).sum(2, keepdim=True) - inner) / logits.shape[2]


def _pairwise_dice(scores: Tensor, truth: Tensor) -> Tensor:
    """Both [B, ..., P], scores in 0..1. Returns [B, Q, G]."""
    both = scores @ truth.transpose(1, 2)
    return 1 - (2 * both + 1) / (scores.sum(2).unsqueeze(2) + truth.sum(2).unsqueeze(1) + 1)


@dataclass(frozen=True, slots=True)
class MatchedMasks:
    """query: int64 [layers, B, K], into groups * Q; matched: bool [layers, B, K]; K = groups * G rows, group by
    group."""

    query: Tensor
    matched: Tensor


def grouped(query: Tensor, matched: Tensor, groups: int, queries: int) -> MatchedMasks:
    """Pairs of layers and groups, both [layers * groups, B, G], as pairs of layers with the queries of all groups."""
    shift = torch.arange(groups, device=query.device) * queries
    query = torch.unflatten(query, 0, (-1, groups)) + shift[:, None, None]
    matched = torch.unflatten(matched, 0, (-1, groups))
    return MatchedMasks(query.transpose(1, 2).flatten(2), matched.transpose(1, 2).flatten(2))


def mask_terms(
    layers: MaskLayers, masks: Tensor, pairs: MatchedMasks, weights: MaskWeights, *, sampled: bool = True
) -> dict[str, Tensor]:
    """Weighted sums over the matched objects, [layers] each. masks: uint8 [B, G, H, W]. sampled: at points where the
    predicted mask is undecided instead of all of its pixels."""
    sums: dict[str, list[Tensor]] = {"mask": [], "dice": []}
    groups = pairs.query.shape[2] // masks.shape[1]
    there = has_mask(masks).repeat(1, groups)
    for number, (features, queries) in enumerate(zip(layers.maps, layers.queries, strict=True)):
        chosen = queries.gather(1, pairs.query[number].unsqueeze(-1).expand(-1, -1, queries.shape[2]))
        logits = mask_logits(chosen.float(), features.float(), layers.bias.float())
        height, width = logits.shape[2:]
        points = pixel_centres(height, width, masks.device).expand(*logits.shape[:2], -1, -1)
        if sampled:
            points = uncertain_points(logits, weights.points(height, width))
        truth = truth_at_points(
            masks.unsqueeze(1).expand(-1, groups, -1, -1, -1), torch.unflatten(points, 1, (groups, -1))
        ).flatten(1, 2)
        counted = pairs.matched[number] & there
        # Rows of nothing keep values that are finite: what is cut off must not come back as NaN in the gradient.
        found = at_points(logits.flatten(0, 1).unsqueeze(1), points.flatten(0, 1)).view(truth.shape)
        entropy = F.binary_cross_entropy_with_logits(found, truth, reduction="none").mean(2)
        sums["mask"].append(weights.mask * torch.where(counted, entropy, 0.0).sum())
        sums["dice"].append(weights.dice * torch.where(counted, _dice(found.sigmoid(), truth), 0.0).sum())
    return {name: torch.stack(values) for name, values in sums.items()}


def _dice(scores: Tensor, truth: Tensor) -> Tensor:
    """Both [B, K, P]. Returns [B, K]."""
    return 1 - (2 * (scores * truth).sum(2) + 1) / (scores.sum(2) + truth.sum(2) + 1)


@torch.no_grad()
def uncertain_points(logits: Tensor, count: int) -> Tensor:
    """logits: [B, K, h, w]. Returns [B, K, count, 2], (x, y) in 0..1: mostly where the mask is undecided."""
    batch, rows = logits.shape[:2]
    points = torch.rand(1, OVERSAMPLING * count, 2, device=logits.device).expand(batch, -1, -1)
    chosen = int(UNCERTAIN_FRAC * count)
    least = at_points(logits, points).abs().topk(chosen, dim=2, largest=False).indices
    points = points.unsqueeze(1).expand(-1, rows, -1, -1).gather(2, least.unsqueeze(-1).expand(-1, -1, -1, 2))
    rest = torch.rand(1, count - chosen, 2, device=logits.device).expand(batch, rows, -1, -1)
    return torch.cat((points, rest), dim=2)


def pixel_centres(height: int, width: int, device: torch.device) -> Tensor:
    """[1, height * width, 2], (x, y) in 0..1."""
    y, x = torch.meshgrid(
        (torch.arange(height, device=device) + 0.5) / height,
        (torch.arange(width, device=device) + 0.5) / width,
        indexing="ij",
    )
    return torch.stack((x, y), dim=-1).view(1, -1, 2)
