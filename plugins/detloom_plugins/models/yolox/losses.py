# ruff: noqa: TID253
"""The losses of YOLOX: boxes and classes of matched anchors, objectness of all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from detloom.detector import ElementLoss, LossTerms, Outputs, Targets
from detloom.errors import PluginError
from detloom.specs import QUALITY_FLOOR

from .assign import Assignment, Candidates, Predictions, Rule, assign, find_candidates
from .grid import Grid

LARGEST_LOG_SIDE = 10.0
"""exp(10) cells are far more than any picture has; past it a diverged side would turn gradients into NaN."""


def decode_boxes(raw: Tensor, cells: Tensor, strides: Tensor) -> Tensor:
    """raw: [..., N, 4], centre offset and log sides in cells; cells: [..., N, 2]; strides: [..., N, 1].
    Returns xyxy in pixels."""
    centres = (raw[..., :2] + cells) * strides
    halves = raw[..., 2:].clamp(max=LARGEST_LOG_SIDE).exp() * strides / 2
    return torch.cat((centres - halves, centres + halves), dim=-1)


@dataclass(frozen=True, slots=True)
class TermWeights:
    classification: float
    box: float
    objectness: float


@dataclass(frozen=True, slots=True)
class Matches:
    """Candidates with their objects. candidates: where they lie among the anchors; cells: [B, M, 2]; strides:
    [B, M, 1]; raw, boxes, truth: [B, M, 4], xyxy but for raw; logits: [B, M, C]; labels: int64 [B, M]; boxes, raw and
    logits carry gradient."""

    candidates: Candidates
    found: Assignment
    cells: Tensor
    strides: Tensor
    raw: Tensor
    boxes: Tensor
    logits: Tensor
    truth: Tensor
    labels: Tensor


@dataclass(frozen=True, slots=True)
class YoloxLoss:
    """losses: by role; `classification` and `box` are needed to train and not to run. quality_targets: the former
    takes a match for one by its overlap being above 0."""

    losses: Mapping[str, ElementLoss]
    weights: TermWeights
    rule: Rule
    quality_targets: bool = False

    def __call__(self, outputs: Outputs, targets: Targets, *, use_l1: bool) -> LossTerms:
        """Sums over the batch; the normaliser is the raw count of matched anchors (0 when there is no object)."""
        return self.with_matches(outputs, targets, use_l1=use_l1)[0]

    def with_matches(self, outputs: Outputs, targets: Targets, *, use_l1: bool) -> tuple[LossTerms, Matches]:
        """The same, and which anchors learned which objects."""
        grid: Grid = outputs.extra["grid"]
        objectness = outputs.extra["objectness"].float()
        candidates = find_candidates(grid, targets, self.rule)
        matches = self._match(outputs, objectness, candidates, targets)
        matched = matches.found.matched

        hits = torch.zeros_like(objectness[..., 0]).scatter_add(1, candidates.index, matched.float())
        terms = {
            "loss_cls": self.weights.classification * self._class_term(matches),
            "loss_obj": self.weights.objectness
            * F.binary_cross_entropy_with_logits(objectness[..., 0], hits, reduction="sum"),
            "loss_box": self.weights.box * self._box_term(matches),
        }
        if use_l1:
            terms["loss_l1"] = _l1_term(matches)
        return LossTerms(terms, matched.sum().float()), matches

    def _match(self, outputs: Outputs, objectness: Tensor, candidates: Candidates, targets: Targets) -> Matches:
        grid: Grid = outputs.extra["grid"]
        cells, strides = grid.cells[candidates.index], grid.strides[candidates.index]
        raw, logits = candidates.take(outputs.boxes).float(), candidates.take(outputs.logits).float()
        boxes = decode_boxes(raw, cells, strides)
        with torch.no_grad():
            predictions = Predictions(boxes.detach(), logits.detach(), candidates.take(objectness).detach())
            found = assign(grid, candidates, predictions, targets, self.rule)
            truth = targets.boxes.gather(1, found.owner.unsqueeze(-1).expand(-1, -1, 4))
            labels = targets.labels.gather(1, found.owner)
        return Matches(candidates, found, cells, strides, raw, boxes, logits, truth, labels)

    def _class_term(self, matches: Matches) -> Tensor:
        """Classes learn the overlap of their box, so that a score also says how good the box is."""
        wanted = torch.zeros_like(matches.logits)
        rows = matches.labels.clamp(min=0).unsqueeze(-1)
        overlaps = matches.found.iou.clamp(min=QUALITY_FLOOR) if self.quality_targets else matches.found.iou
        wanted = wanted.scatter(2, rows, overlaps.unsqueeze(-1))
        values = self._role("classification")(matches.logits.flatten(0, 1), wanted.flatten(0, 1))
        return torch.where(matches.found.matched.flatten().unsqueeze(1), values, 0.0).sum()

    def _box_term(self, matches: Matches) -> Tensor:
        # An unmatched anchor is given its own box as truth: its loss is dropped, and its gradient must be finite.
        matched = matches.found.matched.unsqueeze(-1)
        truth = torch.where(matched, matches.truth, matches.boxes.detach())
        values = self._role("box")(matches.boxes.flatten(0, 1), truth.flatten(0, 1))
        return torch.where(matched.flatten(), values, 0.0).sum()

    def _role(self, role: str) -> ElementLoss:
        if role not in self.losses:
            raise PluginError(
                f"yolox cannot train: no loss was built for the role `{role}`",
                hint=f"name one in `loss.{role}`; `detloom plugins list` shows what is installed",
            )
        return self.losses[role]


def _l1_term(matches: Matches) -> Tensor:
    """Distance of the raw regression to what the object would need."""
    centres = (matches.truth[..., :2] + matches.truth[..., 2:]) / 2
    sides = (matches.truth[..., 2:] - matches.truth[..., :2]).clamp(min=0)
    wanted = torch.cat((centres / matches.strides - matches.cells, torch.log(sides / matches.strides + 1e-8)), dim=-1)
    distance = F.l1_loss(matches.raw, wanted, reduction="none")
    return torch.where(matches.found.matched.unsqueeze(-1), distance, 0.0).sum()
