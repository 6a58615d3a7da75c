# ruff: noqa: TID253
"""The loss of a DETR: class scores of all queries, boxes of the matched ones, layer by layer."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detloom import boxes as geometry
from detloom.detector import ElementLoss, LossTerms, Targets
from detloom.errors import PluginError
from detloom.specs import QUALITY_FLOOR

from .matching import Costs, Pairs, Stack, Truth, match


@dataclass(frozen=True, slots=True)
class TermWeights:
    """Factors of the three terms."""

    classification: float = 1.0
    box: float = 2.0
    l1: float = 5.0


def truth_of(targets: Targets, size: tuple[int, int]) -> Truth:
    """The padded targets in fractions of the input's (height, width)."""
    centred = geometry.normalise(geometry.to_cxcywh(targets.boxes.float()), size)
    return Truth(centred, targets.labels, size)


class DetrCriterion:
    """Terms are sums over queries and objects; the normaliser is the number of objects of the batch.

    A family calls the whole (`criterion(stacks, targets, size)`), or its parts where it adds terms of its own:
    `truth = truth_of(...)`, `pairs = criterion.match(stacks, truth)`, `criterion.terms(stack, pairs, truth)`.
    """

    def __init__(
        self,
        family: str,
        losses: Mapping[str, ElementLoss],
        weights: TermWeights,
        costs: Costs,
        *,
        quality: bool,
    ) -> None:
        """quality: the class loss wants the overlap (IoU) of the matched box as its target, not 1."""
        self.family, self.losses, self.weights, self.costs, self.quality = family, losses, weights, costs, quality

    def __call__(
        self,
        stacks: Sequence[Stack],
        targets: Targets,
        size: tuple[int, int],
        fixed: Sequence[tuple[Stack, Pairs]] = (),
    ) -> LossTerms:
        """stacks: are matched here. fixed: come with their pairs (denoising queries know their object)."""
        truth = truth_of(targets, size)
        terms: dict[str, Tensor] = {}
        for stack, pairs in [*zip(stacks, self.match(stacks, truth), strict=True), *fixed]:
            for name, value in self.terms(stack, pairs, truth).items():
                terms[name] = terms[name] + value if name in terms else value
        return LossTerms(terms, truth.valid.sum().float())

    def match(self, stacks: Sequence[Stack], truth: Truth) -> list[Pairs]:
        return match(stacks, truth, self.costs)

    def terms(self, stack: Stack, pairs: Pairs, truth: Truth) -> dict[str, Tensor]:
        """Weighted sums by name (see Stack.names)."""
        found = gather_queries(stack.boxes.float(), pairs.query)
        wanted = pairs.boxes.expand(len(stack.names), -1, -1, -1)
        # An unmatched row is given its own box as truth: its loss is dropped, and its gradient must be finite.
        wanted = torch.where(pairs.matched.unsqueeze(-1), wanted, found.detach())
        corners, true_corners = self._corners(found, truth), self._corners(wanted, truth)
        sums = {
            "cls": self.weights.classification * self._class_term(stack, pairs, corners, true_corners),
            "l1": self.weights.l1 * _masked_sum((found - wanted).abs().sum(-1), pairs.matched),
            "box": self.weights.box * self._box_term(corners, true_corners, pairs.matched),
        }
        return by_name(sums, stack)

    def _corners(self, boxes: Tensor, truth: Truth) -> Tensor:
        """cxcywh in 0..1 to xyxy in pixels of the network input."""
        return geometry.from_cxcywh(boxes) * geometry.limits(truth.size, boxes)

    def _class_term(self, stack: Stack, pairs: Pairs, corners: Tensor, true_corners: Tensor) -> Tensor:
        """[L]."""
        logits = stack.logits.float()
        quality = torch.ones_like(corners[..., 0])
        if self.quality:
            quality = geometry.iou(corners.detach(), true_corners).clamp(min=QUALITY_FLOOR)
        wanted = class_targets(logits, pairs, quality)
        values = self._role("classification")(logits.flatten(0, 2), wanted.flatten(0, 2)).view(logits.shape)
        if pairs.counted is not None:
            values = torch.where(pairs.counted[None, :, :, None], values, 0.0)
        return values.sum((1, 2, 3))

    def _box_term(self, corners: Tensor, true_corners: Tensor, matched: Tensor) -> Tensor:
        """[L]."""
        values = self._role("box")(corners.flatten(0, 2), true_corners.flatten(0, 2))
        return _masked_sum(values.view(matched.shape), matched)

    def _role(self, role: str) -> ElementLoss:
        if role not in self.losses:
            raise PluginError(
                f"{self.family} cannot train: no loss was built for the role `{role}`",
                hint=f"name one in `loss.{role}`; `detloom plugins list` shows what is installed",
            )
        return self.losses[role]


def gather_queries(values: Tensor, query: Tensor) -> Tensor:
    """values: [L, B, Q, D]; query: int64 [L, B, K]. Returns [L, B, K, D]."""
    return values.gather(2, query.unsqueeze(-1).expand(-1, -1, -1, values.shape[-1]))


def class_targets(logits: Tensor, pairs: Pairs, quality: Tensor) -> Tensor:
    """logits: [L, B, Q, C]; quality: [L, B, K]. Returns [L, B, Q, C]: `quality` at the class of a query's object, else
    0."""
    layers, batch, queries, classes = logits.shape
    place = pairs.query * classes + pairs.labels.clamp(min=0)
    # What is not matched writes into one more place that is cut off.
    place = torch.where(pairs.matched, place, queries * classes)
    flat = logits.new_zeros(layers, batch, queries * classes + 1)
    flat = flat.scatter(2, place, torch.where(pairs.matched, quality.to(flat), 0.0))
    return flat[..., :-1].view(layers, batch, queries, classes)


def by_name(sums: Mapping[str, Tensor], stack: Stack) -> dict[str, Tensor]:
    """sums: [L] for each kind of term. Returns scalars: `loss_<kind>` for the layer without a name, `loss_<name>` with
    all kinds together for the others."""
    terms: dict[str, Tensor] = {}
    start = 0
    for name, layers in itertools.groupby(stack.names):
        end = start + len(list(layers))
        for kind, values in sums.items():
            key = f"loss_{name or kind}"
            value = values[start:end].sum() * stack.scale
            terms[key] = terms[key] + value if key in terms else value
        start = end
    return terms


def _masked_sum(values: Tensor, matched: Tensor) -> Tensor:
    """[L, B, K] to [L]."""
    return torch.where(matched, values, 0.0).sum((1, 2))
