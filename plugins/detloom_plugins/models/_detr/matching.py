# ruff: noqa: TID253
"""Who learns which object: the cheapest assignment of queries to objects (Carion et al. 2020, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detloom import boxes as geometry

IMPOSSIBLE = 1e9
"""Cost of a pair that is not a number: taken only when nothing else is left."""


@dataclass(slots=True)
class Stack:
    """Predictions of several layers; each layer is matched and judged by itself.

    logits: [L, B, Q, C]; boxes: [L, B, Q, 4] cxcywh in 0..1. names: of the L layers: `""` for the one whose terms are
    reported apart (`loss_cls`, `loss_l1`, `loss_box`), else the word that its sum is reported under (`aux` gives
    `loss_aux`); layers may share one. scale: factor of all terms of this stack. cost: [L, B, Q, G], what a family adds
    to the costs of the matching.
    """

    logits: Tensor
    boxes: Tensor
    names: tuple[str, ...]
    scale: float = 1.0
    cost: Tensor | None = None


@dataclass(slots=True)
class Truth:
    """Objects of a batch as DETRs see them. boxes: float32 [B, G, 4] cxcywh in 0..1; labels: int64 [B, G], -1 where
    padded; size: (height, width) of the network input in pixels."""

    boxes: Tensor
    labels: Tensor
    size: tuple[int, int]

    @property
    def valid(self) -> Tensor:
        """bool [B, G]."""
        return self.labels >= 0


@dataclass(slots=True)
class Pairs:
    """Which query learns which object, for every layer of a stack.

    query: int64 [L, B, K], 0 where unmatched; matched: bool [L, B, K]; boxes: [B, K, 4] and labels: [B, K] are the
    objects. counted: bool [B, Q], queries whose class scores are judged; None: all.
    """

    query: Tensor
    matched: Tensor
    boxes: Tensor
    labels: Tensor
    counted: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Costs:
    """Weights of the matching; alpha and gamma shape its focal class cost.

    product_power: above 0, all of these give way to class score times IoU to this power (Huang et al. 2025).
    """

    classification: float = 2.0
    l1: float = 5.0
    overlap: float = 2.0
    alpha: float = 0.25
    gamma: float = 2.0
    product_power: float = 0.0


@torch.no_grad()
def pair_costs(stack: Stack, truth: Truth, costs: Costs) -> Tensor:
    """float32 [L, B, Q, G]: what it costs that this query takes this object; infinite where padded."""
    layers, batch, queries, _ = stack.logits.shape
    labels = truth.labels.clamp(min=0)[None, :, None, :].expand(layers, batch, queries, -1)
    logits = stack.logits.detach().float().gather(3, labels)
    found, wanted = stack.boxes.detach().float(), truth.boxes.float()
    if costs.product_power > 0:
        overlap = geometry.pairwise_iou(geometry.from_cxcywh(found), geometry.from_cxcywh(wanted))
        cost = -logits.sigmoid() * overlap.pow(costs.product_power)
    else:
        cost = _focal_cost(logits, costs) + costs.l1 * _pairwise_l1(found, wanted)
        cost = cost - costs.overlap * _pairwise_giou(found, wanted)
    if stack.cost is not None:
        cost = cost + stack.cost
    cost = torch.nan_to_num(cost, nan=IMPOSSIBLE, posinf=IMPOSSIBLE, neginf=IMPOSSIBLE)
    return cost.masked_fill(~truth.valid[None, :, None, :], torch.inf)


def _focal_cost(logits: Tensor, costs: Costs) -> Tensor:
    """logits of each object's class. What the focal loss would lose by taking the object, less what it loses now."""
    score = logits.sigmoid()
    # -log p and -log(1 - p) from the logits: exact where 16 bits of a score would be 0 or 1.
    hit = costs.alpha * (1 - score).pow(costs.gamma) * torch.nn.functional.softplus(-logits)
    miss = (1 - costs.alpha) * score.pow(costs.gamma) * torch.nn.functional.softplus(logits)
    return costs.classification * (hit - miss)


def _pairwise_l1(rows: Tensor, columns: Tensor) -> Tensor:
    """rows: [..., R, 4]; columns: [..., C, 4]. Returns [..., R, C]; coordinate by coordinate, which is faster than
    `torch.cdist` and works in every precision."""
    pairs = zip(rows.unsqueeze(-2).unbind(-1), columns.unsqueeze(-3).unbind(-1), strict=True)
    return torch.stack([(a - b).abs() for a, b in pairs]).sum(0)


def _pairwise_giou(rows: Tensor, columns: Tensor) -> Tensor:
    first, second = geometry.from_cxcywh(rows), geometry.from_cxcywh(columns)
    return geometry.giou(first.unsqueeze(-2), second.unsqueeze(-3))


@torch.no_grad()
def match(stacks: Sequence[Stack], truth: Truth, costs: Costs) -> list[Pairs]:
    """The pairs of every stack. All costs go to the host in one copy: that is the one wait of a training step."""
    priced = [pair_costs(stack, truth, costs) for stack in stacks]
    host = torch.cat([cost.flatten() for cost in priced]).cpu().numpy()
    found: list[NDArray[np.int64]] = []
    start = 0
    for cost in priced:
        block = host[start : start + cost.numel()].reshape(cost.shape)
        start += cost.numel()
        found.append(assign(block))
    packed = torch.from_numpy(np.concatenate([owners.reshape(-1) for owners in found]))
    device = truth.labels.device
    if device.type == "cuda":
        packed = packed.pin_memory()
    packed = packed.to(device, non_blocking=True)
    shapes = [owners.shape for owners in found]
    parts = torch.split(packed, [owners.size for owners in found])
    pairs = []
    for part, shape in zip(parts, shapes, strict=True):
        owners = part.view(shape)
        pairs.append(Pairs(owners.clamp(min=0), owners >= 0, truth.boxes, truth.labels))
    return pairs


def assign(cost: NDArray[np.float32]) -> NDArray[np.int64]:
    """cost: [L, B, Q, G], infinite in the columns that are no objects. Returns int64 [L, B, G]: the query of each
    object, -1 for none (padding, or more objects than queries)."""
    from scipy.optimize import linear_sum_assignment

    layers, batch, _, width = cost.shape
    owners = np.full((layers, batch, width), -1, dtype=np.int64)
    columns = [np.flatnonzero(np.isfinite(cost[0, image, 0])) for image in range(batch)]
    for layer in range(layers):
        for image, objects in enumerate(columns):
            if len(objects):
                queries, taken = linear_sum_assignment(cost[layer, image][:, objects])
                owners[layer, image, objects[taken]] = queries
    return owners
