"""A detector small enough for tests of the loop: one anchor a cell of 16 pixels, dropout included on purpose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detloom.data.loader import Batch
from detloom.detector import Decoded, Detector, LayerGroup, LossTerms, Outputs, Targets, TransferReport
from detloom.errors import WeightsError
from detloom.geometry import InputRule, PostRule


class TinyDetector(Detector):
    def __init__(
        self, class_names: Sequence[str], size: tuple[int, int] = (64, 64), *, norm: bool = True, dropout: float = 0.1
    ) -> None:
        super().__init__(class_names, InputRule(size=size, scale=1 / 255), PostRule(kind="nms"))
        layer = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), layer, nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 16, 3, 4, 1), nn.ReLU(), nn.Dropout(dropout))
        self.head = nn.Conv2d(16, len(self.class_names) + 5, 1)

    def forward(self, images: Tensor, targets: Targets | None = None, prompts: object | None = None) -> Outputs:
        grid = self.head(self.body(self.stem(self.normalise(images))))
        flat = grid.flatten(2).transpose(1, 2)
        return Outputs(flat[..., 5:], flat[..., :4], extra={"objectness": flat[..., 4:5], "width": grid.shape[3]})

    def decode(self, outputs: Outputs) -> Decoded:
        count, width = outputs.boxes.shape[1], outputs.extra["width"]
        cells = torch.arange(count)
        centres = torch.stack([(cells % width + 0.5) * 16, (cells // width + 0.5) * 16], 1)
        raw = outputs.boxes.float()
        middle, half = centres + raw[..., :2] * 16, (raw[..., 2:].clamp(max=6).exp() * 16) / 2
        scores = outputs.logits.float().sigmoid() * outputs.extra["objectness"].float().sigmoid()
        return Decoded(torch.cat([middle - half, middle + half], -1), scores)

    def loss(self, outputs: Outputs, targets: Targets) -> LossTerms:
        boxes = self.decode(outputs).boxes
        centre = (targets.boxes[..., :2] + targets.boxes[..., 2:]) / 2
        width = outputs.extra["width"]
        cell = (centre[..., 1] // 16 * width + centre[..., 0] // 16).long().clamp(0, boxes.shape[1] - 1)
        valid = targets.valid
        chosen = boxes.gather(1, cell[..., None].expand(-1, -1, 4))
        box = (F.l1_loss(chosen, targets.boxes, reduction="none").sum(-1) * valid / 64).sum()
        logits = outputs.logits.float().gather(1, cell[..., None].expand(-1, -1, outputs.logits.shape[-1]))
        wanted = F.one_hot(targets.labels.clamp(min=0), outputs.logits.shape[-1]).float()
        label = (F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(-1) * valid).sum()
        there = torch.zeros(boxes.shape[:2]).scatter_add(1, cell, valid.float()).clamp(max=1)
        objectness = F.binary_cross_entropy_with_logits(
            outputs.extra["objectness"].float()[..., 0], there, reduction="sum"
        )
        return LossTerms({"loss_box": box, "loss_cls": label, "loss_obj": objectness}, valid.sum().float())

    def layer_groups(self) -> list[LayerGroup]:
        return [
            LayerGroup("stem", (self.stem,), 0, is_backbone=True),
            LayerGroup("body", (self.body,), 1),
            LayerGroup("head", (self.head,), 2, is_head=True),
        ]

    def recomputed_modules(self) -> Sequence[nn.Module]:
        return [self.stem, self.body]

    def load_pretrained(self, state: Mapping[str, Tensor], class_names: Sequence[str], source: str) -> TransferReport:
        if set(state) != set(self.state_dict()):
            raise WeightsError(f"{source} belongs to another architecture")
        self.load_state_dict(dict(state))
        return TransferReport(source, len(state), len(state))


def make_batch(rng: torch.Generator, images: int, classes: int = 2, size: tuple[int, int] = (64, 64)) -> Batch:
    """Random pixels with one to three random boxes each."""
    pixels = torch.randint(0, 256, (images, 3, *size), dtype=torch.uint8, generator=rng)
    corner = torch.rand(images, 3, 2, generator=rng) * 32
    side = torch.rand(images, 3, 2, generator=rng) * 24 + 6
    labels = torch.randint(0, classes, (images, 3), generator=rng)
    hidden = torch.rand(images, 3, generator=rng) < 0.3
    labels[hidden] = -1
    boxes = torch.cat([corner, corner + side], -1) * (labels >= 0)[..., None]
    return Batch(pixels, Targets(boxes, labels), list(range(images)), [size] * images)


class FixedBatches:
    """The same batches in every epoch."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches
        self.batches_per_epoch = len(batches)

    def epoch(self, epoch: int, start_batch: int = 0) -> Any:
        yield from self.batches[start_batch:]
