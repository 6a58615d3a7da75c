# ruff: noqa: TID253
"""The loss of D-FINE and DEIMv2: classes from each layer's own pairs, boxes and their sides from all layers' pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detloom import boxes as geometry
from detloom.detector import ElementLoss, LossTerms

from .._detr.criterion import DetrCriterion, TermWeights, by_name, gather_queries
from .._detr.denoising import denoising_pairs
from .._detr.matching import Costs, Pairs, Stack, Truth
from .distribution import bin_places, distillation, divergences, matched_share, places_of_sides
from .pairing import Weighted, boxes_of, on_queries, overlap_of, union


@dataclass(slots=True)
class Sides:
    """What the decoder says of the sides of its boxes.

    logits: [L, B, Q, 4 * (N + 1)], left top right bottom, layer by layer as in their stack, the last one last;
    initial: [B, Q, 4] cxcywh, the boxes that they are offsets from; bound, curvature: [1], of the bins' places.
    """

    logits: Tensor
    initial: Tensor
    bound: Tensor
    curvature: Tensor


@dataclass(slots=True)
class Predictions:
    """layers: of the decoder. others: boxes without distributions, of the decoder's beginning and of the encoder."""

    layers: Stack
    sides: Sides
    others: Sequence[Stack]


@dataclass(frozen=True, slots=True)
class SideWeights:
    """distribution: factor of FGL; distillation: of DDF. union: boxes and sides learn from the union of the pairs of
    all layers; otherwise from each layer's own."""

    distribution: float = 0.15
    distillation: float = 1.5
    union: bool = True


class DFineCriterion(DetrCriterion):
    """Terms are sums over objects. Where the original averages over a batch (DDF) or divides by the pairs of the union,
    this does so image by image and weighs images by their objects, so that parts of a batch add up to the whole."""

    def __init__(
        self,
        family: str,
        losses: Mapping[str, ElementLoss],
        weights: TermWeights,
        costs: Costs,
        *,
        quality: bool,
        sides: SideWeights,
    ) -> None:
        super().__init__(family, losses, weights, costs, quality=quality)
        self.sides = sides

    def evaluate(self, found: Predictions, truth: Truth, noisy: tuple[Predictions, int] | None = None) -> LossTerms:
        """noisy: predictions of the denoising queries and their number of groups."""
        stacks = [found.layers, *found.others]
        own = self.match(stacks, truth)
        boxed = [Weighted(pairs, pairs.matched.float()) for pairs in own]
        if self.sides.union:
            boxed = [union(own, truth, found.layers.logits.shape[2])] * len(stacks)
        terms: dict[str, Tensor] = {}
        for stack, pairs, shared in zip(stacks, own, boxed, strict=True):
            _add(terms, by_name(self._sums(stack, pairs, shared, truth), stack))
        if self.sides.distribution:
            terms["loss_fgl"] = self._distribution(found, boxed[0])
        share = None
        if self._distils(found):
            matched = on_queries(found.layers, boxed[0])
            share = matched_share(matched[:-1])
            terms["loss_ddf"] = self._distillation(found, boxed[0], ~matched, share, truth)
        if noisy is not None:
            self._add_noisy(terms, *noisy, share, truth)
        return LossTerms(terms, truth.valid.sum().float())

    def _add_noisy(
        self, terms: dict[str, Tensor], found: Predictions, groups: int, share: Tensor | None, truth: Truth
    ) -> None:
        """Every noisy query knows its object; the shares of DDF are those of the real queries, as in the original."""
        for stack in (found.layers, *found.others):
            pairs = denoising_pairs(stack, truth, groups)
            boxed = Weighted(pairs, pairs.matched.float())
            _add(terms, by_name(self._sums(stack, pairs, boxed, truth), stack))
        pairs = denoising_pairs(found.layers, truth, groups)
        boxed = Weighted(pairs, pairs.matched.float())
        name = f"loss_{found.layers.names[-1]}"
        if self.sides.distribution:
            _add(terms, {name: self._distribution(found, boxed)})
        if share is not None:
            assert pairs.counted is not None
            others = pairs.counted & ~on_queries(found.layers, boxed)
            _add(terms, {name: self._distillation(found, boxed, others, share, truth)})

    def _distils(self, found: Predictions) -> bool:
        return self.sides.distillation > 0 and len(found.layers.names) > 1

    def _sums(self, stack: Stack, pairs: Pairs, boxed: Weighted, truth: Truth) -> dict[str, Tensor]:
        """Class terms of `pairs` and box terms of `boxed`: [L] each."""
        corners, true_corners = (self._corners(boxes, truth) for boxes in boxes_of(stack, pairs))
        found, wanted = boxes_of(stack, boxed.pairs)
        distance = (found - wanted).abs().sum(-1)
        flat = (self._corners(boxes, truth).flatten(0, 2) for boxes in (found, wanted))
        overlap = self._role("box")(*flat).view(distance.shape)
        return {
            "cls": self.weights.classification * self._class_term(stack, pairs, corners, true_corners),
            "l1": self.weights.l1 * (distance * boxed.weight).sum((1, 2)),
            "box": self.weights.box * (overlap * boxed.weight).sum((1, 2)),
        }

    def _distribution(self, found: Predictions, boxed: Weighted) -> Tensor:
        """FGL of all layers: a scalar, summed over sides and objects, weighted by the overlap that is reached."""
        sides, layers = found.sides, len(found.layers.names)
        query = boxed.pairs.query.expand(layers, -1, -1)
        logits = by_side(gather_queries(sides.logits.float(), query))
        initial = gather_queries(sides.initial.float().expand(layers, -1, -1, -1), query)
        places = bin_places(logits.shape[-1] - 1, sides.bound.float(), sides.curvature.float())
        corners = geometry.from_cxcywh(boxed.pairs.boxes).expand_as(initial)
        target = places_of_sides(initial, corners, places, sides.curvature.float())
        values = self._role("distribution")(logits.flatten(0, 3), target.flatten()).view(target.shape).sum(-1)
        weight = boxed.weight * overlap_of(found.layers, boxed.pairs)
        return self.sides.distribution * found.layers.scale * (values * weight).sum()

    def _distillation(self, found: Predictions, boxed: Weighted, others: Tensor, share: Tensor, truth: Truth) -> Tensor:
        """DDF of all layers but the last, which teaches: a scalar. others: bool [L, B, Q], queries that have no object
        and are judged; share: [L - 1, B]."""
        logits = by_side(found.sides.logits.float())
        values = divergences(logits[:-1], logits[-1])
        matched = on_queries(found.layers, boxed)
        confidence = found.layers.logits[-1].detach().float().sigmoid().amax(-1).expand_as(matched)
        reached = on_queries(found.layers, boxed, overlap_of(found.layers, boxed.pairs))
        weight = torch.where(matched, reached, confidence)
        terms = distillation(values * weight[:-1], matched[:-1], others[:-1], share)
        return self.sides.distillation * (terms * truth.valid.sum(1)).sum()


def by_side(logits: Tensor) -> Tensor:
    """[..., 4 * (N + 1)] to [..., 4, N + 1]."""
    return logits.view(*logits.shape[:-1], 4, -1)


def _add(terms: dict[str, Tensor], more: Mapping[str, Tensor]) -> None:
    for name, value in more.items():
        terms[name] = terms[name] + value if name in terms else value
