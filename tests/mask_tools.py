"""A small detector of masks as a package of plugins would bring it, and drawn pictures that it learns in seconds.

The network is a U with a grid of queries at its bottom: each cell of 16 pixels gives one box, class scores and
coefficients; its mask is a sum of prototypes, cut at its box (Bolya et al. 2019, YOLACT).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor, nn

from detloom.config import mapping_layer, resolve
from detloom.data.dataset import Dataset
from detloom.data.load import load_dataset
from detloom.detector import Decoded, Detector, LayerGroup, LossTerms, Outputs, Targets, TransferReport
from detloom.discovery import Candidate, first_party_candidates
from detloom.geometry import InputRule, PostRule
from detloom.hookspecs import hookimpl
from detloom.host import PluginHost
from detloom.specs import ModelContext, ModelSpec

CELL, PROTOTYPES, STEP = 16, 8, 2
CLASSES = ("disc", "triangle")


def _block(before: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU())


class PrototypeDetector(Detector):
    masks = True

    def __init__(self, class_names: Sequence[str], size: tuple[int, int]) -> None:
        rule = InputRule(size=size, scale=1 / 255, mean=(0.45, 0.45, 0.45), std=(0.25, 0.25, 0.25))
        super().__init__(class_names, rule, PostRule(kind="nms", nms_threshold=0.5))
        widths = (3, 16, 24, 32, 48)
        self.down = nn.ModuleList(_block(a, b, 2) for a, b in pairwise(widths))
        self.up = nn.ModuleList(_block(b + a, a, 1) for a, b in pairwise(widths[1:]))
        self.prototypes = nn.Conv2d(16, PROTOTYPES, 1)
        self.neck = _block(48, 64, 1)
        self.head = nn.Conv2d(64, 4 + len(self.class_names) + PROTOTYPES + 1, 1)
        nn.init.constant_(self.head.bias[4 : 4 + len(self.class_names)], -2.0)

    def forward(self, images: Tensor, targets: Targets | None = None, prompts: object | None = None) -> Outputs:
        levels = [self.normalise(images)]
        for block in self.down:
            levels.append(block(levels[-1]))
        found = self.head(self.neck(levels[-1])).flatten(2).transpose(1, 2)
        finest = levels.pop()
        for block in reversed(self.up):
            skip = levels.pop()
            finest = block(torch.cat([F.interpolate(finest, scale_factor=2.0), skip], 1))
        boxes, logits, mixing = found.split([4, len(self.class_names), PROTOTYPES + 1], -1)
        return Outputs(logits, boxes, mixing, extra={"prototypes": self.prototypes(finest), "width": images.shape[3]})

    def decode(self, outputs: Outputs) -> Decoded:
        boxes = self._boxes(outputs)
        masks = self._masks(outputs, outputs.masks)
        return Decoded(boxes, outputs.logits.float().sigmoid(), torch.minimum(masks, _depth(boxes, masks.shape[-2:])))

    def _boxes(self, outputs: Outputs) -> Tensor:
        raw = outputs.boxes.float()
        cells, width = torch.arange(raw.shape[1], device=raw.device), outputs.extra["width"] // CELL
        centres = torch.stack([(cells % width + 0.5) * CELL, (cells // width + 0.5) * CELL], 1)
        middle, half = centres + raw[..., :2] * CELL, (raw[..., 2:].clamp(max=4).exp() * CELL) / 2
        return torch.cat([middle - half, middle + half], -1)

    def _masks(self, outputs: Outputs, mixing: Tensor | None) -> Tensor:
        assert mixing is not None
        mixed = torch.einsum("bnk,bkhw->bnhw", mixing[..., :-1].float(), outputs.extra["prototypes"].float())
        return mixed + mixing[..., -1:, None].float()

    def loss(self, outputs: Outputs, targets: Targets) -> LossTerms:
        assert targets.masks is not None and outputs.masks is not None
        boxes, valid = self._boxes(outputs), targets.valid
        centre = (targets.boxes[..., :2] + targets.boxes[..., 2:]) / 2 // CELL
        cell = (centre[..., 1] * (outputs.extra["width"] // CELL) + centre[..., 0]).long().clamp(0, boxes.shape[1] - 1)
        chosen = boxes.gather(1, cell[..., None].expand(-1, -1, 4))
        box = (F.smooth_l1_loss(chosen, targets.boxes, reduction="none").sum(-1) * valid / CELL).sum()
        wanted = torch.zeros_like(outputs.logits.float())
        label = F.one_hot(targets.labels.clamp(min=0), wanted.shape[-1]).float() * valid[..., None]
        wanted = wanted.scatter_add(1, cell[..., None].expand(-1, -1, wanted.shape[-1]), label).clamp(max=1)
        score = F.binary_cross_entropy_with_logits(outputs.logits.float(), wanted, reduction="sum")
        masks = self._masks(outputs, outputs.masks.gather(1, cell[..., None].expand(-1, -1, PROTOTYPES + 1)))
        truth = F.avg_pool2d(targets.masks.float(), STEP)
        inside = (_depth(targets.boxes, masks.shape[-2:]) > -1).float() * valid[..., None, None]
        pixels = F.binary_cross_entropy_with_logits(masks, truth, reduction="none") * inside
        mask = (pixels.sum((-2, -1)) / inside.sum((-2, -1)).clamp(min=1)).sum()
        terms = {"loss_box": box, "loss_cls": score, "loss_mask": 2 * mask}
        return LossTerms(terms, valid.sum().float())

    def layer_groups(self) -> list[LayerGroup]:
        return [
            LayerGroup("down", (self.down,), 0, is_backbone=True),
            LayerGroup("up", (self.up, self.prototypes, self.neck), 1),
            LayerGroup("head", (self.head,), 2, is_head=True),
        ]

    def load_pretrained(self, state: Mapping[str, Tensor], class_names: Sequence[str], source: str) -> TransferReport:
        self.load_state_dict(dict(state))
        return TransferReport(source, len(state), len(state))


def _depth(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """How far inside its box each pixel of the masks lies, negative outside: [B, N, 4] to [B, N, h, w]."""
    y, x = ((torch.arange(side, device=boxes.device) + 0.5) * STEP for side in size)
    left, top, right, bottom = boxes[..., None, None].unbind(2)
    across = torch.minimum(x - left, right - x)
    down = torch.minimum(y[:, None] - top, bottom - y[:, None])
    return torch.minimum(across, down)


class ForgetfulDetector(PrototypeDetector):
    """Says that it predicts masks, and decodes none."""

    def decode(self, outputs: Outputs) -> Decoded:
        whole = super().decode(outputs)
        return Decoded(whole.boxes, whole.scores)


RECIPE = {
    "training.optimizer": "adamw",
    "training.lr": 0.004,
    "training.scheduler": "cosine",
    "training.warmup_epochs": 1,
    "training.use_ema": False,
    "validation.save_best_metric": "segm_AP",
}


class OutlinePlugin:
    """The package: nothing but hooks."""

    detloom_api = (0, 1)
    detector: type[PrototypeDetector] = PrototypeDetector

    @hookimpl
    def detloom_models(self) -> Iterable[ModelSpec]:
        def build(settings: object, context: ModelContext) -> Detector:
            return self.detector(context.class_names, context.size)

        return [
            ModelSpec(
                name="outline-one",
                summary="masks of prototypes",
                family="outline",
                licence="none",
                build=build,
                recipe=RECIPE,
                size_divisor=CELL,
                masks=True,
            )
        ]


def outline_host(plugin: object | None = None) -> PluginHost:
    given = plugin or OutlinePlugin()
    return PluginHost([*first_party_candidates(), Candidate("outline", "outline", "1", "entry point", lambda: given)])


# ---- drawn data ---------------------------------------------------------------------------------------------------


def draw_shapes(rng: np.random.Generator, size: tuple[int, int]) -> tuple[NDArray[np.uint8], list[tuple[str, Any]]]:
    """uint8 RGB [H, W, 3], and (class name, bool [H, W]) of each shape; none covers another."""
    height, width = size
    picture = rng.normal(110, 6, (height, width, 3))
    taken = np.zeros(size, bool)
    shapes: list[tuple[str, Any]] = []
    for _ in range(int(rng.integers(2, 5))):
        radius = int(rng.integers(9, 14)) * min(size) // 60
        x, y = int(rng.integers(radius, width - radius)), int(rng.integers(radius, height - radius))
        name = CLASSES[int(rng.integers(2))]
        mask = np.zeros(size, np.uint8)
        if name == "disc":
            cv2.circle(mask, (x, y), radius, 1, -1)
        else:
            corners = [[x - radius, y + radius], [x + radius, y + radius], [x - radius, y - radius]]
            cv2.fillPoly(mask, [np.array(corners)], 1)
        around = cv2.dilate(mask, np.ones((7, 7), np.uint8)).astype(bool)
        if (around & taken).any():
            continue
        taken |= mask.astype(bool)
        colour = (70, 110, 210) if name == "disc" else (200, 90, 70)
        picture[mask.astype(bool)] = np.array(colour) + rng.normal(0, 8, 3)
        shapes.append((name, mask.astype(bool)))
    return np.clip(picture, 0, 255).astype(np.uint8), shapes


def write_shapes(folder: Path, count: int, seed: int, *, masks: bool = True) -> Path:
    """PNG files, wide and tall, and `_annotations.coco.json`. masks: with RLE of the drawn pixels."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    for number in range(count):
        picture, shapes = draw_shapes(rng, (60, 80) if number % 2 else (88, 64))
        cv2.imwrite(str(folder / f"{number}.png"), picture[..., ::-1])
        size = {"width": picture.shape[1], "height": picture.shape[0]}
        images.append({"id": number + 1, "file_name": f"{number}.png", **size})
        for name, mask in shapes:
            rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
            counts = rle["counts"]
            coded = {"size": list(rle["size"]), "counts": counts.decode() if isinstance(counts, bytes) else counts}
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 1,
                    "category_id": CLASSES.index(name) + 1,
                    "bbox": coco_mask.toBbox(rle).tolist(),
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                    **({"segmentation": coded} if masks else {}),
                }
            )
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(CLASSES)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "_annotations.coco.json").write_text(json.dumps(document))
    return folder


def write_data(folder: Path, counts: tuple[int, int, int] = (64, 16, 12)) -> Path:
    for seed, (split, count) in enumerate(zip(("train", "valid", "test"), counts, strict=True)):
        write_shapes(folder / split, count, seed)
    return folder


SIZE = (64, 64)


def values_for(data: Path, **more: Any) -> dict[str, Any]:
    """Of a run of the small detector on these data."""
    plain = {"model.type": "outline:outline-one", "data.local.path": str(data), "training.resolution": list(SIZE)}
    return {**plain, "training.batch_size": 4, "data.num_workers": 0, **more}


def dataset_at(data: Path, host: PluginHost) -> Dataset:
    return load_dataset(resolve(host, [mapping_layer(values_for(data))]), host)
