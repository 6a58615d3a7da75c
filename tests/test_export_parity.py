"""What counts as the same boxes: whatever their order, and whatever the last bits chose among ties."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from detloom.data.dataset import ClassMap
from detloom.deploy import DetectorRuntime
from detloom.export.gate import FULL_LIMITS, _parity_reasons
from detloom.export.parity import Difference, compare
from detloom.geometry import InputRule, PostRule
from detloom.prediction import Predictor, Raw
from detloom.specs import ExportRequest, ModelContext
from detloom_plugins.exporters.onnx.settings import OnnxSettings
from detloom_plugins.exporters.onnx.writer import OnnxExporter
from detloom_plugins.models import yolox
from detloom_plugins.models.yolox.settings import YoloxSegSettings
from detloom_plugins.runtimes.onnxruntime.session import OnnxRuntime
from yolox_tools import LOSSES, VARIANTS

NAMES = ("a", "b")
SIZE = (96, 160)
PICTURE = np.zeros((*SIZE, 3), dtype=np.uint8)
Boxes = NDArray[np.float32]


class Says:
    """A runtime that gives what it was told."""

    batch_limit = None
    manifest = None

    def __init__(self, boxes: Boxes, scores: Boxes, masks: Boxes | None = None) -> None:
        self.raw = Raw(boxes[None], scores[None], None if masks is None else masks[None])

    def __call__(self, images: NDArray[np.float32]) -> Raw:
        return self.raw


def spread(count: int = 200) -> tuple[Boxes, Boxes, Boxes]:
    """Boxes, scores and masks, all different."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 60, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(8, 30, (count, 2))], axis=1)
    scores = rng.permutation(np.linspace(0.001, 0.25, count * 2)).reshape(count, 2)
    return boxes.astype(np.float32), scores.astype(np.float32), rng.normal(size=(count, 4, 6)).astype(np.float32)


def difference(ours: Says, theirs: Says) -> Difference:
    rule = PostRule(kind="topk", score_threshold=0.5, nms_threshold=0.7, max_detections=100)
    mine, other = (
        Predictor(one, InputRule(size=SIZE, resize="stretch"), rule, ClassMap((1, 2), NAMES))  # type: ignore[arg-type]
        for one in (ours, theirs)
    )
    return compare(mine, other, [PICTURE])


def refused(case: Difference) -> str:
    return "".join(_parity_reasons([case], FULL_LIMITS))


def test_an_order_is_no_difference() -> None:
    boxes, scores, masks = spread()
    order = np.random.default_rng(1).permutation(len(boxes))
    found = difference(Says(boxes, scores, masks), Says(boxes[order], scores[order], masks[order]))
    assert (found.max_box_px, found.max_score, found.max_mask, found.paired) == (0.0, 0.0, 0.0, 1.0)
    assert found.detections == 0 and refused(found) == ""


@pytest.mark.parametrize("kind", ["box", "score", "mask", "class"])
def test_one_wrong_number_of_a_sure_box_is_found_in_any_order(kind: str) -> None:
    boxes, scores, masks = (values.copy() for values in spread())
    surest = int(scores.max(axis=1).argmax())
    order = np.random.default_rng(1).permutation(len(boxes))
    right = Says(boxes.copy(), scores.copy(), masks.copy())
    if kind == "box":
        boxes[surest, 2] += 3.0
    elif kind == "score":
        scores[surest] -= 0.02
    elif kind == "mask":
        masks[surest, 1, 1] += 2.0
    else:
        scores[surest] = scores[surest, ::-1]
    found = difference(right, Says(boxes[order], scores[order], masks[order]))
    assert refused(found).startswith({"box": "a box", "mask": "a mask"}.get(kind, "a score"))
    if kind == "box":
        assert found.max_box_px == pytest.approx(3.0, abs=1e-4)


def test_a_box_that_only_lost_a_tie_is_no_difference() -> None:
    """Both chose 200 of 210 boxes; 20 of them were tied at the end of the list."""
    boxes, scores, masks = spread(210)
    low = np.argsort(scores.max(axis=1))[:20]
    scores[low] = scores.max(axis=1)[low].max()
    scores[:] = np.where(np.isin(np.arange(210), low)[:, None], scores, scores + 0.05)
    first, second = np.delete(np.arange(210), low[:10]), np.delete(np.arange(210), low[10:])
    found = difference(*(Says(boxes[rows], scores[rows], masks[rows]) for rows in (first, second)))
    assert refused(found) == ""


def test_boxes_that_are_all_tied_prove_nothing() -> None:
    boxes, scores, masks = spread()
    scores[:] = 0.01
    elsewhere = np.roll(boxes, 40, axis=1)[:, [1, 0, 3, 2]] * 0.3
    found = difference(Says(boxes, scores, masks), Says(elsewhere.astype(np.float32), scores, masks))
    assert found.paired < 0.5 and "name images that show objects" in refused(found)


@pytest.mark.parametrize("where", ["sure box", "score"])
def test_what_is_no_number_cannot_be_compared(where: str) -> None:
    boxes, scores, masks = (values.copy() for values in spread())
    right = Says(boxes.copy(), scores.copy(), masks.copy())
    surest = int(scores.max(axis=1).argmax())
    (boxes if where == "sure box" else scores)[surest] = np.nan
    found = difference(right, Says(boxes, scores, masks))
    assert refused(found).startswith("a box differs" if where == "sure box" else "the file's boxes and scores cannot")


def test_a_picture_of_nothing_does_not_condemn_a_right_file(tmp_path: Path) -> None:
    """On plain grey the anchors are tied, and a graph may choose others of them."""
    torch.manual_seed(0)
    model = yolox.build_seg(VARIANTS["nano"], YoloxSegSettings(), ModelContext(NAMES, SIZE, LOSSES)).eval()
    path = OnnxExporter(OnnxSettings()).export(model, ExportRequest(tmp_path / "m", SIZE, False, False, {}))
    grey = np.full((*SIZE, 3), 128, dtype=np.uint8)
    ours, theirs = (
        Predictor(runtime, model.input_rule, model.post_rule, ClassMap((1, 2), NAMES))
        for runtime in (DetectorRuntime(model), OnnxRuntime(path, "cpu"))
    )
    found = compare(ours, theirs, [grey, grey])
    assert found.detections == 0 and refused(found) == ""
    order = [decoded.scores.max(axis=2) for decoded in (ours.decode([grey]), theirs.decode([grey]))]
    assert np.ptp(order[0]) < 0.01, "the scores are as good as tied"
