# ruff: noqa: TID253
"""Contrastive denoising (Zhang et al. 2022, "DINO", section 3.3): noisy copies of the objects as extra queries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .matching import Pairs, Stack, Truth


@dataclass(frozen=True, slots=True)
class Noise:
    """queries: about how many noisy copies in an image. label: half of this share gets a random class. box: how far
    edges move, in halves of the box's side (positive copies at most once, negative ones once to twice)."""

    queries: int = 100
    label: float = 0.5
    box: float = 1.0


@dataclass(slots=True)
class NoisyQueries:
    """content: [B, D, E] embedded classes; reference: [B, D, 4] boxes before the sigmoid; D = groups * 2 * width.

    A group holds each object once near (to be put right) and once far (to be told apart); width: rows of the padded
    targets.
    """

    content: Tensor
    reference: Tensor
    groups: int
    width: int

    @property
    def count(self) -> int:
        return self.content.shape[1]


def noisy_queries(truth: Truth, embed: nn.Embedding, noise: Noise) -> NoisyQueries | None:
    """None when `noise.queries` is 0. embed: one row a class and a last one for padding.

    The number of groups follows the padded width, so that nothing is read from the device; random numbers come from
    torch's generator of the device, which the loop seeds for every step.
    """
    if noise.queries == 0:
        return None
    width = truth.labels.shape[1]
    groups = max(noise.queries // width, 1)
    classes = embed.num_embeddings - 1
    valid = truth.valid.repeat(1, 2 * groups)
    labels = torch.where(truth.valid, truth.labels, classes).repeat(1, 2 * groups)
    changed = torch.rand(labels.shape, device=labels.device) < 0.5 * noise.label
    other = torch.randint(0, classes, labels.shape, device=labels.device)
    labels = torch.where(changed & valid, other, labels)
    boxes = truth.boxes.repeat(1, 2 * groups, 1)
    far = torch.arange(2 * groups, device=labels.device).repeat_interleave(width) % 2 == 1
    reference = _inverse_sigmoid(_moved(boxes, far, noise.box))
    return NoisyQueries(embed(labels), reference, groups, width)


def _moved(boxes: Tensor, far: Tensor, scale: float) -> Tensor:
    """boxes: [B, D, 4] cxcywh; far: bool [D]. Each edge moves by up to half the side, far ones by half to a whole."""
    half = boxes[..., 2:] / 2
    corners = torch.cat((boxes[..., :2] - half, boxes[..., :2] + half), dim=-1)
    share = torch.rand_like(boxes) + far[None, :, None]
    sign = torch.randint_like(boxes, 0, 2) * 2 - 1
    corners = (corners + sign * share * scale * half.repeat(1, 1, 2)).clamp(0, 1)
    return torch.cat(((corners[..., :2] + corners[..., 2:]) / 2, corners[..., 2:] - corners[..., :2]), dim=-1)


def _inverse_sigmoid(values: Tensor, eps: float = 1e-5) -> Tensor:
    values = values.clamp(0, 1)
    return torch.log(values.clamp(min=eps) / (1 - values).clamp(min=eps))


def attention_mask(noisy: NoisyQueries, queries: int) -> Tensor:
    """float [D + Q, D + Q], minus infinity where looking is forbidden: the real queries must not see the copies (they
    hold the answers), and no group another one."""
    device = noisy.content.device
    group = torch.arange(noisy.count, device=device) // (2 * noisy.width)
    group = torch.cat((group, torch.full((queries,), -1, device=device)))
    seen = group[None, :]
    forbidden = (seen != group[:, None]) & (seen >= 0)
    return torch.zeros(forbidden.shape, device=device).masked_fill(forbidden, -torch.inf)


def denoising_pairs(stack: Stack, truth: Truth, groups: int) -> Pairs:
    """The pairs of noisy queries: each near copy belongs to the object it was made from. The class scores of copies of
    padded rows are not judged."""
    batch, width = truth.labels.shape
    layers = stack.logits.shape[0]
    start = torch.arange(groups, device=truth.labels.device) * (2 * width)
    query = (start[:, None] + torch.arange(width, device=start.device)[None, :]).flatten()
    matched = truth.valid.repeat(1, groups)
    return Pairs(
        query=query.expand(layers, batch, -1),
        matched=matched.expand(layers, -1, -1),
        boxes=truth.boxes.repeat(1, groups, 1),
        labels=truth.labels.repeat(1, groups),
        counted=truth.valid.repeat(1, 2 * groups),
    )
