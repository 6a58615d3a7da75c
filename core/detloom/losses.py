# ruff: noqa: TID253
"""Losses for detectors: functions that work element by element, and modules that also reduce.

The functions are what the loss plugins hand to the families. The modules are for code of one's own:
`detloom.FocalLoss()(logits, targets)`. All work in any float type, change nothing in place, and have finite gradients
for boxes without a size and for scores that are certain.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from detloom.boxes import BoxFormat, IoUType, compute_iou
from detloom.errors import UsageError

Reduction = Literal["none", "sum", "mean"]
REDUCTIONS: tuple[Reduction, ...] = ("none", "sum", "mean")


# ---- class scores: logits [..., C], targets [..., C] in 0..1 -> [..., C] -------------------------------------------


def focal_loss(
    logits: Tensor, targets: Tensor, gamma: float = 2.0, alpha: float | None = 0.25, label_smoothing: float = 0.0
) -> Tensor:
    """Lin et al. 2017, eq. 5, for soft targets: -log p_t and 1 - p_t become the cross-entropy and |target - p|.

    With targets 0 and 1 it is the paper's; with soft ones it vanishes where the score equals the target (Li et al.
    2020, quality focal loss), and alpha is weighted by the target. label_smoothing moves targets towards 0.5.
    """
    targets = targets * (1 - label_smoothing) + 0.5 * label_smoothing if label_smoothing else targets
    loss = binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if gamma:
        # The power's slope is infinite at 0 for gamma < 1: keep away from it.
        loss = loss * (targets - logits.sigmoid()).abs().clamp(min=1e-8).pow(gamma)
    if alpha is not None:
        loss = loss * (alpha * targets + (1 - alpha) * (1 - targets))
    return loss


def smooth_cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.1) -> Tensor:
    """Binary cross-entropy of each class, with the label smoothing of Szegedy et al. 2016, section 7: a share of what
    an object's row holds is spread evenly over all classes. Rows without an object stay 0: background is certain."""
    if label_smoothing:
        spread = targets.sum(-1, keepdim=True) / targets.shape[-1]
        targets = targets * (1 - label_smoothing) + spread * label_smoothing
    return binary_cross_entropy_with_logits(logits, targets, reduction="none")


def varifocal_loss(logits: Tensor, targets: Tensor, gamma: float = 2.0, alpha: float = 0.75) -> Tensor:
    """Zhang et al. 2020 (arXiv 2008.13367), eq. 2. targets: overlap q of the matched class, 0 elsewhere.

    q * BCE(p, q) where q > 0, alpha * p^gamma * BCE(p, 0) elsewhere: negatives count by how sure they are, positives
    by how good their box is. The weights carry no gradient, as in the RT-DETR that made this form common.
    """
    weights = torch.where(targets > 0, targets, alpha * _certainty(logits, gamma))
    return weights * binary_cross_entropy_with_logits(logits, targets, reduction="none")


def matchability_loss(logits: Tensor, targets: Tensor, gamma: float = 1.5, alpha: float | None = None) -> Tensor:
    """Matchability-aware loss of DEIM (Huang et al. 2024, arXiv 2412.04234), eq. 3. targets as in varifocal_loss.

    BCE(p, q^gamma) where q > 0, p^gamma * BCE(p, 0) elsewhere: unlike varifocal's, a match of little overlap is not
    forgotten: its score is pushed down. alpha: factor of the negatives; none: 1. The weights carry no gradient.
    """
    positive = targets > 0
    factor = 1.0 if alpha is None else alpha
    weights = torch.where(positive, 1.0, factor * _certainty(logits, gamma))
    # Away from 0, where the power's slope is infinite for gamma < 1.
    wanted = torch.where(positive, targets.clamp(min=1e-8).pow(gamma), 0.0)
    return weights * binary_cross_entropy_with_logits(logits, wanted, reduction="none")


def iou_aware_bce(logits: Tensor, targets: Tensor, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    """Binary cross-entropy aware of overlaps, as RF-DETR and LW-DETR train with (Cai et al. 2023, arXiv 2303.10340;
    Chen et al. 2024, arXiv 2406.03459). targets as in varifocal_loss.

    A match wants the score t = p^alpha * q^(1 - alpha), at least 0.01, between its own score and its overlap:
    BCE(p, t), t without gradient. Elsewhere p^gamma * BCE(p, 0), whose weight has one, as in those models.
    """
    positive = targets > 0
    scores = logits.sigmoid()
    between = scores.detach().pow(alpha) * targets.clamp(min=0).pow(1 - alpha)
    wanted = torch.where(positive, between.clamp(min=0.01), 0.0)
    # The power's slope is infinite at 0 for gamma < 1: keep away from it.
    weights = torch.where(positive, 1.0, scores.clamp(min=1e-8).pow(gamma))
    return weights * binary_cross_entropy_with_logits(logits, wanted, reduction="none")


def _certainty(logits: Tensor, gamma: float) -> Tensor:
    """p^gamma without gradient."""
    return logits.detach().sigmoid().pow(gamma)


# ---- boxes: predicted [..., 4], target [..., 4] -> [...] -----------------------------------------------------------


def box_loss(
    predicted: Tensor, target: Tensor, iou_type: IoUType = "ciou", *, box_format: BoxFormat = "xyxy"
) -> Tensor:
    """1 - IoU, GIoU, DIoU, CIoU or SIoU, row by row: 0 for equal boxes."""
    return 1 - compute_iou(predicted, target, iou_type, box_format=box_format, pairwise=False)


# ---- sides as distributions over bins: logits [..., K], target [...] in 0..K-1 -> [...] ----------------------------


def expected_bin(logits: Tensor) -> Tensor:
    """The integral of a distribution: the mean of the bins 0..K-1 by their probability (Li et al. 2020, arXiv
    2006.04388, eq. 4). logits: [..., K]. Returns [...]."""
    bins = torch.arange(logits.shape[-1], device=logits.device, dtype=logits.dtype)
    return (logits.softmax(-1) * bins).sum(-1)


def neighbouring_bins(target: Tensor, num_bins: int) -> tuple[Tensor, Tensor]:
    """Where a place between bins lies. target: [...], taken into 0..num_bins-1. Returns the bin below it, int64 [...]
    in 0..num_bins-2, and the weight of the bin above, [...] in 0..1: their weighted mean is the target."""
    inside = target.clamp(0, num_bins - 1)
    below = inside.detach().floor().clamp(max=num_bins - 2)
    return below.long(), inside - below


def distribution_focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Li et al. 2020 (arXiv 2006.04388), eq. 6: cross-entropy with the two bins around the target, by their nearness.

    logits: [..., K] of the bins 0..K-1, K >= 2; target: [...], a place between them (outside it counts as the nearest
    end). Smallest, but not 0, when the two bins hold the whole probability in the right shares.
    """
    logs = logits.log_softmax(-1)
    below, weight = neighbouring_bins(target, logits.shape[-1])
    left = logs.gather(-1, below.unsqueeze(-1)).squeeze(-1)
    right = logs.gather(-1, below.unsqueeze(-1) + 1).squeeze(-1)
    return -(left * (1 - weight) + right * weight)


# ---- modules ------------------------------------------------------------------------------------------------------


class FocalLoss(nn.Module):
    """Focal loss with a reduction (see focal_loss).

    forward: logits [..., C] with targets of the same shape in 0..1, or class indices int64 [...], where C and more
    (and anything below 0) mean background. Returns a scalar; with `none` the values [..., C]. `mean` is over all
    values.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: float | None = 0.25,
        label_smoothing: float = 0.0,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        self.gamma, self.alpha, self.label_smoothing = gamma, alpha, label_smoothing
        self.reduction: Reduction = _known(reduction)

    def forward(self, pred_logits: Tensor, targets: Tensor) -> Tensor:
        wanted = _class_targets(pred_logits, targets)
        values = focal_loss(pred_logits, wanted, self.gamma, self.alpha, self.label_smoothing)
        return _reduced(values, self.reduction)


class VarifocalLoss(nn.Module):
    """Varifocal loss with a reduction (see varifocal_loss). forward: logits and overlaps, both [..., C]."""

    def __init__(self, gamma: float = 2.0, alpha: float = 0.75, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.gamma, self.alpha = gamma, alpha
        self.reduction: Reduction = _known(reduction)

    def forward(self, pred_logits: Tensor, overlaps: Tensor) -> Tensor:
        return _reduced(varifocal_loss(pred_logits, overlaps, self.gamma, self.alpha), self.reduction)


class MatchabilityLoss(nn.Module):
    """DEIM's loss with a reduction (see matchability_loss). forward: logits and overlaps, both [..., C]."""

    def __init__(self, gamma: float = 1.5, alpha: float | None = None, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.gamma, self.alpha = gamma, alpha
        self.reduction: Reduction = _known(reduction)

    def forward(self, pred_logits: Tensor, overlaps: Tensor) -> Tensor:
        return _reduced(matchability_loss(pred_logits, overlaps, self.gamma, self.alpha), self.reduction)


class CIoULoss(nn.Module):
    """1 - CIoU with a reduction. forward: predicted and target boxes, both [..., 4], row by row. iou_type makes it
    the loss of another measure of `compute_iou`."""

    def __init__(
        self, reduction: Reduction = "mean", *, iou_type: IoUType = "ciou", box_format: BoxFormat = "xyxy"
    ) -> None:
        super().__init__()
        self.reduction: Reduction = _known(reduction)
        self.iou_type: IoUType = iou_type
        self.box_format: BoxFormat = box_format

    def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
        return _reduced(box_loss(predicted, target, self.iou_type, box_format=self.box_format), self.reduction)


class DFLoss(nn.Module):
    """Distribution focal loss over num_bins bins (see distribution_focal_loss).

    forward: logits [..., num_bins] and targets [...] in bins, 0..num_bins-1. `expected` reads a distribution,
    `bins` places a target between two bins.
    """

    def __init__(self, num_bins: int = 16, reduction: Reduction = "mean") -> None:
        super().__init__()
        if num_bins < 2:
            raise UsageError(f"{num_bins} bins cannot hold a distribution", hint="num_bins must be 2 or more")
        self.num_bins = num_bins
        self.reduction: Reduction = _known(reduction)

    def forward(self, pred_logits: Tensor, target: Tensor) -> Tensor:
        if pred_logits.shape[-1] != self.num_bins:
            raise UsageError(
                f"the last dimension of {list(pred_logits.shape)} is not the {self.num_bins} bins of this loss",
                hint="one row of logits for each side: reshape [N, 4 * bins] to [N, 4, bins]",
            )
        return _reduced(distribution_focal_loss(pred_logits, target), self.reduction)

    def expected(self, pred_logits: Tensor) -> Tensor:
        """[..., num_bins] to the mean bin [...]."""
        return expected_bin(pred_logits)

    def bins(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """The bin below each target and the weight of the bin above."""
        return neighbouring_bins(target, self.num_bins)


def _known(reduction: Reduction) -> Reduction:
    if reduction not in REDUCTIONS:
        raise UsageError(f"{reduction!r} is no reduction", hint=f"allowed: {', '.join(REDUCTIONS)}")
    return reduction


def _reduced(values: Tensor, reduction: Reduction) -> Tensor:
    if reduction == "none":
        return values
    # Nothing to average is no loss, not NaN.
    return values.sum() if reduction == "sum" or not values.numel() else values.mean()


def _class_targets(logits: Tensor, targets: Tensor) -> Tensor:
    """Targets as [..., C]; class indices become rows with a single 1, background becomes zeros."""
    if targets.shape == logits.shape:
        return targets.to(logits.dtype)
    if targets.shape != logits.shape[:-1] or targets.is_floating_point():
        raise UsageError(
            f"targets {list(targets.shape)} of {targets.dtype} do not belong to logits {list(logits.shape)}",
            hint="give values 0..1 of the same shape, or integers without the last dimension",
        )
    classes = logits.shape[-1]
    known = torch.where((targets >= 0) & (targets < classes), targets, classes).long()
    return one_hot(known, classes + 1)[..., :classes].to(logits.dtype)
