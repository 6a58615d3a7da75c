# ruff: noqa: TID253
"""The focal loss itself."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


@dataclass(frozen=True)
class FocalLoss:
    """Lin et al. 2017, eq. 5, for soft targets: -log p_t and 1 - p_t become the cross-entropy and |target - p|.

    With targets 0 and 1 it is the paper's; with soft ones it vanishes where the score equals the target
    (Li et al. 2020, quality focal loss), and alpha is weighted by the target.
    """

    gamma: float = 2.0
    alpha: float | None = 0.25
    label_smoothing: float = 0.0

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """logits: [N, C]; targets: [N, C] in 0..1. Returns [N, C]."""
        if self.label_smoothing:
            targets = targets * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
        loss = binary_cross_entropy_with_logits(logits, targets, reduction="none")
        if self.gamma:
            # The power's slope is infinite at 0 for gamma < 1: keep away from it.
            loss = loss * (targets - logits.sigmoid()).abs().clamp(min=1e-8).pow(self.gamma)
        if self.alpha is not None:
            loss = loss * (self.alpha * targets + (1 - self.alpha) * (1 - targets))
        return loss
