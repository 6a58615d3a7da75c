# ruff: noqa: TID253
"""The YOLOX detector: forward, loss, decode, layer groups and pretrained weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from detloom.detector import Decoded, Detector, LayerGroup, LossTerms, Outputs, Targets, TransferReport
from detloom.geometry import InputRule, PostRule
from detloom.specs import ModelContext

from .assign import Rule
from .grid import Grid, GridCache
from .losses import TermWeights, YoloxLoss, decode_boxes
from .network import DecoupledHead, PathAggregation
from .transfer import transfer

if TYPE_CHECKING:
    from . import Variant
    from .settings import YoloxSettings


class YoloxDetector(Detector):
    """Raw BGR 0-255 in; one box, one objectness and C class scores for each cell of strides 8, 16 and 32.

    Outputs.boxes holds the raw regression: offsets of the centre in cells and logarithms of the sides in cells.
    Outputs.extra holds `objectness` (logits [B, N, 1]) and `grid`.
    """

    def __init__(self, variant: Variant, settings: YoloxSettings, context: ModelContext) -> None:
        super().__init__(context.class_names, InputRule(size=context.size, channels="bgr"), PostRule(kind="nms"))
        self.variant_name = f"yolox-{variant.name}"
        self.backbone = PathAggregation(variant)
        self.head = DecoupledHead(len(self.class_names), variant)
        self.set_norm_momentum(settings.norm_momentum)
        self.use_l1 = False
        self._l1_frac = settings.l1_frac
        self._grids = GridCache()
        weights = TermWeights(
            classification=context.loss_weights.get("classification", 1.0),
            box=context.loss_weights.get("box", 5.0),
            objectness=settings.objectness_weight,
        )
        rule = Rule(settings.candidate_topk, settings.center_radius)
        self._loss = YoloxLoss(context.losses, weights, rule, context.quality_targets)

    def set_norm_momentum(self, momentum: float) -> None:
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = momentum

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """The last epochs sharpen the boxes with an L1 term."""
        self.use_l1 = epoch >= epochs - int(self._l1_frac * epochs + 0.5)

    def forward(self, images: Tensor, targets: Targets | None = None, prompts: object | None = None) -> Outputs:
        pixels = self.normalise(images).to(next(self.parameters()).dtype)
        features = self.backbone(pixels)
        logits, boxes, objectness = self.head(features)
        named: dict[str, Tensor] = dict(zip(("p3", "p4", "p5"), features, strict=True))
        return Outputs(logits, boxes, features=named, extra={"objectness": objectness, "grid": self._grids.get(images)})

    def loss(self, outputs: Outputs, targets: Targets) -> LossTerms:
        # Logarithms of scores and sums over thousands of anchors need float32, whatever the forward pass used.
        with torch.autocast(outputs.boxes.device.type, enabled=False):
            # Judged without it: a validation loss must mean the same in every epoch.
            return self._loss(outputs, targets, use_l1=self.use_l1 and self.training)

    def decode(self, outputs: Outputs) -> Decoded:
        grid: Grid = outputs.extra["grid"]
        scores = outputs.logits.float().sigmoid() * outputs.extra["objectness"].float().sigmoid()
        return Decoded(decode_boxes(outputs.boxes.float(), grid.cells, grid.strides), scores)

    def layer_groups(self) -> list[LayerGroup]:
        body = self.backbone.backbone
        stages = {
            "stem": body.stem,
            "dark2": body.dark2,
            "dark3": body.dark3,
            "dark4": body.dark4,
            "dark5": body.dark5,
        }
        groups = [
            LayerGroup(name, (module,), depth, is_backbone=True) for depth, (name, module) in enumerate(stages.items())
        ]
        return [
            *groups,
            LayerGroup("neck", self.backbone.neck_modules(), len(groups)),
            LayerGroup("head", (self.head,), len(groups) + 1, is_head=True),
        ]

    def recomputed_modules(self) -> Sequence[nn.Module]:
        body, head = self.backbone.backbone, self.head
        neck = [module for module in self.backbone.neck_modules() if next(module.parameters(), None) is not None]
        return [body.stem, body.dark2, body.dark3, body.dark4, body.dark5, *neck, *head.cls_convs, *head.reg_convs]

    def load_pretrained(self, state: Mapping[str, Tensor], class_names: Sequence[str], source: str) -> TransferReport:
        return transfer(self, state, class_names, source)
