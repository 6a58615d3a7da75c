# ruff: noqa: TID253
"""Sides of boxes as distributions over uneven bins, and what they learn from (D-FINE, Peng et al. 2024).

A decoder layer predicts, for each side of a box, a distribution over bins 0..N. Their places W(n) are offsets from an
initial box, dense around 0 and sparse far from it. The fine-grained localisation loss (FGL) is the cross-entropy of the
two bins around the true offset, weighted by the overlap that is reached; the decoupled distillation focal loss (DDF)
pulls the distributions of the shallower layers towards those of the last one.
"""

from __future__ import annotations

import torch
from torch import Tensor

TEMPERATURE = 5.0
"""Of both distributions in DDF, as in the original."""


def bin_places(bins: int, bound: Tensor, curvature: Tensor) -> Tensor:
    """W(0)..W(bins), ascending: float [bins + 1] (the paper's weighting function).

    bins: even. bound (`a` in the paper): half of the largest offset, in sides of the initial box; curvature (`c`):
    larger means flatter around 0. Both [1], as the network keeps them.
    """
    most = (bound * curvature).abs()
    inner = torch.arange(1, bins, device=bound.device, dtype=most.dtype) - bins // 2
    offsets = inner.sign() * ((most + 1) ** (2 / (bins - 2) * inner.abs()) - 1)
    return torch.cat((-2 * most, offsets, 2 * most))


def places_of_sides(initial: Tensor, boxes: Tensor, places: Tensor, curvature: Tensor) -> Tensor:
    """Where between the bins the sides of a box lie, seen from an initial box: float [..., 4], left top right bottom.

    initial: [..., 4] cxcywh; boxes: [..., 4] xyxy in the same unit; places: [N + 1] of the bins. 2.25 is a quarter of
    the way from bin 2 to bin 3. Sides beyond the last bins get the last bins.
    """
    scale = curvature.abs()
    sides = initial[..., 2:].clamp(min=1e-9) / scale
    low = (initial[..., :2] - boxes[..., :2]) / sides
    high = (boxes[..., 2:] - initial[..., :2]) / sides
    offsets = (torch.cat((low, high), dim=-1) - scale / 2).contiguous()
    left = (torch.searchsorted(places, offsets, right=True) - 1).clamp(0, len(places) - 2)
    start, end = places[left], places[left + 1]
    return left + ((offsets - start) / (end - start)).clamp(0, 1)


def boxes_of_offsets(initial: Tensor, offsets: Tensor, curvature: Tensor) -> Tensor:
    """The way back: initial: [..., 4] cxcywh; offsets: [..., 4] of the sides, left top right bottom. Returns cxcywh."""
    scale = curvature.abs()
    reach = (scale / 2 + offsets) * (torch.cat((initial[..., 2:], initial[..., 2:]), dim=-1) / scale)
    low, high = initial[..., :2] - reach[..., :2], initial[..., :2] + reach[..., 2:]
    return torch.cat(((low + high) / 2, high - low), dim=-1)


def divergences(students: Tensor, teacher: Tensor) -> Tensor:
    """How far the distributions of some layers are from the teacher's: float [L, B, Q], the mean of the four sides.

    students: [L, B, Q, 4, N + 1] and teacher: [B, Q, 4, N + 1] logits, the latter without gradient.
    """
    target = (teacher.detach() / TEMPERATURE).log_softmax(-1)
    learned = (students / TEMPERATURE).log_softmax(-1)
    return (target.exp() * (target - learned)).sum(-1).mean(-1) * TEMPERATURE**2


def matched_share(matched: Tensor) -> Tensor:
    """Weight of the matched queries of an image against its others in DDF: the square roots of their numbers to each
    other, so that the few are heard. matched: bool [B, Q]. Returns float [B]."""
    roots = torch.stack((matched.sum(-1), (~matched).sum(-1))).float().sqrt()
    return roots[0] / roots.sum(0)


def distillation(values: Tensor, matched: Tensor, others: Tensor, share: Tensor) -> Tensor:
    """DDF image by image: float [L, B]. values: [L, B, Q] divergences, weighted; matched, others: bool [B, Q], averaged
    apart; share: [B] of the matched ones."""
    near, far = _mean_where(values, matched), _mean_where(values, others)
    return near * share + far * (1 - share)


def _mean_where(values: Tensor, chosen: Tensor) -> Tensor:
    """values: [L, B, Q]; chosen: bool [B, Q]. Returns [L, B], 0 where nothing is chosen."""
    return torch.where(chosen, values, 0.0).sum(-1) / chosen.sum(-1).clamp(min=1)
