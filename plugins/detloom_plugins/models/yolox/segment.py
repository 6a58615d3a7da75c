# ruff: noqa: TID253
"""YOLOX with masks as in YOLACT (Bolya et al. 2019, arXiv 1904.02689): prototypes of the whole picture, mixed by
coefficients of each anchor and cut at its box."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detloom.detector import Decoded, LayerGroup, LossTerms, Outputs, Targets
from detloom.specs import ModelContext

from .blocks import ConvUnit, spatial_unit
from .detector import YoloxDetector
from .losses import Matches
from .network import by_anchor

if TYPE_CHECKING:
    from . import Variant
    from .settings import YoloxSegSettings

STRIDE = 4
"""Pixels of the input a prototype pixel."""
PROTOTYPES = 32
LEARNING = 96
"""Matched anchors of an image whose masks are computed in a step: each is a picture of its own. YOLACT takes 100."""


class MaskHead(nn.Module):
    """Prototypes from the finest features, coefficients from those of every stride."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        hidden = int(256 * variant.width)
        inputs = [int(channels * variant.width) for channels in (256, 512, 1024)]
        self.coarse = spatial_unit(inputs[0], hidden, 1, variant.depthwise)
        self.fine = spatial_unit(hidden, hidden, 1, variant.depthwise)
        self.prototypes = nn.Conv2d(hidden, PROTOTYPES, 1)
        self.branches = nn.ModuleList(
            nn.Sequential(ConvUnit(channels, hidden, 1), spatial_unit(hidden, hidden, 1, variant.depthwise))
            for channels in inputs
        )
        # One more coefficient stands for a prototype that is the same everywhere.
        self.coefficients = nn.ModuleList(nn.Conv2d(hidden, PROTOTYPES + 1, 1) for _ in inputs)

    def forward(self, features: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Returns prototypes [B, K, H/4, W/4] and coefficients [B, N, K + 1]."""
        twice = F.interpolate(self.coarse(features[0]), scale_factor=2.0, mode="nearest")
        pairs = zip(self.coefficients, self.branches, features, strict=True)
        mixing = by_anchor([last(branch(feature)) for last, branch, feature in pairs])
        return self.prototypes(self.fine(twice)), mixing


class YoloxSegDetector(YoloxDetector):
    """Outputs.masks holds the coefficients [B, N, K + 1], Outputs.extra the `prototypes`. `decode` keeps the
    `candidates` best anchors: a mask for each of thousands would fill the memory."""

    masks = True

    def __init__(self, variant: Variant, settings: YoloxSegSettings, context: ModelContext) -> None:
        super().__init__(variant, settings, context)
        self.variant_name = f"yolox-seg-{variant.name}"
        self.mask_head = MaskHead(variant)
        self.set_norm_momentum(settings.norm_momentum)
        self.candidates, self.mask_weight = settings.mask_candidates, settings.mask_weight

    def forward(self, images: Tensor, targets: Targets | None = None, prompts: object | None = None) -> Outputs:
        outputs = super().forward(images, targets, prompts)
        features = tuple(outputs.features[name] for name in ("p3", "p4", "p5"))
        outputs.extra["prototypes"], outputs.masks = self.mask_head(features)
        return outputs

    def decode(self, outputs: Outputs) -> Decoded:
        """The best anchors, best first; boxes, scores and masks of the same rows."""
        every = super().decode(outputs)
        assert outputs.masks is not None
        best = every.scores.amax(2).topk(min(self.candidates, every.scores.shape[1]), dim=1).indices
        boxes, scores, mixing = (_rows(values, best) for values in (every.boxes, every.scores, outputs.masks))
        masks = mix(mixing.float(), outputs.extra["prototypes"].float())
        # Inside, no logit exceeds the distance to the nearest side: the mask ends where its box ends.
        return Decoded(boxes, scores, torch.minimum(masks, depth(boxes, masks)))

    def loss(self, outputs: Outputs, targets: Targets) -> LossTerms:
        with torch.autocast(outputs.boxes.device.type, enabled=False):
            terms, matches = self._loss.with_matches(outputs, targets, use_l1=self.use_l1 and self.training)
            terms.terms["loss_mask"] = self.mask_weight * self._mask_term(outputs, targets, matches)
        return terms

    def _mask_term(self, outputs: Outputs, targets: Targets, matches: Matches) -> Tensor:
        """Cross-entropy of each chosen anchor's mask, a mean over its object's box; their sum stands for all matched
        anchors of the image."""
        assert targets.masks is not None and outputs.masks is not None
        matched = matches.found.matched
        # In training another choice in each step; judged, the anchors that lie best.
        order = torch.rand_like(matches.found.iou) + 0.01 if self.training else matches.found.iou + 0.01
        chosen = (order * matched).topk(min(LEARNING, matched.shape[1]), dim=1).indices
        counted = matched.gather(1, chosen)
        owner = matches.found.owner.gather(1, chosen)
        mixing = _rows(_rows(outputs.masks, matches.candidates.index), chosen)
        masks = mix(mixing.float(), outputs.extra["prototypes"].float())
        inside = (depth(_rows(targets.boxes, owner), masks) > 0).float()
        entropy = F.binary_cross_entropy_with_logits(masks, small_truth(targets.masks, owner), reduction="none")
        means = (entropy * inside).sum((2, 3)) / inside.sum((2, 3)).clamp(min=1)
        sums = torch.where(counted, means, 0.0).sum(1)
        return (sums * matched.sum(1) / counted.sum(1).clamp(min=1)).sum()

    def layer_groups(self) -> list[LayerGroup]:
        *body, head = super().layer_groups()
        return [*body, LayerGroup(head.name, (*head.modules, self.mask_head), head.depth, is_head=True)]


def mix(coefficients: Tensor, prototypes: Tensor) -> Tensor:
    """coefficients: [B, R, K + 1], the last one added; prototypes: [B, K, h, w]. Returns logits [B, R, h, w]."""
    flat = coefficients[..., :-1] @ prototypes.flatten(2) + coefficients[..., -1:]
    masks: Tensor = flat.unflatten(2, tuple(prototypes.shape[2:]))  # type: ignore[no-untyped-call]
    return masks


def depth(boxes: Tensor, masks: Tensor) -> Tensor:
    """How many pixels inside its box each pixel of a mask lies, negative outside. boxes: [B, R, 4] xyxy pixels;
    masks: [B, R, h, w]. Returns [B, R, h, w]."""
    y, x = ((torch.arange(side, device=boxes.device) + 0.5) * STRIDE for side in masks.shape[2:])
    left, top, right, bottom = boxes.unsqueeze(-1).unbind(2)
    across, down = torch.minimum(x - left, right - x), torch.minimum(y - top, bottom - y)
    return torch.minimum(down.unsqueeze(3), across.unsqueeze(2))


def small_truth(masks: Tensor, owner: Tensor) -> Tensor:
    """masks: uint8 [B, G, H, W]; owner: int64 [B, R] into G. Returns float32 [B, R, H/4, W/4]: the mean of two pixels
    on both sides of each centre. Bytes are gathered, and only what is needed becomes floats."""
    image = torch.arange(len(masks), device=masks.device).unsqueeze(1)
    middle = STRIDE // 2
    before, after = (masks[:, :, start::STRIDE, start::STRIDE][image, owner] for start in (middle - 1, middle))
    return (before.float() + after.float()) / 2


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """values: [B, N, K]; index: int64 [B, R]. Returns [B, R, K]."""
    return values.gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[-1]))
